"""Hard negatives from the pool: the highest-scoring that stay below the positive."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor

from shortlist.errors import ModelError
from shortlist.sampling.hard.base import HardWorld, best_slots

Margin = Annotated[
    float,
    Field(
        ge=0,
        description="How far below the positive, in the similarity's units, a hard negative has to "
        "score.",
        examples=[0.1],
    ),
]


@dataclass(frozen=True)
class SemiHardNegatives:
    """The h highest-scoring slots below the positive by more than `margin` (Schroff et al. 2015).

    margin is measured in the similarity itself, before the temperature. What scores above the
    positive is often secretly liked; leaving it out keeps training from collapsing on it.
    FaceNet's window (positive - its margin, positive) is this with margin 0: of what lies below,
    the highest is taken, so the window's lower edge never matters while it holds anything.
    """

    margin: float = 0.0

    refuses: ClassVar[dict[str, str]] = {
        "ranks": "it looks at the drawn pool alone; use hard = 'mined'",
        "ceiling": "its limit is the positive's score less hard_margin",
    }
    alone: ClassVar[str] = (
        "they are picked out of a pool by score, so a pool has to be drawn first, and no sampling "
        "probability of theirs is known"
    )

    def __post_init__(self) -> None:
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise ModelError(f"hard_margin must be >= 0 and finite, got {self.margin}")

    @classmethod
    def build(cls, world: HardWorld, *, margin: Margin = 0.0) -> Self:
        """Refuse a margin that no pair can keep."""
        if world.similarity == "cosine" and margin >= 2:
            raise ModelError(f"hard_margin must be < 2 for cosine, which spans 2, got {margin}")
        return cls(margin)

    def choose(self, gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the columns of the highest gaps below -margin, [B, h], and which are such."""
        return best_slots(gap.masked_fill(gap >= -self.margin, float("-inf")), count)
