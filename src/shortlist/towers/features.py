"""Columns to vectors: each declared feature of an entity becomes one field."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import embedding_bag

from shortlist.data.features import Encoder, Features
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError

INITIAL_STD = 0.05

Table = TypeVar("Table", bound=nn.Embedding)


def embedding(rows: int, dim: int) -> nn.Embedding:
    """Return a table whose row 0 (unknown, padding) is zero and stays zero."""
    return _begun(nn.Embedding(rows, dim, padding_idx=0))


def item_table(rows: int, dim: int) -> "ItemTable":
    """Return such a table of item ids."""
    return _begun(ItemTable(rows, dim, padding_idx=0))


def _begun(table: Table) -> Table:
    with torch.no_grad():
        table.weight.normal_(std=INITIAL_STD)
        table.weight[0].zero_()
    return table


class ItemTable(nn.Embedding):
    """A table of item ids. In training its rows may lie elsewhere: it is lent those of each step.

    Without a loan it is a table like any other.
    """

    _rows: Tensor | None = None
    _lent: Tensor | None = None

    def lend(self, rows: Tensor, vectors: Tensor) -> None:
        """Read these rows (sorted, the first is 0) [n] as vectors [n, D], until `take_back`."""
        self._rows, self._lent = rows, vectors

    def take_back(self) -> Tensor:
        """Return the gradient of the vectors that were lent, [n, D]; they are read no more."""
        assert self._lent is not None
        lent, self._rows, self._lent = self._lent, None, None
        return torch.zeros_like(lent) if lent.grad is None else lent.grad

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of these rows, [*, D]."""
        if self._rows is None or self._lent is None:
            return super().forward(ids)
        return functional.embedding(_places(ids, self._rows), self._lent)

    def renumbered(self, history: Ragged) -> tuple[Ragged, Tensor] | None:
        """Return a history by the places of what is lent, and that; None if nothing is."""
        if self._rows is None or self._lent is None:
            return None
        return Ragged(_places(history.values, self._rows), history.offsets), self._lent


def _places(ids: Tensor, rows: Tensor) -> Tensor:
    """Where ids stand among sorted rows [n]. Errors: ModelError for one that is not there."""
    place = torch.searchsorted(rows, ids).clamp(max=len(rows) - 1)
    if not torch.equal(rows[place], ids):
        raise ModelError(
            "a tower reads a row of a table of items that was not asked for in this step: take "
            "training.optimizer = 'row-wise'"
        )
    return place


def rows_read(history: Ragged, table: nn.Embedding | Tensor) -> tuple[Ragged, Tensor]:
    """Return the history and the weights [N + 1, D] to read it with.

    Of a table with sparse gradients, in training: the rows it reads alone, [n + 1, D], and the
    history renumbered to them; row 0 stays row 0. So no gradient has the size of the table.
    """
    if isinstance(table, Tensor):
        return history, table
    if isinstance(table, ItemTable) and (lent := table.renumbered(history)) is not None:
        return lent
    if not (table.sparse and torch.is_grad_enabled()):
        return history, table.weight
    place = torch.zeros(table.num_embeddings, dtype=torch.int64, device=history.values.device)
    place[0] = 1
    place[history.values] = 1
    read = place.nonzero().squeeze(1)
    place[read] = torch.arange(len(read), device=read.device)
    weights = functional.embedding(read, table.weight, padding_idx=0, sparse=True)
    return Ragged(place[history.values], history.offsets), weights


class Fields(nn.Module):
    """The declared features side by side: [B, fields * dim].

    Categorical: an embedding; multi-valued: the mean of its values' embeddings (none: zeros);
    numeric (value, missing), pretrained vectors and those of texts: a linear map. Unknown values
    are zeros.
    """

    def __init__(self, encoders: Mapping[str, Encoder], dim: int) -> None:
        super().__init__()
        self.names = tuple(encoders)
        self.width = dim * len(self.names)
        self.maps = nn.ModuleList(
            embedding(encoder.width, dim)
            if encoder.kind in ("categorical", "multi-valued")
            else nn.Linear(encoder.width, dim)
            for encoder in encoders.values()
        )

    def forward(self, features: Features) -> Tensor:
        """Return the fields of B entities, [B, fields * dim]."""
        return torch.cat(
            [
                _field(table, features[name])
                for name, table in zip(self.names, self.maps, strict=True)
            ],
            dim=1,
        )


def _field(table: nn.Module, column: Tensor | Ragged) -> Tensor:
    if isinstance(column, Ragged):
        assert isinstance(table, nn.Embedding)
        column, weight = rows_read(column, table)
        return embedding_bag(column.values, weight, column.offsets[:-1], mode="mean", padding_idx=0)
    field: Tensor = table(column)
    return field
