"""What do the features of a past event do to its vector? They scale and shift it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shortlist.data.event_columns import EventEncoder, as_inputs
from shortlist.data.ragged import Ragged
from shortlist.towers.features import Fields
from shortlist.towers.mlp import mlp


class PastEvents(nn.Module):
    """The vector of each past event, by its features: in one place for all that reads histories.

    A perceptron over the features gives a number between 0 and 2 that the item's vector is
    multiplied with, so that a glance can count for nothing, and a vector that is added. It starts
    with 1 and zeros: training begins from the model that reads no features.
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
        """Return the histories as rows of a table of their own events, and that, [total + 1, D].

        table: what the items are read with, [N + 1, D]; columns: of each event, [total]. Row 0 is
        zero, and so is an event of an unknown item.
        """
        found = self.top(self.fields(as_inputs(columns)))
        vectors = table.index_select(0, history.values)
        vectors = vectors * (2 * found[:, -1:].sigmoid()) + found[:, :-1]
        vectors = vectors.masked_fill((history.values == 0).unsqueeze(1), 0.0)
        rows = torch.arange(1, len(vectors) + 1, device=vectors.device)
        table = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])
        return Ragged(rows, history.offsets), table
