"""In-batch negatives whose frequency is estimated while training, for an open vocabulary."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives, frequencies
from shortlist.sampling.frequency import StreamingFrequency
from shortlist.sampling.in_batch import InBatchSampler

BUCKETS = (2**12, 2**22)
"""The fewest and the most places the estimate has for each of its hashes."""


class StreamingInBatchSampler:
    """In-batch negatives corrected by a running estimate of their frequency (Yi et al. 2019).

    For streams that no one can count beforehand, and for logs whose popularity drifts. Where the
    log is at hand InBatchSampler counts it, exactly.

    frequency: the estimate; each batch it draws for is taken in first.
    """

    refuses: ClassVar[dict[str, str]] = InBatchSampler.refuses
    exactness: ClassVar[Exactness] = Exactness(
        "consistent",
        "slots come as the log has them, but their frequency is a running estimate, some 7 % off",
    )

    def __init__(self, frequency: StreamingFrequency) -> None:
        self.frequency = frequency

    @classmethod
    def from_counts(cls, counts: Tensor) -> Self:
        """Only their number is used: four places or more for each item row known by now."""
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
        """Log of (B - 1)·Q for each id, Q as estimated by now; an id never seen has one, too."""
        draws = max(len(batch.positive) - 1, 1)
        return (self.frequency.of(ids) * draws).log().float()

    def go_on(self, counts: Tensor, earlier: Tensor, generator: torch.Generator) -> None:  # noqa: ARG002
        """Begin with the counts of the positives that come now: they can be counted."""
        self.frequency.begin(counts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the estimate as it is now."""
        return self.frequency.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.frequency.load_state_dict(state)
