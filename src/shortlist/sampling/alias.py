"""How is a row drawn from any law in constant time, however large the catalogue?"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.compiled import compiled


@dataclass(frozen=True, eq=False)
class AliasTable:
    """The alias method (Walker 1977, built as Vose 1991): one look-up a draw.

    The unit interval is cut into N cells of equal size; cell r belongs to row r up to
    `threshold[r]`, to row `other[r]` beyond it. threshold: [N] float64; other: [N] int64.
    """

    threshold: Tensor
    other: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> Self:
        """From weights [N] >= 0, not all 0: a row of weight 0 is never drawn. O(N)."""
        chance = weights.detach().cpu().to(torch.float64)
        scaled = (chance * (len(chance) / chance.sum())).numpy().copy()
        other = np.zeros(len(scaled), dtype=np.int64)
        _fill(scaled, other, int(np.argmax(scaled)))
        device = weights.device
        return cls(torch.from_numpy(scaled).to(device), torch.from_numpy(other).to(device))

    def rows(self, chance: Tensor) -> Tensor:
        """Return the row at each place of the unit interval; chance: any shape, in [0, 1)."""
        spread = chance * len(self.other)
        cell = spread.long().clamp(max=len(self.other) - 1)
        own = spread - cell < self.threshold[cell]
        return torch.where(own, cell, self.other[cell])


@compiled
def _fill(scaled: NDArray[np.float64], other: NDArray[np.int64], largest: int) -> None:
    """Turn chances times N, [N], into thresholds in place, and write the other row of each cell.

    Rounding can leave cells without a partner: a light one then goes to the row of the largest
    chance, never to a row of chance 0.
    """
    n = len(scaled)
    left = scaled.copy()
    light = np.empty(n, dtype=np.int64)
    heavy = np.empty(n, dtype=np.int64)
    lights = heavies = 0
    for row in range(n):
        if left[row] < 1.0:
            light[lights] = row
            lights += 1
        else:
            heavy[heavies] = row
            heavies += 1
    while lights and heavies:
        lights -= 1
        low = light[lights]
        high = heavy[heavies - 1]
        scaled[low] = left[low]
        other[low] = high
        left[high] -= 1.0 - left[low]
        if left[high] < 1.0:
            heavies -= 1
            light[lights] = high
            lights += 1
    for at in range(heavies):
        scaled[heavy[at]] = 1.0
        other[heavy[at]] = heavy[at]
    for at in range(lights):
        row = light[at]
        # What is left of a cell by rounding alone is a full cell; a row of chance 0 has none.
        scaled[row] = 1.0 if left[row] > 0.5 else left[row]
        other[row] = largest
