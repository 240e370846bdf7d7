"""In-batch negatives plus uniform ones: the log's popular items and the long tail."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Negatives
from shortlist.sampling.in_batch import InBatchSampler
from shortlist.sampling.uniform import UniformSampler


@dataclass(frozen=True, eq=False)
class MixedSampler:
    """Mixed negative sampling (MNS, Yang et al. 2020): one pool of the batch and M uniform draws.

    In-batch negatives alone hardly ever show the tail, which then floats to the top; the uniform
    part holds it down.

    log_q is the log of the summed expected count of both parts. As their sizes are fixed, that is
    consistent rather than exact: a bias that shrinks as the pool grows.
    """

    in_batch: InBatchSampler
    uniform: UniformSampler

    refuses: ClassVar[dict[str, str]] = {
        "alpha": "its parts are in-batch and uniform; use sampler = 'popularity'",
        "shared": "its in-batch part is always one pool for all rows; use sampler = 'uniform'",
    }

    @classmethod
    def from_counts(cls, counts: Tensor, *, negatives: int = 512) -> Self:
        """From the training count of each item row, [N + 1]; negatives: the uniform draws, M."""
        return cls(
            InBatchSampler.from_counts(counts),
            UniformSampler.from_counts(counts, negatives=negatives),
        )

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Return the batch's positives followed by M uniform draws, [B + M]."""
        ours = self.in_batch.sample(batch, generator)
        drawn = self.uniform.sample(batch, generator)
        ids = torch.cat([ours.ids, drawn.ids])
        source = torch.cat([ours.source, drawn.source])
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Log of (B - 1)·Q + M / n for each id."""
        return torch.logaddexp(self.in_batch.log_q(ids, batch), self.uniform.log_q(ids, batch))
