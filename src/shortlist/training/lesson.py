"""Which events does a refresh learn, and which state is kept between refreshes?"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Memory = dict[str, dict[str, Tensor]]
"""State of the optimiser: channel name ("" for a single retriever) -> parameter name -> tensor."""


@dataclass(frozen=True)
class Lesson:
    """The events that a refresh learns, and its settings.

    learn: bool [n], True for the new events of `data.log`.
    epochs: number of passes over them.
    replay: number of old positives learned per new one, against forgetting. Each lesson draws them
    again.
    seed: seed of that draw.
    before: state of the optimiser after the previous refresh.
    after: output, the state of the optimiser after this one.
    part: name of the channel; "" for a single retriever.
    nothing: output, for each channel that found no positive and learned nothing, the reason.
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
        """Return the lesson for one of several channels; outputs are shared."""
        return replace(self, part=part)

    def positives(self, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the events to learn: the new ones and a seeded sample of old ones, bool [n].

        among: bool [n], True for events that can be positives.

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
