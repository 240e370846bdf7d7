"""Which items are negatives where only what is known counts? None: an empty pool."""

from typing import ClassVar

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives


class NoNegatives:
    """Draws nothing: for a loss that is fitted to the values of events, and to nothing else.

    It is no part of SAMPLERS: a loss that reads values brings it.
    """

    refuses: ClassVar[dict[str, str]] = {}
    exactness: ClassVar[Exactness] = Exactness("not corrected", "nothing is drawn")

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return an empty pool for the batch, on its device."""
        none = torch.zeros(0, dtype=torch.int64, device=batch.positive.device)
        return Negatives(none, none.float(), none, distinct=True)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return zeros: nothing is corrected."""
        return torch.zeros_like(ids, dtype=torch.float32)
