"""How is a history pooled? Item embeddings are summed by segments of recency."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from shortlist.data.ragged import Ragged
from shortlist.sections.model import CommonModel


class RecencyPooling(nn.Module):
    """Sums of the latest event, of the two before it, of the four before those, and so on.

    Segment k holds 2^k events, so a linear map over the segments can learn any smooth decay and can
    treat the latest event separately, at the cost of one embedding bag. YouTube DNN (Covington et
    al. 2016) has a single segment, see MeanPooling. A sum of n events is divided by sqrt(n): a mean
    would get shorter the more varied the items are. In training a share `history_dropout` of the
    events is removed.

    With `place`, each sum is the difference of two running sums.
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
        """Return the sums of the latest model.history_length events, [B, K, D].

        The segment of the latest event comes first.

        history: item rows, oldest first; without `place` no list is longer than history_length.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        place: positions in history.values up to which each row pools, [B]; None pools whole lists.
        """
        end, length = history.offsets[1:], history.lengths
        if place is not None:
            end = place + 1
            length = end - history.offsets[history.owners()[place]]
        # Lists are oldest first, so segment K comes first in a list, and segment 0 last.
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
    """Return the sums of values [total, D] between consecutive bounds, [B, K, D].

    The running sums are float64, so their differences keep float32 precision in long lists.

    bounds: positions, [B, K + 1], ascending.
    """
    running = torch.cumsum(values, 0, dtype=torch.float64)
    running = torch.cat([running.new_zeros(1, values.shape[1]), running])
    at = running.index_select(0, bounds.flatten()).view(*bounds.shape, values.shape[1])
    return at.diff(dim=1).to(values.dtype)


class MeanPooling(RecencyPooling):
    """One segment with equal weight for all events: for logs without order, or as a baseline."""

    def __init__(self, shape: CommonModel) -> None:
        super().__init__(shape)
        self.segments = 1
        self.register_buffer("edges", torch.tensor([0, shape.history_length]), persistent=False)
