"""Which items may be answered at this moment? Some are on sale from a day on, some until one."""

from bisect import bisect_right

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]
Times = NDArray[np.float64]


class Availability:
    """Items that are not always available. Threads may share it.

    Item rows [n] are answered while start <= now < stop [n], in seconds since 1970; a row may stand
    there several times, and is answered when all its lines agree. items: how many there are.
    never: how many lines are of items that are answered at no time.
    The mask is made anew when the clock passes an end of a window, so that no request has to come
    at that moment.
    """

    def __init__(self, items: int, rows: Rows, start: Times, stop: Times) -> None:
        self._items, self._rows, self._start, self._stop = items, rows, start, stop
        self.never = int(np.isposinf(start).sum())
        ends = np.unique(np.concatenate([start, stop]))
        self._ends = ends[np.isfinite(ends)].tolist()
        self._made: tuple[int, Tensor | None] = (-1, None)

    def at(self, now: float) -> Tensor | None:
        """Return which item rows are available, bool [items + 1]; None where all are."""
        place = bisect_right(self._ends, now)
        made = self._made
        if made[0] != place:
            made = self._made = (place, self._mask(now))
        return made[1]

    def _mask(self, now: float) -> Tensor | None:
        hidden = self._rows[(now < self._start) | (now >= self._stop)]
        if not len(hidden):
            return None
        mask = torch.ones(self._items + 1, dtype=torch.bool)
        mask[torch.from_numpy(hidden)] = False
        return mask
