"""Hard negatives from the pool: the highest-scoring ones below the positive."""

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
        description="A hard negative scores at least this much below the positive, in the "
        "similarity's units.",
        examples=[0.1],
    ),
]


@dataclass(frozen=True)
class SemiHardNegatives:
    """The h highest-scoring slots below the positive by more than `margin` (Schroff et al. 2015).

    Items that score above the positive are often ones that the user would like, and training on
    them can collapse. The window of FaceNet, (positive - its margin, positive), corresponds to
    margin 0 here: the highest scores below the positive are taken, so that the lower end of the
    window does not matter as long as the window is not empty.

    margin: in units of the similarity, before the temperature.
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
        """Build the source. Errors: ModelError for a margin that no cosine can satisfy."""
        if world.similarity == "cosine" and margin >= 2:
            raise ModelError(f"hard_margin must be < 2 for cosine, which spans 2, got {margin}")
        return cls(margin)

    def choose(self, gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the columns of the highest gaps below -margin, [B, h], and which are valid."""
        return best_slots(gap.masked_fill(gap >= -self.margin, float("-inf")), count)
