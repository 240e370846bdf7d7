"""Columns to vectors: each declared feature of an entity becomes one field."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import embedding_bag

from shortlist.data.features import Encoder, Features
from shortlist.data.ragged import Ragged

INITIAL_STD = 0.05


def embedding(rows: int, dim: int) -> nn.Embedding:
    """Return a table whose row 0 (unknown, padding) is zero and stays zero."""
    table = nn.Embedding(rows, dim, padding_idx=0)
    with torch.no_grad():
        table.weight.normal_(std=INITIAL_STD)
        table.weight[0].zero_()
    return table


def rows_read(history: Ragged, table: nn.Embedding | Tensor) -> tuple[Ragged, Tensor]:
    """Return the history and the weights [N + 1, D] to read it with.

    Of a table with sparse gradients, in training: the rows it reads alone, [n + 1, D], and the
    history renumbered to them; row 0 stays row 0. So no gradient has the size of the table.
    """
    if isinstance(table, Tensor):
        return history, table
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
    numeric (value, missing) and pretrained vectors: a linear map. Unknown values are zeros.
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
