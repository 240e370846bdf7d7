"""In-batch negatives of the batches before, too: a large pool from small batches."""

from collections.abc import Mapping
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
)


class MemorySampler:
    """Cross-batch memory (XBM, Wang et al. 2020): the batch's positives and the latest M before.

    It remembers item rows, not vectors: they are encoded anew with each batch, so none is ever
    stale, unlike in the paper, and each costs an encoding. It goes on from one epoch to the next.

    frequency: share of the training stream of each item row, [N + 1]; capacity: M.

    Relations: InBatchSampler with a pool that does not depend on the batch size.
    """

    refuses: ClassVar[dict[str, str]] = {
        "alpha": "past positives come as often as in the log; use sampler = 'popularity'",
        "shared": "the memory is always one pool for all rows; use sampler = 'popularity'",
    }
    exactness: ClassVar[Exactness] = Exactness(
        "exact",
        "slots are other rows' positives, which come as the log has them; a shuffled epoch does "
        "not put any back, which matters where batch and memory are a large part of the log",
    )

    def __init__(self, frequency: Tensor, capacity: int) -> None:
        self.frequency = frequency
        self.capacity = capacity
        self._earlier = torch.zeros(0, dtype=torch.int64)  # the newest first
        self._recalled = 0  # how many of them were in the latest pool

    @classmethod
    def from_counts(cls, counts: Tensor, *, negatives: int = 4096) -> Self:
        """From the training count of each item row, [N + 1]; negatives: those remembered, M."""
        check_negatives(negatives)
        return cls(frequencies(counts), negatives)

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return the batch's positives followed by the remembered, [B + M] at most; then learn.

        The first batch meets itself alone.
        """
        ours = batch.positive
        earlier = self._earlier.to(ours.device)
        ids = torch.cat([ours, earlier])
        source = torch.cat(
            [torch.arange(len(ours), device=ours.device), torch.full_like(earlier, -1)]
        )
        self._recalled = len(earlier)
        self._earlier = ids[: self.capacity]
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Log of (B - 1 + m)·Q for each id, where the latest pool had m remembered slots."""
        slots = len(batch.positive) - 1 + self._recalled
        return log_expected(self.frequency, ids, max(slots, 1))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the positives it remembers, and how many of them were in the latest pool."""
        return {"earlier": self._earlier, "recalled": torch.tensor(self._recalled)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self._earlier, self._recalled = state["earlier"], int(state["recalled"])
