"""Hard negatives from an impression log: items that the user saw and did not click."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard.base import HardWorld
from shortlist.sampling.hard.user_lists import UNSCORED, UserLists


@dataclass(frozen=True, eq=False)
class ExposedNegatives:
    """h random items that the row's user was shown before the cut and did not click.

    They are used only beside an easy sampler. Shown items were chosen by the running system, and
    nearly all of them suit the user. A model trained on them alone learns to order good items and
    not to find them in the whole catalogue (Huang et al. 2020 measured the loss).

    Relations: DroppedNegatives are items that the user never saw.
    """

    shown: UserLists

    refuses: ClassVar[dict[str, str]] = UNSCORED
    alone: ClassVar[str] = (
        "sample selection bias: shown items were picked for the user, but at serving the model "
        "scores the whole catalogue, so training needs negatives from all of it"
    )

    @classmethod
    def build(cls, world: HardWorld) -> Self:
        """Draw from the impressions of the training data."""
        return cls(UserLists.build(world, "exposed", "data.impressions"))

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Do nothing: a log does not depend on the vectors."""

    def draw(
        self,
        batch: Batch,
        queries: Tensor,  # noqa: ARG002
        count: int,
        generator: torch.Generator,
    ) -> Negatives:
        """Return up to `count` items each row's user was shown, [B, count]."""
        return self.shown.draw(batch, count, generator)
