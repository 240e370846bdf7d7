"""Negatives from a weighted mixture of distributions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.errors import ModelError, suggest
from shortlist.sampling.base import Exactness, Negatives, frequencies
from shortlist.sampling.popularity import Alpha, PopularitySampler
from shortlist.sampling.uniform import UniformSampler
from shortlist.sections.base import Positive, Text

LAWS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "uniform": lambda counts, _: UniformSampler.from_counts(counts).frequency,
    "popularity": lambda counts, alpha: (
        PopularitySampler.from_counts(counts, alpha=alpha).frequency
    ),
    "in_batch": lambda counts, _: frequencies(counts),
}
"""Each distribution: from counts [N + 1] and alpha to probabilities of item rows, [N + 1]."""

Mixture = Annotated[
    dict[Text, Positive],
    Field(
        description='Distributions of the draws with their weights: "uniform", "popularity" or '
        '"in_batch" (as often as in the log). Unset: uniform for "mixed", which adds the draws to '
        'the batch; uniform and popularity in equal parts for "mixture".',
        examples=[{"uniform": 1.0, "popularity": 2.0}],
    ),
]
"""Type of the option `mixture`, shared by the samplers that have it."""


@dataclass(frozen=True, eq=False)
class MixtureSampler:
    """Independent draws from Σ w·Q over several distributions Q with the weights `mixture`.

    The distributions are "uniform", "popularity" (count^alpha) and "in_batch" (as in the log).

    Relations: MixedSampler uses the batch itself as one part, which costs no encoding. Its parts
    have fixed sizes, so its correction is only consistent; this one is exact.
    """

    draws: PopularitySampler

    refuses: ClassVar[dict[str, str]] = {}
    exactness: ClassVar[Exactness] = Exactness(
        "exact", "slots are independent draws from one law, the weighted sum, and hits stay in"
    )

    @classmethod
    def from_counts(
        cls,
        counts: Tensor,
        *,
        mixture: Mixture | None = None,
        negatives: int = 512,
        alpha: Alpha | None = None,
        shared: bool = True,
    ) -> Self:
        """Build from training counts of item rows, [N + 1]; default: uniform and popularity 1:1."""
        weights = {"uniform": 1.0, "popularity": 1.0} if mixture is None else mixture
        law = _mixed_law(counts, weights, alpha)
        return cls(PopularitySampler.from_weights(law, negatives=negatives, shared=shared))

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Draw [M] or [B, M] item rows."""
        return self.draws.sample(batch, generator)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return log(M·Σ w·Q) for each id."""
        return self.draws.log_q(ids, batch)


def _mixed_law(counts: Tensor, weights: Mapping[str, float], alpha: float | None) -> Tensor:
    """Return Σ w·Q, [N + 1]. Errors: ModelError for a mixture that makes no sense."""
    if not weights:
        raise ModelError(f"mixture names no law; known: {', '.join(sorted(LAWS))}")
    for name, weight in weights.items():
        if name not in LAWS:
            raise ModelError(f"mixture: unknown law '{name}'.{suggest(name, LAWS)}")
        if not 0 < weight < float("inf"):
            raise ModelError(f"mixture.{name} must be > 0 and finite, got {weight}")
    if alpha is not None and "popularity" not in weights:
        raise ModelError(
            "alpha belongs to the law 'popularity', which this mixture does not hold: leave it "
            "out, use sampler = 'popularity', or give mixture.popularity a weight"
        )
    alpha = 0.75 if alpha is None else alpha
    total = sum(weights.values())
    laws = [weight / total * LAWS[name](counts, alpha) for name, weight in weights.items()]
    return torch.stack(laws).sum(dim=0)
