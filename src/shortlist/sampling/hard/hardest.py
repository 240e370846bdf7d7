"""Hard negatives from the pool: the highest-scoring ones."""

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from shortlist.sampling.hard.base import HardWorld, best_slots


@dataclass(frozen=True)
class HardestNegatives:
    """The h highest-scoring slots of the easy pool (online hard mining, Huang et al. 2020).

    They cost nothing extra, because the pool is scored anyway. With a random pool they are only as
    hard as the best of M draws.

    Requires: a pool with few items that the user would like, since those score highest.
    Relations: SemiHardNegatives leaves out items that score above the positive.
    """

    refuses: ClassVar[dict[str, str]] = {
        "margin": "it takes the highest-scoring whatever the positive scores; see 'semi_hard'",
        "ranks": "it looks at the drawn pool alone; use hard = 'mined'",
        "ceiling": "it takes the highest-scoring whatever the positive scores; see 'semi_hard'",
    }
    alone: ClassVar[str] = (
        "they are picked out of a pool by score, so a pool has to be drawn first, and no sampling "
        "probability of theirs is known"
    )

    @classmethod
    def build(cls, world: HardWorld) -> Self:  # noqa: ARG003
        """Build the source; nothing but the pool is needed."""
        return cls()

    def choose(self, gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the columns of the highest gaps, [B, h], and which of them are valid."""
        return best_slots(gap, count)
