"""Hard negatives from the stages after recall: items that the ranker dropped."""

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
class DroppedNegatives:
    """h random items that were recalled for the row's user and then dropped by a ranker.

    They are hard by construction: recall scored them high and a better model did not. They also
    teach the ranker's mistakes, so they are only a supplement.

    Relations: ExposedNegatives passed every stage and were shown. MinedNegatives approximate these
    without a log.
    """

    dropped: UserLists

    refuses: ClassVar[dict[str, str]] = UNSCORED
    alone: ClassVar[str] = (
        "sample selection bias: dropped items had been recalled for the user, but at serving the "
        "model scores the whole catalogue, so training needs negatives from all of it"
    )

    @classmethod
    def build(cls, world: HardWorld) -> Self:
        """Draw from the dropped items of the training data."""
        return cls(UserLists.build(world, "dropped", "data.dropped"))

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Do nothing: a log does not depend on the vectors."""

    def draw(
        self,
        batch: Batch,
        queries: Tensor,  # noqa: ARG002
        count: int,
        generator: torch.Generator,
    ) -> Negatives:
        """Return up to `count` items dropped for each row's user, [B, count]."""
        return self.dropped.draw(batch, count, generator)
