"""How do the features of a user or an item become a vector? Each one becomes a field."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import embedding_bag

from shortlist.data.features import Encoder, Features
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError

INITIAL_STD = 0.05
"""Standard deviation of the initial embeddings."""

DRAWN_AT_A_TIME = 1 << 16
"""Rows of a table that are drawn at a time when only some of them are kept."""

Table = TypeVar("Table", bound=nn.Embedding)


def embedding(rows: int, dim: int) -> nn.Embedding:
    """Return an embedding table [rows, dim] whose row 0 (unknown, padding) stays zero."""
    return _initialised(nn.Embedding(rows, dim, padding_idx=0))


def item_table(rows: int, dim: int) -> "ItemTable":
    """Return an embedding table of item ids [rows, dim] whose row 0 (unknown) stays zero.

    Within `keeping_rows` its weight holds only some of these rows.
    """
    if not _kept:
        return _initialised(ItemTable(rows, dim, padding_idx=0))
    table = ItemTable(rows, dim, padding_idx=0, device="meta")
    table.weight = nn.Parameter(_part_drawn(rows, dim, _kept[-1](rows)))
    return table


_kept: list[Callable[[int], slice]] = []


@contextmanager
def keeping_rows(part: Callable[[int], slice]) -> Iterator[None]:
    """Let item tables that are made in the `with` block keep only a part of their rows.

    The numbers are those that the whole table would have, which is never in memory.

    part: returns the rows to keep of a table with so many rows.
    """
    _kept.append(part)
    try:
        yield
    finally:
        _kept.pop()


def _part_drawn(rows: int, dim: int, kept: slice) -> Tensor:
    """Return some rows of the table that `_initialised` gives, [n, dim], drawn block by block."""
    part = torch.empty(kept.stop - kept.start, dim)
    starts = list(range(0, max(rows - DRAWN_AT_A_TIME, 0) + 1, DRAWN_AT_A_TIME))
    with torch.no_grad():
        for _ in range(2):  # nn.Embedding draws its numbers before `_initialised` does
            for start, stop in zip(starts, [*starts[1:], rows], strict=True):
                drawn = torch.empty(stop - start, dim).normal_(std=INITIAL_STD)
                if start == 0:
                    drawn[0].zero_()
                first, last = max(start, kept.start), min(stop, kept.stop)
                if first < last:
                    part[first - kept.start : last - kept.start] = drawn[
                        first - start : last - start
                    ]
    return part


def _initialised(table: Table) -> Table:
    with torch.no_grad():
        table.weight.normal_(std=INITIAL_STD)
        table.weight[0].zero_()
    return table


class ItemTable(nn.Embedding):
    """An embedding table of item ids that can read the rows of a step from outside.

    Training with sharded tables passes the rows of each step to `lend`. Otherwise it is a plain
    nn.Embedding.
    """

    _rows: Tensor | None = None
    _lent: Tensor | None = None

    def lend(self, rows: Tensor, vectors: Tensor) -> None:
        """Use the given vectors instead of the table's own, until `take_back`.

        rows: the available rows, sorted, [n]; the first one is 0.
        vectors: their vectors, [n, D].
        """
        self._rows, self._lent = rows, vectors

    def take_back(self) -> Tensor:
        """Stop using the vectors given to `lend`, and return their gradient, [n, D]."""
        assert self._lent is not None
        lent, self._rows, self._lent = self._lent, None, None
        return torch.zeros_like(lent) if lent.grad is None else lent.grad

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of item rows [*], [*, D]."""
        if self._rows is None or self._lent is None:
            return super().forward(ids)
        return functional.embedding(_places(ids, self._rows), self._lent)

    def renumbered(self, history: Ragged) -> tuple[Ragged, Tensor] | None:
        """Return a history as positions in the lent vectors, and these; None without any."""
        if self._rows is None or self._lent is None:
            return None
        return Ragged(_places(history.values, self._rows), history.offsets), self._lent


def _places(ids: Tensor, rows: Tensor) -> Tensor:
    """Return the positions of ids in sorted rows [n]. Errors: ModelError for a missing id."""
    place = torch.searchsorted(rows, ids).clamp(max=len(rows) - 1)
    if not torch.equal(rows[place], ids):
        raise ModelError(
            "a tower reads a row of a sharded item table that was not fetched for this step: take "
            "training.optimizer = 'row-wise'"
        )
    return place


def rows_read(history: Ragged, table: nn.Embedding | Tensor) -> tuple[Ragged, Tensor]:
    """Return a history and the weights [N + 1, D] to look it up in.

    For a table with sparse gradients, in training, it returns only the rows in use, [n + 1, D], and
    a history of positions in them; row 0 stays row 0. So the gradient is not as large as the table.
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
    """The declared features as concatenated fields, [B, fields * dim].

    A categorical feature becomes an embedding. A multi-valued one becomes the mean of its values'
    embeddings, or zeros without values. Numeric features (value and a flag for missing), pretrained
    vectors and text vectors go through a linear map. Unknown values become zeros.

    encoders: the encoder of each feature by name.
    dim: width of a field.
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
