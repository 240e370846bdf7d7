"""An empty pool, for losses that use no negatives."""

from typing import ClassVar

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Exactness, Negatives


class NoNegatives:
    """Draws nothing; used with a loss that is fitted to the values of events.

    It is not in SAMPLERS: it is chosen whenever the loss reads values.
    """

    refuses: ClassVar[dict[str, str]] = {}
    exactness: ClassVar[Exactness] = Exactness("not corrected", "nothing is drawn")

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:  # noqa: ARG002
        """Return an empty pool for the batch, on its device."""
        none = torch.zeros(0, dtype=torch.int64, device=batch.positive.device)
        return Negatives(none, none.float(), none, distinct=True)

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return zeros, because nothing is corrected."""
        return torch.zeros_like(ids, dtype=torch.float32)
