"""Hard negatives from an impression log: what the user saw and did not click."""

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
class ExposedNegatives:
    """h random items of those the row's user was shown before the cut and did not click.

    Only ever beside an easy sampler. What is shown was chosen by the system in use: nearly all of
    it suits the user, so a model that sees nothing else learns to tell good from good, and when
    it serves it must tell good from everything (Huang et al. 2020 measured the loss).
    Relations: DroppedNegatives are items the user never saw.
    """

    shown: UserLists

    refuses: ClassVar[dict[str, str]] = {
        "margin": "the log says which items these are, whatever they score",
        "ranks": "the log says which items these are, whatever they rank",
        "ceiling": "the log says which items these are, whatever they score",
    }
    alone: ClassVar[str] = (
        "sample selection bias: what was shown was picked for the user, while at serving the model "
        "meets the whole catalogue, and must have seen at training what it sees when serving"
    )

    @classmethod
    def build(cls, world: HardWorld) -> Self:
        """Draw from the impressions of the training data."""
        return cls(UserLists.build(world, "exposed", "data.impressions"))

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """A log does not change with the vectors."""

    def draw(
        self,
        batch: Batch,
        queries: Tensor,  # noqa: ARG002
        count: int,
        generator: torch.Generator,
    ) -> Negatives:
        """Return up to `count` items each row's user was shown, [B, count]."""
        return self.shown.draw(batch, count, generator)
