"""Negatives drawn uniformly from the items seen in training."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import (
    Exactness,
    Negatives,
    check_negatives,
    frequencies,
    log_expected,
    pool_shape,
)


@dataclass(frozen=True, eq=False)
class UniformSampler:
    """Independent draws with replacement; each training item has the same probability.

    Most draws are easy negatives. Serving scores the same kind of items, so uniform draws are a
    sound part of any mixture. The correction is a constant, which affects the logistic losses only.

    items: item rows to draw from, [n].
    frequency: probability of each item row at a draw, [N + 1].
    negatives: number of draws, M.
    shared: one pool for the whole batch (True), or one for each row.
    """

    items: Tensor
    frequency: Tensor
    negatives: int
    shared: bool

    refuses: ClassVar[dict[str, str]] = {
        "alpha": "uniform draws every item alike; use sampler = 'popularity'"
    }
    exactness: ClassVar[Exactness] = Exactness(
        "exact", "slots are independent draws from a known law, and hits stay in"
    )

    @classmethod
    def from_counts(cls, counts: Tensor, *, negatives: int = 512, shared: bool = True) -> Self:
        """Build from training counts of item rows, [N + 1]; rows with count 0 are never drawn."""
        check_negatives(negatives)
        items = frequencies(counts).nonzero().squeeze(1)
        even = frequencies((counts > 0).double())
        return cls(items, even, negatives, shared)

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Draw [M] or [B, M] item rows."""
        shape = pool_shape(batch, self.negatives, self.shared)
        place = torch.randint(
            len(self.items), shape, generator=generator, device=generator.device
        ).to(batch.positive.device)
        ids = self.items.to(place.device)[place]
        return Negatives.drawn(ids, self.log_q(ids, batch))

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return log(M / n) for each id."""
        return log_expected(self.frequency, ids, self.negatives)
