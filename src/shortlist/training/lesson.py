"""What does a model that goes on learn, and what does it remember from one time to the next?"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Memory = dict[str, dict[str, Tensor]]
"""What the optimiser remembers, by channel ("" for one that stands alone) and name of weights."""


@dataclass(frozen=True)
class Lesson:
    """Which events a model that goes on learns, and how.

    learn: the new positives among the events of `data.log`, bool [n]. epochs: how often each is
    learned. replay: how many old positives, drawn anew with each lesson, are learned beside each
    new one, so that what is old is not forgotten. before: what the optimiser remembers from the
    last time; after: where it is put now. part: the channel, of several. nothing: where the reason
    is put, by channel, of one that finds no positive in these events, and learns nothing.
    """

    learn: NDArray[np.bool_]
    epochs: int = 1
    replay: float = 1.0
    seed: int = 0
    before: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    after: Memory = field(default_factory=dict)
    part: str = ""
    nothing: dict[str, str] = field(default_factory=dict)

    def of(self, part: str) -> "Lesson":
        """The same for one of several channels."""
        return replace(self, part=part)

    def positives(self, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return what to learn: the new events, and a seeded sample of the old ones, bool [n].

        among: which events can be positives at all.

        >>> lesson = Lesson(np.array([False, False, False, True]))
        >>> int(lesson.positives(np.array([True, True, True, True])).sum())
        2
        """
        places = np.flatnonzero(among & ~self.learn)
        chosen = self.learn & among
        count = min(len(places), round(self.replay * int(chosen.sum())))
        random = np.random.default_rng([self.seed, len(self.learn)])
        chosen[random.choice(places, count, replace=False)] = True
        return chosen
