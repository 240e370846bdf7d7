"""How do the features of a past event change its vector? They scale and shift it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shortlist.data.event_columns import EventEncoder, as_inputs
from shortlist.data.ragged import Ragged
from shortlist.towers.features import Fields
from shortlist.towers.mlp import mlp


class PastEvents(nn.Module):
    """Applies the features of past events to their vectors, for all towers of histories.

    A perceptron over the features gives a factor between 0 and 2 for the item's vector, so that
    weak events can be ignored, and a vector that is added. The factor starts at 1 and the added
    vector at zero, so that training starts as if there were no features.

    encoders: the encoder of each feature by name.
    dim: width of the vectors.
    """

    def __init__(self, encoders: Mapping[str, EventEncoder], dim: int) -> None:
        super().__init__()
        self.fields = Fields(encoders, dim)
        self.top = mlp(self.fields.width, (dim,), dim + 1, 0.0)
        last = self.top[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)

    def forward(
        self, history: Ragged, table: Tensor, columns: Mapping[str, Tensor]
    ) -> tuple[Ragged, Tensor]:
        """Return the histories as rows of a table of events, and this table, [total + 1, D].

        Row 0 of the table is zero, and so are events of unknown items.

        history: item rows, oldest first.
        table: item vectors, [N + 1, D].
        columns: encoded features of each event, [total] each.
        """
        found = self.top(self.fields(as_inputs(columns)))
        vectors = table.index_select(0, history.values)
        vectors = vectors * (2 * found[:, -1:].sigmoid()) + found[:, :-1]
        vectors = vectors.masked_fill((history.values == 0).unsqueeze(1), 0.0)
        rows = torch.arange(1, len(vectors) + 1, device=vectors.device)
        table = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])
        return Ragged(rows, history.offsets), table
