"""GRU4Rec: a recurrent network over a history gives a vector after each event."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from shortlist.data.ragged import Ragged
from shortlist.sections.model import CommonModel
from shortlist.towers.base import Layers
from shortlist.towers.noise import dropout
from shortlist.towers.padding import Padded


class GRU(nn.Module):
    """GRU4Rec (Hidasi et al. 2016): the state of a gated recurrent unit after each event.

    Compared with Attention, its cost grows linearly with the length of a history and not
    quadratically, but events are processed one after the other. Like Attention it reads normalized
    item embeddings. The state is the user vector without a further layer, so each of its numbers
    is between -1 and 1.
    """

    causal: ClassVar[Literal[True]] = True

    def __init__(self, shape: CommonModel, *, history_layers: Layers = 2) -> None:
        super().__init__()
        self.width = shape.dim
        self.event_dropout = shape.history_dropout
        self.dropout = shape.dropout
        self.layers = nn.GRU(
            shape.dim,
            shape.dim,
            num_layers=history_layers,
            dropout=shape.dropout if history_layers > 1 else 0.0,
            batch_first=True,
        )

    def forward(self, history: Ragged, table: Tensor) -> Tensor:
        """Return the state after each event, [total, D]; it does not depend on later events.

        history: item rows, oldest first.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        """
        padded = Padded.of(history)
        read = normalize(table.index_select(0, history.values), dim=1) * math.sqrt(self.width)
        if self.training and self.event_dropout > 0:
            read = read * (torch.rand(len(read), 1, device=read.device) >= self.event_dropout)
        # Padding is after the events, so it does not influence their states.
        states, _ = self.layers(padded.spread(dropout(read, self.dropout, self.training)))
        return padded.gather(states)
