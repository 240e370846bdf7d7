"""In-batch negatives whose item frequencies are estimated during training."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives, frequencies
from shortlist.sampling.frequency import StreamingFrequency
from shortlist.sampling.in_batch import InBatchSampler

BUCKETS = (2**12, 2**22)
"""Smallest and largest number of buckets of each hash of the estimate."""


class StreamingInBatchSampler:
    """In-batch negatives corrected by a running estimate of their frequency (Yi et al. 2019).

    Use it for streams that cannot be counted beforehand, and for logs whose popularity drifts.
    InBatchSampler is exact when the log can be counted.

    frequency: the running estimate. `sample` updates it with the batch before it returns.
    """

    refuses: ClassVar[dict[str, str]] = InBatchSampler.refuses
    exactness: ClassVar[Exactness] = Exactness(
        "consistent",
        "negatives are as frequent as in the log, but their frequency is a running estimate, "
        "some 7 % off",
    )

    def __init__(self, frequency: StreamingFrequency) -> None:
        self.frequency = frequency

    @classmethod
    def from_counts(cls, counts: Tensor) -> Self:
        """Build with at least four buckets per item row; the counts themselves are not used.

        counts: training count of each item row, [N + 1].
        """
        frequencies(counts)
        fewest, most = BUCKETS
        wanted = 1 << (4 * len(counts) - 1).bit_length()
        frequency = StreamingFrequency(min(max(wanted, fewest), most))
        return cls(frequency.to(counts.device))

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return the positives of the batch as a pool, [B]; nothing is drawn."""
        ids = batch.positive
        self.frequency.update(ids)
        source = torch.arange(len(ids), device=ids.device)
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return log((B - 1)·Q) for each id with the current estimate of Q, finite for any id."""
        draws = max(len(batch.positive) - 1, 1)
        return (self.frequency.of(ids) * draws).log().float()

    def go_on(self, counts: Tensor, earlier: Tensor, generator: torch.Generator) -> None:  # noqa: ARG002
        """Start the estimate from the counts of this training's positives."""
        self.frequency.begin(counts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the estimate."""
        return self.frequency.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.frequency.load_state_dict(state)
