"""Hard negatives from the stages after recall: what they were given and threw away."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard.base import HardWorld
from shortlist.sampling.hard.user_lists import UserLists


@dataclass(frozen=True, eq=False)
class DroppedNegatives:
    """h random items of those recalled for the row's user and dropped by a ranker since.

    They are hard by construction: recall thought them good and a better model did not. They teach
    recall the later stage's taste, its mistakes included, so they stay a supplement.
    Relations: ExposedNegatives got past every stage; MinedNegatives guess at the same without a
    log.
    """

    dropped: UserLists

    refuses: ClassVar[dict[str, str]] = {
        "margin": "the log says which items these are, whatever they score",
        "ranks": "the log says which items these are, whatever they rank",
        "ceiling": "the log says which items these are, whatever they score",
    }
    alone: ClassVar[str] = (
        "sample selection bias: what was dropped had been recalled for the user, while at serving "
        "the model meets the whole catalogue, and must have seen at training what it sees when "
        "serving"
    )

    @classmethod
    def build(cls, world: HardWorld) -> Self:
        """Draw from the dropped items of the training data."""
        return cls(UserLists.build(world, "dropped", "data.dropped"))

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """A log does not change with the vectors."""

    def draw(
        self,
        batch: Batch,
        queries: Tensor,  # noqa: ARG002
        count: int,
        generator: torch.Generator,
    ) -> Negatives:
        """Return up to `count` items dropped for each row's user, [B, count]."""
        return self.dropped.draw(batch, count, generator)
