"""Multi-interest towers: K vectors per user; an item's score is the best of the K scores."""

import math
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from shortlist.data.ragged import Ragged
from shortlist.sections.model import CommonModel
from shortlist.towers.padding import Padded

INTERESTS = 4
"""Default of the option `interests` (Cen et al. 2020)."""

Interests = Annotated[
    int,
    Field(
        ge=1,
        le=64,
        description=f"Number of vectors per user. Unset: {INTERESTS}.",
        examples=[INTERESTS],
    ),
]
"""Type of the option `interests`."""

WIDENING = 4
"""Width of the attention's hidden layer, in multiples of the vectors' width (Cen et al. 2020)."""

ROUNDS = 3
"""Number of routing iterations (Li et al. 2019)."""


class SelfAttentiveInterests(nn.Module):
    """ComiRec-SA (Cen et al. 2020): each interest is a learned attention over the events.

    Interest k is the weighted mean of the item embeddings. The weights are a softmax over the
    events of w_k · tanh(W (e + p)), where e is the normalized item embedding and p the embedding of
    the position, counted from the latest event. With one interest it is an attention-pooled
    history.
    """

    causal: ClassVar[Literal[False]] = False

    def __init__(self, shape: CommonModel, *, interests: Interests | None = None) -> None:
        super().__init__()
        self.interests = interests or INTERESTS
        self.event_dropout = shape.history_dropout
        self.position = nn.Parameter(torch.zeros(shape.history_length, shape.dim))
        self.widen = nn.Linear(shape.dim, WIDENING * shape.dim, bias=False)
        self.weigh = nn.Linear(WIDENING * shape.dim, self.interests, bias=False)
        for layer in (self.widen, self.weigh):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))

    def forward(self, history: Ragged, table: Tensor) -> Tensor:
        """Return [B, K, D]; an empty history gives zeros. No list may be longer than `length`.

        table: item embeddings [N + 1, D], row 0 unknown and zero.
        """
        events = _Events.of(history, table, self.event_dropout if self.training else 0.0)
        # Not position[age]: with threads, its gradient is summed in a varying order.
        seen = normalize(events.vectors, dim=1) * math.sqrt(table.shape[1])
        seen = seen + self.position.index_select(0, events.age)
        logits = events.padded.spread(self.weigh(self.widen(seen).tanh()))  # [B, L, K]
        # A history without events keeps its logits: the vectors that they weight are zero.
        present = events.present
        left_out = ~present & present.any(dim=1, keepdim=True)
        weights = logits.masked_fill(left_out.unsqueeze(2), float("-inf")).softmax(dim=1)
        return torch.einsum("blk,bld->bkd", weights, events.padded.spread(events.vectors))


class RoutedInterests(nn.Module):
    """MIND (Li et al. 2019): dynamic routing of events to capsules of similar events.

    An event is a learned linear map of its normalized item embedding. An interest is the squashed
    sum of the events, weighted by their shares. ROUNDS routing iterations raise an event's share
    of the interests that it agrees with; the first iteration uses fixed random logits per position
    from the end. No gradient passes through the shares. A history of n events has at most log2(n)
    interests, at least 1; the missing ones repeat the first one, which does not change a maximum.
    """

    causal: ClassVar[Literal[False]] = False

    def __init__(self, shape: CommonModel, *, interests: Interests | None = None) -> None:
        super().__init__()
        self.interests = interests or INTERESTS
        self.event_dropout = shape.history_dropout
        self.map = nn.Linear(shape.dim, shape.dim, bias=False)
        nn.init.eye_(self.map.weight)  # an interest starts as a mean of items
        self.start: Tensor  # part of the model, saved in bundles
        self.register_buffer("start", torch.randn(shape.history_length, self.interests))

    def forward(self, history: Ragged, table: Tensor) -> Tensor:
        """Return [B, K, D]; an empty history gives zeros. No list may be longer than `length`.

        table: item embeddings [N + 1, D], row 0 unknown and zero.
        """
        events = _Events.of(history, table, self.event_dropout if self.training else 0.0)
        mapped = events.padded.spread(self.map(normalize(events.vectors, dim=1)))  # [B, L, D]
        present = events.present
        count = present.sum(dim=1, keepdim=True)
        closed = count < 2.0 ** torch.arange(1, self.interests + 1, device=count.device)  # [B, K]
        closed[:, 0] = False
        start = events.padded.spread(self.start.index_select(0, events.age))
        shares = _routed(mapped.detach(), start, present, closed)
        found = _squashed(torch.einsum("blk,bld->bkd", shares, mapped))
        return torch.where(closed.unsqueeze(2), found[:, :1], found)


@torch.no_grad()
def _routed(mapped: Tensor, start: Tensor, present: Tensor, closed: Tensor) -> Tensor:
    """Return the share of each event that each interest gets, [B, L, K]; 0 for padding.

    mapped: mapped events, [B, L, D].
    start: logits of the first iteration, [B, L, K].
    present: bool [B, L], True for events, False for padding.
    closed: bool [B, K], True for interests for which a history has too few events.
    """
    logits = start.masked_fill(closed.unsqueeze(1), float("-inf"))
    shares = _shared_out(logits, present)
    for _ in range(ROUNDS - 1):
        found = _squashed(torch.einsum("blk,bld->bkd", shares, mapped))
        logits = logits + torch.einsum("bld,bkd->blk", mapped, found)
        shares = _shared_out(logits, present)
    return shares


class _Events(NamedTuple):
    """The events of B histories, and their places in a rectangle [B, L].

    padded: the places.
    vectors: item embeddings, [total, D]; zero for events that dropout removes.
    kept: bool [total], False for events that dropout removes.
    age: int64 [total], number of later events in the same list.
    """

    padded: Padded
    vectors: Tensor
    kept: Tensor
    age: Tensor

    @classmethod
    def of(cls, history: Ragged, table: Tensor, left_out: float) -> "_Events":
        """Look the histories up in item embeddings [N + 1, D].

        left_out: share of the events that dropout removes.
        """
        kept = torch.ones_like(history.values, dtype=torch.bool)
        if left_out > 0:
            kept = torch.rand(kept.shape, device=kept.device) >= left_out
        read = table.index_select(0, history.values).masked_fill(~kept.unsqueeze(1), 0.0)
        places = torch.arange(len(kept), device=kept.device)
        age = history.offsets[1:][history.owners()] - 1 - places
        return cls(Padded.of(history), read, kept, age)

    @property
    def present(self) -> Tensor:
        """Return bool [B, L], True where the rectangle holds an event that is kept."""
        empty = self.kept.new_zeros(self.padded.rows * self.padded.length)
        filled = empty.index_copy(0, self.padded.slots, self.kept)
        return filled.view(self.padded.rows, self.padded.length)


def _shared_out(logits: Tensor, present: Tensor) -> Tensor:
    """Return the softmax over the interests, [B, L, K]; 0 where no event is present."""
    return logits.softmax(dim=2).masked_fill(~present.unsqueeze(2), 0.0)


def _squashed(vectors: Tensor) -> Tensor:
    """Shorten vectors [..., D] from length n to n² / (1 + n²) (Sabour et al. 2017)."""
    square = vectors.square().sum(dim=-1, keepdim=True)
    length = torch.where(square > 0, square, 1.0).sqrt()  # the gradient of sqrt(0) is infinite
    return vectors * (length / (1 + square)).masked_fill(square == 0, 0.0)
