"""Which items may be recommended now? Items may have time windows."""

from bisect import bisect_right

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]
Times = NDArray[np.float64]


class Availability:
    """Time windows of items. Threads may share it.

    An item is available while start <= now < stop holds for all of its windows. The mask is cached
    until the clock passes a start or stop.

    items: number of all items.
    rows: item row of each window, int64 [n].
    start, stop: ends of each window in seconds since 1970, float64 [n].
    never: number of windows that never open (start is infinite).
    """

    def __init__(self, items: int, rows: Rows, start: Times, stop: Times) -> None:
        self._items, self._rows, self._start, self._stop = items, rows, start, stop
        self.never = int(np.isposinf(start).sum())
        ends = np.unique(np.concatenate([start, stop]))
        self._ends = ends[np.isfinite(ends)].tolist()
        self._made: tuple[int, Tensor | None] = (-1, None)

    def at(self, now: float) -> Tensor | None:
        """Return which item rows are available, bool [items + 1]; None if all are."""
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
