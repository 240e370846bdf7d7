"""How is an item row drawn from any distribution in constant time?"""

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

    The unit interval is cut into N cells of equal size. Within cell r, a draw below
    `threshold[r]` gives row r, and a draw above it gives row `other[r]`.

    threshold: [N] float64.
    other: [N] int64.
    """

    threshold: Tensor
    other: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> Self:
        """Build the table in O(N).

        weights: [N], >= 0 and not all 0. A row with weight 0 is never drawn.
        """
        chance = weights.detach().cpu().to(torch.float64)
        scaled = (chance * (len(chance) / chance.sum())).numpy().copy()
        other = np.zeros(len(scaled), dtype=np.int64)
        _fill(scaled, other, int(np.argmax(scaled)))
        device = weights.device
        return cls(torch.from_numpy(scaled).to(device), torch.from_numpy(other).to(device))

    def rows(self, chance: Tensor) -> Tensor:
        """Return the row for each uniform number; chance: any shape, in [0, 1)."""
        spread = chance * len(self.other)
        cell = spread.long().clamp(max=len(self.other) - 1)
        own = spread - cell < self.threshold[cell]
        return torch.where(own, cell, self.other[cell])


@compiled
def _fill(scaled: NDArray[np.float64], other: NDArray[np.int64], largest: int) -> None:
    """Turn probabilities times N, [N], into thresholds in place, and fill `other`.

    Rounding can leave cells without a partner. A light cell is then completed by the most probable
    row, so that a row of probability 0 is never drawn.
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
        # Only rounding leaves a light cell here: it is full, unless its row has probability 0.
        scaled[row] = 1.0 if left[row] > 0.5 else left[row]
        other[row] = largest
