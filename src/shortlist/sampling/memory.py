"""In-batch negatives of this and earlier batches: a large pool from small batches."""

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
    """Cross-batch memory (XBM, Wang et al. 2020): the batch's positives and the M before them.

    The memory holds item rows and not vectors. They are encoded again with each batch, so that no
    vector is stale (in the paper they are), at the cost of the encoding. The memory is kept from
    one epoch to the next.

    frequency: share of the training positives of each item row, [N + 1].
    capacity: number of remembered positives, M.

    Relations: InBatchSampler with a pool whose size does not depend on the batch size.
    """

    refuses: ClassVar[dict[str, str]] = {
        "alpha": "past positives come as often as in the log; use sampler = 'popularity'",
        "shared": "the memory is always one pool for all rows; use sampler = 'popularity'",
    }
    exactness: ClassVar[Exactness] = Exactness(
        "exact",
        "negatives are the positives of other rows, as frequent as in the log; an epoch draws each "
        "event once, so batch and memory that are a large part of the log are corrected less "
        "exactly",
    )

    def __init__(self, frequency: Tensor, capacity: int) -> None:
        self.frequency = frequency
        self.capacity = capacity
        self._earlier = torch.zeros(0, dtype=torch.int64)  # the newest first
        self._recalled = 0  # how many of them were in the latest pool
        self._before: Tensor | None = None  # shares in the training before this one, [N + 1]
        self._old = 0  # how many of the remembered are from that training; they are the last ones
        self._old_recalled = 0

    @classmethod
    def from_counts(cls, counts: Tensor, *, negatives: int = 4096) -> Self:
        """Build from training counts of item rows, [N + 1]; negatives: the capacity, M."""
        check_negatives(negatives)
        return cls(frequencies(counts), negatives)

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return the batch's positives and the remembered ones, [B + M] at most; then remember.

        The pool of the first batch holds its own positives only.
        """
        ours = batch.positive
        earlier = self._earlier.to(ours.device)
        ids = torch.cat([ours, earlier])
        source = torch.cat(
            [torch.arange(len(ours), device=ours.device), torch.full_like(earlier, -1)]
        )
        self._recalled = len(earlier)
        self._old_recalled = self._old
        self._earlier = ids[: self.capacity]
        self._old = max(self._old - (len(ids) - len(self._earlier)), 0)
        return Negatives(ids, self.log_q(ids, batch), source, distinct=False)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return log((B - 1 + m)·Q) for each id, where the latest pool had m remembered slots.

        Slots that were remembered in an earlier training have the shares of that training as Q.
        """
        slots = len(batch.positive) - 1 + self._recalled - self._old_recalled
        if self._before is None or not self._old_recalled:
            return log_expected(self.frequency, ids, max(slots, 1))
        total = slots + self._old_recalled
        both = slots * self.frequency + self._old_recalled * self._before.to(self.frequency.device)
        return log_expected(both / total, ids, total)

    def go_on(self, counts: Tensor, earlier: Tensor, generator: torch.Generator) -> None:  # noqa: ARG002
        """Fill the memory with M positives drawn by their shares in the earlier training."""
        self._before = frequencies(earlier)
        edges = self._before.cumsum(0)
        drawn = torch.rand(self.capacity, generator=generator, dtype=torch.float64)
        drawn = drawn.to(edges.device) * edges[-1]
        self._earlier = torch.searchsorted(edges, drawn, right=True)
        self._old = self.capacity

    def state_dict(self) -> dict[str, Tensor]:
        """Return the positives it remembers, and how many of them were in the latest pool."""
        return {"earlier": self._earlier, "recalled": torch.tensor(self._recalled)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self._earlier, self._recalled = state["earlier"], int(state["recalled"])
