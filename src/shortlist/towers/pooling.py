"""Pooled histories: the items a user met, summed by how long ago they were met."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from shortlist.data.ragged import Ragged
from shortlist.sections.model import CommonModel


class RecencyPooling(nn.Module):
    """The latest event, the two before it, the four before those...: one sum a segment.

    Segment k holds 2^k events, so that a linear map over the segments can learn any smooth decay
    and treat the last event apart, at the price of one embedding bag. A pooled history in the
    spirit of YouTube DNN (Covington et al. 2016), which has a single segment: MeanPooling.
    A sum of n events is divided by sqrt(n): its length then says little about n, where a mean
    would fade as tastes spread. In training a share `history_dropout` of the events is left out.

    Asked after many events of a history, it takes each sum as the difference of two running ones.
    """

    causal: ClassVar[Literal[False]] = False

    def __init__(self, shape: CommonModel) -> None:
        super().__init__()
        edges = [0]
        while edges[-1] < shape.history_length:
            edges.append(min(2 * edges[-1] + 1, shape.history_length))
        self.segments = len(edges) - 1
        self.dropout = shape.history_dropout
        self.register_buffer("edges", torch.tensor(edges), persistent=False)
        self.edges: Tensor

    def forward(self, history: Ragged, table: Tensor, place: Tensor | None = None) -> Tensor:
        """Return [B, K, D], the latest segment first, of the latest `length` events.

        table: item embeddings [N + 1, D], row 0 unknown and zero. place: after which events it is
        asked, [B], positions in history.values; without it after the last of each list, none of
        which may be longer than `length`.
        """
        end, length = history.offsets[1:], history.lengths
        if place is not None:
            end = place + 1
            length = end - history.offsets[history.owners()[place]]
        # Lists run oldest first, so within a list the bounds of the segments fall from K to 0.
        bounds = end[:, None] - torch.minimum(length[:, None], self.edges.flip(0))
        weights = None
        if self.training and self.dropout > 0:
            weights = torch.rand(history.values.shape, device=length.device) >= self.dropout
            weights = weights.to(table.dtype)
        if place is None:
            summed = embedding_bag(
                history.values,
                table,
                bounds[:, :-1].flatten(),
                mode="sum",
                padding_idx=0,
                per_sample_weights=weights,
            ).view(len(length), self.segments, table.shape[1])
        else:
            read = embedding(history.values, table, padding_idx=0)
            summed = _between(read if weights is None else read * weights[:, None], bounds)
        count = bounds.diff(dim=1).clamp(min=1)
        return (summed / count.sqrt()[:, :, None]).flip(1)


def _between(values: Tensor, bounds: Tensor) -> Tensor:
    """Return sums of runs of values [total, D], from each bound to the next: [B, K, D].

    bounds: [B, K + 1], ascending. The running sums are float64: their differences keep the digits
    of the values, however long the lists.
    """
    running = torch.cumsum(values, 0, dtype=torch.float64)
    running = torch.cat([running.new_zeros(1, values.shape[1]), running])
    at = running.index_select(0, bounds.flatten()).view(*bounds.shape, values.shape[1])
    return at.diff(dim=1).to(values.dtype)


class MeanPooling(RecencyPooling):
    """All events alike, in one segment: for logs without an order, or as the plain baseline."""

    def __init__(self, shape: CommonModel) -> None:
        super().__init__(shape)
        self.segments = 1
        self.register_buffer("edges", torch.tensor([0, shape.history_length]), persistent=False)
