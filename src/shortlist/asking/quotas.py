"""Which list is the best one with at most n items of each value of a column, such as the genre?

With one column and one value per item the greedy list is the best: go down the ranking and take
each item whose value is not full (the values form a partition matroid: Edmonds 1971). The work is
to read the ranking deep enough, and to know when it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Answer, Origin
from shortlist.asking.rows import RowQueries
from shortlist.compiled import compiled
from shortlist.data.predicates import value_codes
from shortlist.data.training_data import TrainingData
from shortlist.errors import QueryError
from shortlist.index.base import Hits

AHEAD = 4
"""The first search is for this many times k items; it is the only one if that fills the list."""

ROUNDS = 4
"""Number of searches without the full values before the whole ranking is read."""


class Ranks(Protocol):
    """The methods of a retriever that a quota needs."""

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, int64 [N]."""
        ...

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Return the k best items of each of B queries."""
        ...


@dataclass(frozen=True)
class Quota:
    """At most `most` items of each value of a column.

    codes: the value of each item row as a number, int64 [items + 1]; -1 for no value.
    """

    codes: NDArray[np.int64]
    most: int

    @classmethod
    def of(cls, data: TrainingData, given: Mapping[str, int]) -> Self:
        """Build the quota from a mapping such as {"genre": 3}. Errors: QueryError."""
        if not isinstance(given, Mapping):
            raise QueryError(f"a quota is a table such as {{'genre': 3}}, got {given!r:.60}")
        if len(given) != 1:
            raise QueryError(
                f"a quota is for one column, such as {{'genre': 3}}, got {len(given)}: "
                "with several columns the best list cannot be found item by item"
            )
        ((column, most),) = given.items()
        if not isinstance(column, str):
            raise QueryError(f"a quota names a column of the items table, got {column!r:.60}")
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise QueryError(f"quota.{column} must be a whole number >= 1, got {most!r:.60}")
        return cls(value_codes(data, column), most)

    def kept(self, retriever: Ranks, block: RowQueries, k: int) -> Answer:
        """Answer B queries within the quota.

        All queries are searched together; those with too few items are then searched one by one.
        """
        everything = len(retriever.candidate_rows())
        depth = min(AHEAD * k, everything)
        found = retriever.answered(block, depth)
        answer, missing = self._chosen(found, k)
        # A list shorter than `depth`, or of all candidates, holds every item that matches.
        whole = (found.hits.ids[:, -1] < 0).numpy() | (depth == everything)
        for query in np.flatnonzero((missing > 0) & ~whole).tolist():
            one = block.take(torch.tensor([query]))
            mine = self._deeper(retriever, one, answer.hits.ids[query], k)
            for slots, own in zip(_slots(answer), _slots(mine), strict=True):
                slots[query] = own[0]
        return answer

    def _deeper(self, retriever: Ranks, query: RowQueries, rows: Tensor, k: int) -> Answer:
        """Answer one query whose first list had too few items.

        rows: [k], the item rows chosen so far; -1 for none.
        """
        everything = len(retriever.candidate_rows())
        depth = min(2 * k, everything)
        for _ in range(ROUNDS):
            room = torch.from_numpy(self._with_room(rows[rows >= 0].numpy()))
            allow = room if query.allow is None else query.allow & room
            further = retriever.answered(replace(query, allow=allow), depth)
            mine, still = self._chosen(further, k)
            rows = mine.hits.ids[0]
            if not still[0] or further.hits.ids[0, -1] < 0 or depth < 2 * k:
                return mine
        return self._chosen(retriever.answered(query, everything), k)[0]

    def _with_room(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which items can be in the answer, bool [items + 1].

        These are the chosen ones and all items of values that are not full. The chosen items of a
        full value are its best, so they are final.
        """
        values, counts = np.unique(self.codes[chosen], return_counts=True)
        full = values[(counts >= self.most) & (values >= 0)]
        room: NDArray[np.bool_] = ~np.isin(self.codes, full)
        room[chosen] = True
        return room

    def _chosen(self, found: Answer, k: int) -> tuple[Answer, NDArray[np.int64]]:
        """Return the first k of each list within the quota, and how many are missing, [B]."""
        ids = found.hits.ids
        places = np.full((len(ids), k), -1, dtype=np.int64)
        missing = np.zeros(len(ids), dtype=np.int64)
        _choose(ids.numpy(), self.codes, self.most, places, missing)
        at = torch.from_numpy(places)
        hits = Hits(_picked(ids, at, -1), _picked(found.hits.scores, at, -np.inf))
        origin = found.origin
        if origin is not None:
            origin = Origin(_picked(origin.by, at, -1), _picked(origin.ranks, at, 0))
        return Answer(hits, found.strangers, origin), missing


def _slots(answer: Answer) -> tuple[Tensor, ...]:
    """Return the per-slot arrays of an answer."""
    return (*answer.hits, *(answer.origin or ()))


def _picked(slots: Tensor, at: Tensor, past_the_end: float) -> Tensor:
    """Return the slots [B, n, ...] at the places [B, k]; `past_the_end` where the place is -1."""
    picked = slots[torch.arange(len(slots))[:, None], at.clamp(min=0)]
    picked[at < 0] = past_the_end
    return picked


@compiled
def _choose(rows: Any, codes: Any, most: Any, places: Any, missing: Any) -> None:
    """Fill `places` [B, k] of the items taken from `rows` [B, n], and `missing` [B]."""
    k = places.shape[1]
    value = np.empty(k, dtype=np.int64)
    for query in range(len(rows)):
        count = 0
        for place in range(rows.shape[1]):
            row = rows[query, place]
            if row < 0 or count == k:
                break
            code = codes[row]
            alike = 0
            if code >= 0:  # Items without a value are not limited.
                for at in range(count):
                    alike += value[at] == code
            if alike < most:
                value[count] = code
                places[query, count] = place
                count += 1
        missing[query] = k - count
