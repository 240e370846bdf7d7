"""In-batch negatives: the positives of the other rows of the batch."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives, frequencies, log_expected


@dataclass(frozen=True, eq=False)
class InBatchSampler:
    """Every positive of the batch is a negative for the other rows (Yi et al. 2019).

    No additional item is encoded. The correction assumes that slots are independent of the row's
    user, which holds when batches are drawn at random from the whole log.

    frequency: share of the training positives of each item row, [N + 1]. This is Q itself; an
    exponent such as 0.75 does not apply, because items occur in batches as often as in the log.
    """

    frequency: Tensor

    refuses: ClassVar[dict[str, str]] = {
        "negatives": "an in-batch pool is the batch; set batch_size, or use sampler = 'mixed'",
        "alpha": "in-batch negatives come as often as in the log; use sampler = 'popularity'",
        "shared": "an in-batch pool is always one for all rows; use sampler = 'popularity'",
    }
    exactness: ClassVar[Exactness] = Exactness(
        "exact",
        "negatives are the positives of other rows, as frequent as in the log; an epoch draws each "
        "event once, so a batch that is a large part of the log is corrected less exactly",
    )

    @classmethod
    def from_counts(cls, counts: Tensor) -> Self:
        """Build from the training count of each item row, [N + 1]."""
        return cls(frequencies(counts))

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return the positives of the batch as a pool, [B]; nothing is drawn."""
        ids = batch.positive
        source = torch.arange(len(ids), device=ids.device)
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return log((B - 1)·Q) for each id: a row's own slot is masked, so B - 1 slots count."""
        return log_expected(self.frequency, ids, max(len(batch.positive) - 1, 1))
