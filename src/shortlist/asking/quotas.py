"""At most so many items of each genre in an answer: which is the best list that keeps to it?

Of one column with one value an item, the best list is the greedy one: from the best item on, each
whose value still has room (the values make a partition matroid: Edmonds 1971). So what remains is
to see far enough down the ranking, and to know when that is far enough.
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
from shortlist.data.dataset import TrainingData
from shortlist.data.predicates import value_codes
from shortlist.errors import QueryError
from shortlist.index.base import Hits

AHEAD = 4
"""How many times k are asked for at first; where this is enough, it is the only question."""

ROUNDS = 4
"""How often a query is asked again without the values that are full, before for the whole list."""


class Ranks(Protocol):
    """What a quota asks of a retriever: its own order, as deep as needed."""

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""
        ...

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Answer B queries with k items each."""
        ...


@dataclass(frozen=True)
class Quota:
    """At most `most` items of each value of a column. codes: [items + 1], -1 for no value.

    What a retriever ranks first is taken first, so the answer is the best that keeps to the quota
    by the retriever's own order and scores.
    """

    codes: NDArray[np.int64]
    most: int

    @classmethod
    def of(cls, data: TrainingData, given: Mapping[str, int]) -> Self:
        """Read {"genre": 3}. Errors: QueryError."""
        if not isinstance(given, Mapping):
            raise QueryError(f"a quota is a table such as {{'genre': 3}}, got {given!r:.60}")
        if len(given) != 1:
            raise QueryError(
                f"a quota is of one column, such as {{'genre': 3}}, got {len(given)}: "
                "under several at once the best list cannot be found item by item"
            )
        ((column, most),) = given.items()
        if not isinstance(column, str):
            raise QueryError(f"a quota is of a column of the items table, got {column!r:.60}")
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise QueryError(f"quota.{column} must be a whole number >= 1, got {most!r:.60}")
        return cls(value_codes(data, column), most)

    def kept(self, retriever: Ranks, block: RowQueries, k: int) -> Answer:
        """Answer as the retriever does, within the quota.

        All queries are asked at once; then again, one by one, those whose lists were too shallow.
        """
        everything = len(retriever.candidate_rows())
        depth = min(AHEAD * k, everything)
        found = retriever.answered(block, depth)
        answer, missing = self._chosen(found, k)
        # A list that ends before `depth`, or names all there is, holds everything that matches.
        whole = (found.hits.ids[:, -1] < 0).numpy() | (depth == everything)
        for query in np.flatnonzero((missing > 0) & ~whole).tolist():
            one = block.take(torch.tensor([query]))
            mine = self._deeper(retriever, one, answer.hits.ids[query], k)
            for slots, own in zip(_slots(answer), _slots(mine), strict=True):
                slots[query] = own[0]
        return answer

    def _deeper(self, retriever: Ranks, one: RowQueries, rows: Tensor, k: int) -> Answer:
        """Answer one query whose list was too shallow. rows: [k], what was chosen of it, or -1."""
        everything = len(retriever.candidate_rows())
        depth = min(2 * k, everything)
        for _ in range(ROUNDS):
            room = torch.from_numpy(self._with_room(rows[rows >= 0].numpy()))
            allow = room if one.allow is None else one.allow & room
            further = retriever.answered(replace(one, allow=allow), depth)
            mine, still = self._chosen(further, k)
            rows = mine.hits.ids[0]
            if not still[0] or further.hits.ids[0, -1] < 0 or depth < 2 * k:
                return mine
        return self._chosen(retriever.answered(one, everything), k)[0]

    def _with_room(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which items can be in the answer, bool [items + 1].

        The chosen ones can, and those of values that are not full. What a full value has in the
        answer is its best, and final.
        """
        values, counts = np.unique(self.codes[chosen], return_counts=True)
        full = values[(counts >= self.most) & (values >= 0)]
        room: NDArray[np.bool_] = ~np.isin(self.codes, full)
        room[chosen] = True
        return room

    def _chosen(self, found: Answer, k: int) -> tuple[Answer, NDArray[np.int64]]:
        """Return the first k of each list that keep to the quota, and how many are missing, [B]."""
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
    """What an answer holds of each slot."""
    return (*answer.hits, *(answer.origin or ()))


def _picked(slots: Tensor, at: Tensor, past_the_end: float) -> Tensor:
    """Return the slots [B, n, ...] at the places [B, k]; where the place is -1, `past_the_end`."""
    picked = slots[torch.arange(len(slots))[:, None], at.clamp(min=0)]
    picked[at < 0] = past_the_end
    return picked


@compiled
def _choose(rows: Any, codes: Any, most: Any, places: Any, missing: Any) -> None:
    """Write the places [B, k] of the items taken from rows [B, n], and how many are missing [B]."""
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
            if code >= 0:  # An item without a value counts towards none.
                for at in range(count):
                    alike += value[at] == code
            if alike < most:
                value[count] = code
                places[query, count] = place
                count += 1
        missing[query] = k - count
