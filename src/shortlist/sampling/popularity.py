"""Negatives drawn by popularity: frequent items are drawn more often."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.errors import ModelError
from shortlist.sampling.alias import AliasTable
from shortlist.sampling.base import (
    Exactness,
    Negatives,
    check_negatives,
    frequencies,
    log_expected,
    pool_shape,
)

Alpha = Annotated[float, Field(ge=0, description="Popularity sampling draws by count^alpha.")]
"""Type of the option `alpha`, shared by the samplers that have it."""


@dataclass(frozen=True, eq=False)
class PopularitySampler:
    """Independent draws with replacement, with probability proportional to count^alpha.

    alpha = 0.75 is that of word2vec (Mikolov et al. 2013), 1 has the distribution of in-batch
    negatives, and 0 is uniform. These negatives are harder than uniform ones, because popular items
    are relevant to many users. Without the correction popular items get scores that are too low.

    frequency: probability of each item row at a draw, [N + 1].
    table: draws from this distribution in constant time.
    negatives: number of draws, M.
    shared: one pool for the whole batch (True), or one for each row.
    """

    frequency: Tensor
    table: AliasTable
    negatives: int
    shared: bool

    refuses: ClassVar[dict[str, str]] = {}
    exactness: ClassVar[Exactness] = Exactness(
        "exact", "slots are independent draws from a known law, and hits stay in"
    )

    @classmethod
    def from_counts(
        cls, counts: Tensor, *, negatives: int = 512, alpha: Alpha = 0.75, shared: bool = True
    ) -> Self:
        """Build from training counts of item rows, [N + 1]; rows with count 0 are never drawn."""
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise ModelError(f"alpha must be >= 0 and finite, got {alpha}")
        seen = frequencies(counts)
        weights = seen.pow(alpha).masked_fill(seen == 0, 0.0)
        return cls.from_weights(weights, negatives=negatives, shared=shared)

    @classmethod
    def from_weights(cls, weights: Tensor, *, negatives: int, shared: bool) -> Self:
        """Build with probabilities proportional to weights [N + 1], weights[0] = 0."""
        check_negatives(negatives)
        frequency = frequencies(weights)
        return cls(frequency, AliasTable.of(frequency), negatives, shared)

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Draw [M] or [B, M] item rows."""
        shape = pool_shape(batch, self.negatives, self.shared)
        chance = torch.rand(
            shape, generator=generator, device=generator.device, dtype=torch.float64
        ).to(batch.positive.device)
        ids = self.table.rows(chance)
        return Negatives.drawn(ids, self.log_q(ids, batch))

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return log(M·Q) for each id."""
        return log_expected(self.frequency, ids, self.negatives)
