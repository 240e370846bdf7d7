"""Every item is a negative: nothing is sampled, and nothing has to be corrected."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives, frequencies, log_expected


@dataclass(frozen=True, eq=False)
class CatalogueSampler:
    """The whole trained catalogue as one pool; with SoftmaxLoss it is the full softmax.

    Each batch encodes every item and computes B·n scores. Use it for catalogues of up to about
    10^5 items, or as the reference for other samplers (Klenitskiy & Vasilev 2023).

    items: all item rows seen in training, [n].
    certain: 1 for each of these rows, else 0, [N + 1].
    """

    items: Tensor
    certain: Tensor

    refuses: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("correct_sampling", "correct_positives"),
            "every item is in the pool once, so there is nothing to correct",
        ),
        "negatives": "the pool is the whole catalogue; use sampler = 'uniform'",
        "alpha": "every item is in the pool once; use sampler = 'popularity'",
        "shared": "the whole catalogue is one pool for all rows; use sampler = 'uniform'",
    }
    exactness: ClassVar[Exactness] = Exactness(
        "exact", "the pool holds every item once, and the row's positive is taken out of it"
    )

    @classmethod
    def from_counts(cls, counts: Tensor) -> Self:
        """Build from training counts of item rows, [N + 1]; rows with count 0 are left out."""
        seen = frequencies(counts) > 0
        return cls(seen.nonzero().squeeze(1), seen.double())

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return all items as a pool, [n]; nothing is drawn."""
        ids = self.items.to(batch.positive.device)
        return Negatives(ids, self.log_q(ids, batch), torch.full_like(ids, -1), distinct=True)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return 0 for each id, because its expected count is 1."""
        return log_expected(self.certain, ids, draws=1)
