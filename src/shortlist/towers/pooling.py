"""Pooled histories: the items a user met, summed by how long ago they were met."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from shortlist.config import Model
from shortlist.data.ragged import Ragged


class RecencyPooling(nn.Module):
    """The latest event, the two before it, the four before those...: one sum a segment.

    Segment k holds 2^k events, so that a linear map over the segments can learn any smooth decay
    and treat the last event apart, at the price of one embedding bag. A pooled history in the
    spirit of YouTube DNN (Covington et al. 2016), which has a single segment: MeanPooling.
    A sum of n events is divided by sqrt(n): its length then says little about n, where a mean
    would fade as tastes spread. In training a share `history_dropout` of the events is left out.
    """

    causal: ClassVar[Literal[False]] = False

    def __init__(self, shape: Model) -> None:
        super().__init__()
        edges = [0]
        while edges[-1] < shape.history_length:
            edges.append(min(2 * edges[-1] + 1, shape.history_length))
        self.segments = len(edges) - 1
        self.dropout = shape.history_dropout
        self.register_buffer("edges", torch.tensor(edges), persistent=False)
        self.edges: Tensor

    def forward(self, history: Ragged, table: Tensor) -> Tensor:
        """Return [B, K, D], the latest segment first; no list may be longer than `length`.

        table: item embeddings [N + 1, D], row 0 unknown and zero.
        """
        length = history.lengths[:, None]
        # Lists run oldest first, so within a list the bounds of the segments fall from K to 0.
        bounds = history.offsets[1:, None] - torch.minimum(length, self.edges.flip(0))
        weights = None
        if self.training and self.dropout > 0:
            weights = torch.rand(history.values.shape, device=length.device) >= self.dropout
            weights = weights.to(table.dtype)
        summed = embedding_bag(
            history.values,
            table,
            bounds[:, :-1].flatten(),
            mode="sum",
            padding_idx=0,
            per_sample_weights=weights,
        ).view(len(length), self.segments, table.shape[1])
        count = bounds.diff(dim=1).clamp(min=1)
        return (summed / count.sqrt()[:, :, None]).flip(1)


class MeanPooling(RecencyPooling):
    """All events alike, in one segment: for logs without an order, or as the plain baseline."""

    def __init__(self, shape: Model) -> None:
        super().__init__(shape)
        self.segments = 1
        self.register_buffer("edges", torch.tensor([0, shape.history_length]), persistent=False)
