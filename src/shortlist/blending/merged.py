"""Which item is in each slot of a merged list, and which channel gave it?"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shortlist.blending.merging import fill_slots


class Merged(NamedTuple):
    """B lists of k slots, filled in place.

    rows: item rows, int64 [B, k]; -1 for an empty slot.
    scores: float32 [B, k]; -inf for an empty slot.
    by: number of the channel that gave the slot, int64 [B, k]; -1 for an empty slot.
    ranks: rank of the item in each channel, from 1, int32 [B, k, C]; 0 if it is not listed.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    by: NDArray[np.int64]
    ranks: NDArray[np.int32]

    @classmethod
    def empty(cls, queries: int, k: int, channels: int) -> Self:
        """Return lists without any item."""
        return cls(
            np.full((queries, k), -1, dtype=np.int64),
            np.full((queries, k), -np.inf, dtype=np.float32),
            np.full((queries, k), -1, dtype=np.int64),
            np.zeros((queries, k, channels), dtype=np.int32),
        )

    def short(self) -> NDArray[np.int64]:
        """Return the queries whose lists are not full, [n]."""
        return np.flatnonzero((self.rows < 0).any(axis=1))

    def put(self, queries: NDArray[np.int64], lists: "Merged") -> None:
        """Overwrite the lists of these queries, [n]."""
        self.rows[queries], self.scores[queries] = lists.rows, lists.scores
        self.by[queries], self.ranks[queries] = lists.by, lists.ranks

    def append(self, queries: NDArray[np.int64], rows: Tensor, channel: int) -> None:
        """Fill up the lists of these queries [n] with rows [n, w] of a channel, each item once."""
        k = self.rows.shape[1]
        lists = np.full((2, len(queries), k), -1, dtype=np.int64)
        lists[0], lists[1, :, : rows.shape[1]] = self.rows[queries], rows
        filled = Merged.empty(len(queries), k, 2)
        lengths = (lists >= 0).sum(axis=2)
        first = np.zeros(k, dtype=np.int64)
        fill_slots(lists, lengths, first, filled.rows, filled.by, filled.ranks)
        self.rows[queries] = filled.rows
        self.by[queries] = np.where(filled.by == 1, channel, self.by[queries])
        self.ranks[queries, :, channel] = filled.ranks[:, :, 1]
