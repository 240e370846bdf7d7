"""In-batch negatives together with drawn ones."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives, NegativeSampler
from shortlist.sampling.in_batch import InBatchSampler
from shortlist.sampling.mixture import Mixture, MixtureSampler
from shortlist.sampling.popularity import Alpha


@dataclass(frozen=True, eq=False)
class MixedSampler:
    """Mixed negative sampling (MNS, Yang et al. 2020): one pool of the batch and M uniform draws.

    In-batch negatives alone rarely contain items of the long tail, whose scores are then too high.
    The uniform draws prevent this. log_q is the log of the summed expected counts of the parts.
    Because the sizes of the parts are fixed, the correction is consistent and not exact: its bias
    shrinks as the pool grows.

    parts: samplers whose pools are joined.
    """

    parts: tuple[NegativeSampler, ...]

    refuses: ClassVar[dict[str, str]] = {
        "shared": "its in-batch part is always one pool for all rows; use sampler = 'mixture'",
    }
    exactness: ClassVar[Exactness] = Exactness(
        "consistent",
        "its parts have fixed sizes, so a pool is not drawn slot by slot from their sum; the bias "
        "shrinks as the pool grows (sampler = 'mixture' has none)",
    )

    @classmethod
    def from_counts(
        cls,
        counts: Tensor,
        *,
        negatives: int = 512,
        mixture: Mixture | None = None,
        alpha: Alpha | None = None,
    ) -> Self:
        """Build from the training count of each item row, [N + 1].

        negatives: number of draws beside the batch, M.
        mixture: distributions of the draws with weights, as for MixtureSampler; None: uniform.
        alpha: exponent of the distribution "popularity".
        """
        drawn = MixtureSampler.from_counts(
            counts,
            mixture={"uniform": 1.0} if mixture is None else mixture,
            negatives=negatives,
            alpha=alpha,
        )
        return cls((InBatchSampler.from_counts(counts), drawn))

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Return the joined pools, [M], or [B, M] if a part draws for each row."""
        pools = [part.sample(batch, generator) for part in self.parts]
        own = any(pool.ids.dim() == 2 for pool in pools)
        ids = _joined([pool.ids for pool in pools], len(batch.positive), own=own)
        source = _joined([pool.source for pool in pools], len(batch.positive), own=own)
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return the log of the summed expected counts: (B - 1)·Q + M / n for uniform draws."""
        return torch.stack([part.log_q(ids, batch) for part in self.parts]).logsumexp(dim=0)


def _joined(slots: list[Tensor], rows: int, *, own: bool) -> Tensor:
    """Join pools [M] and [B, M] along M; own: whether any of them is [B, M]."""
    if own:
        slots = [one if one.dim() == 2 else one.expand(rows, -1) for one in slots]
    return torch.cat(slots, dim=-1)
