"""Which N items follow each item soonest? Directed counts within a window, never all pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.data.interactions import Interactions
from shortlist.linear.neighbours import Found, Neighbours
from shortlist.linear.ranking import TieRanks, best_first
from shortlist.selection import NOTHING, empty_held, hold, key_of, write_best

Floats = NDArray[np.float64]

ROWS = 4096
"""Items per call of a kernel."""

HOPS = 50
"""The second hop uses this many followers of an item, and this many of each of them."""


COMMON = 20_000
"""Values of more items are ignored: they say little, and comparing their items is quadratic."""


@dataclass(frozen=True)
class Steps:
    """The weight of a step from i to j, d events later: closeness_d · value_i · aim_j.

    The score of j after i is the sum of the steps in the log, times left_i · right_j.

    closeness: [window + 1] float64; place 0 is not read.
    backward: weight of the same step in the other direction, i after j, as a fraction.
    left, right: [items + 1] float64.
    value: [events] float64, weight of each event as the start of a step; None: 1.
    aim: [events] float64, weight of each event as the end of a step; None: as `value`.
    """

    closeness: Floats
    backward: float
    left: Floats
    right: Floats
    value: Floats | None = None
    aim: Floats | None = None


@dataclass(frozen=True)
class Alike:
    """Attribute values of items, with the weight of each value in its item.

    Item i has the value code[e] with worth[e], for start[i] <= e < start[i + 1]. The worth of each
    item has norm 1, so that the product of two items is a cosine.
    weight: what a cosine of 1 adds to a score.
    """

    start: NDArray[np.int64]
    code: NDArray[np.int64]
    worth: Floats
    weight: float

    @classmethod
    def by_rarity(
        cls, offsets: NDArray[np.int64], codes: NDArray[np.int64], items: int, weight: float
    ) -> "Alike":
        """Weight each value by log(items / items with the value) (tf-idf), normalised per item.

        offsets, codes: as returned by `attributes.value_lists`; rows above `items` are left out,
        and values of more than COMMON items have weight 0.
        """
        start = offsets[: items + 2]
        code = codes[: start[-1]]
        held = np.bincount(code, minlength=1)
        rarity = np.log(items / np.maximum(held, 1))
        rarity[held > COMMON] = 0
        worth = rarity[code]
        owner = np.repeat(np.arange(items + 1), np.diff(start))
        length = np.sqrt(np.bincount(owner, worth**2, items + 1))[owner]
        return cls(start, code, np.divide(worth, length, where=length > 0, out=worth * 0), weight)

    def by_value(
        self, among: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Return the transpose: where each code starts, the items that have it, and their worth.

        Values without worth have no items.
        among: bool [items + 1], the items that count; None: all.
        """
        owner = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        order = np.argsort(self.code, kind="stable")
        order = order[self.worth[order] != 0]
        if among is not None:
            order = order[among[owner[order]]]
        counts = np.bincount(self.code[order], minlength=self.code.max(initial=0) + 1)
        return np.concatenate([[0], np.cumsum(counts)]), owner[order], self.worth[order]


def followers(
    log: Interactions,
    steps: Steps,
    tie_keys: NDArray[np.int64],
    neighbours: int,
    *,
    second_hop: float = 0.0,
    alike: Alike | None = None,
) -> Neighbours:
    """Return the items that follow each item best; equal scores by tie key, smaller first.

    Events of row 0 and of rows above the number of items occupy a place and count nothing.
    tie_keys: [items + 1 or more].
    neighbours: number of followers per item.
    second_hop: weight of Σ_k s_ik · s_kj / Σ_j s_kj, the items reached over one follower k more.
    alike: attribute values, whose cosines are added; None: none.
    Memory: the events, and items x neighbours. Time: events x window, and for attributes the sum
    over values of their items squared.
    """
    items = len(steps.left) - 1
    neighbours = min(neighbours, max(items, 1))
    ties = TieRanks.of(tie_keys[: items + 1])
    item = np.where(log.item <= items, log.item, 0).astype(np.int32)
    begin, end = (bound[log.user] for bound in (log.indptr[:-1], log.indptr[1:]))
    event = np.argsort(item, kind="stable")
    event_start = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=items + 1))])
    if alike is None:
        alike = Alike(np.zeros(items + 2, np.int64), np.empty(0, np.int64), np.empty(0), 0.0)
    # With kinds of events, items that were never a target have attributes but follow nothing.
    among = None if log.target is None else steps.right > 0
    value_start, value_item, value_worth = alike.by_value(among)
    value = np.empty(0) if steps.value is None else steps.value
    aim = value if steps.aim is None else steps.aim
    found = Found(items + 1)
    for first, keys in _blocks(items, neighbours):
        _followers(
            first,
            item,
            begin,
            end,
            value,
            aim,
            event_start,
            event,
            steps.closeness,
            float(steps.backward),
            steps.left,
            steps.right,
            alike.start,
            alike.code,
            alike.worth * alike.weight,
            value_start,
            value_item,
            value_worth,
            ties.rank,
            keys,
        )
        _add(found, first, keys, ties)
    once = found.neighbours()
    if second_hop == 0:
        return once
    for first, keys in _blocks(items, neighbours):
        _second_hop(first, once.start, once.ids, once.scores, second_hop, HOPS, ties.rank, keys)
        _add(found, first, keys, ties)
    return found.neighbours()


def _blocks(items: int, neighbours: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the rows 1 to `items` in blocks: the first row, and an empty array for the keys."""
    for first in range(1, items + 1, ROWS):
        yield first, np.empty((min(ROWS, items + 1 - first), neighbours), dtype=np.int64)


def _add(found: Found, first: int, keys: NDArray[np.int64], ties: TieRanks) -> None:
    ids, scores = np.zeros(keys.shape, np.int32), np.zeros(keys.shape, np.float32)
    best_first(keys, ties, ids, scores)
    found.add(first + np.arange(len(keys)), ids, scores)


@compiled
def _followers(
    first: int,
    item: Any,
    begin: Any,
    end: Any,
    value: Any,
    aim: Any,
    event_start: Any,
    event: Any,
    closeness: Any,
    backward: float,
    left: Any,
    right: Any,
    alike_start: Any,
    alike_code: Any,
    alike_worth: Any,
    value_start: Any,
    value_item: Any,
    value_worth: Any,
    rank: Any,
    keys: Any,
) -> None:
    """Write the keys [rows, N] of the best followers of the rows from `first`, in any order."""
    total = np.zeros(len(left), dtype=np.float64)
    state = np.zeros(len(left), dtype=np.uint8)
    touched = np.empty(len(left) + 1, dtype=np.int32)
    held = empty_held(keys.shape[1])
    window = len(closeness) - 1
    for row in range(len(keys)):
        i = first + row
        state[0] = state[i] = 1
        many = 0
        for place in range(event_start[i], event_start[i + 1]):
            at = event[place]
            mine = left[i]
            if len(value) > 0:
                mine *= value[at]
            for ahead in range(2):
                share = 1.0 if ahead == 0 else backward
                reach = end[at] - 1 - at if ahead == 0 else at - begin[at]
                if share == 0:
                    continue
                for d in range(1, min(window, reach) + 1):
                    other = at + d if ahead == 0 else at - d
                    j = item[other]
                    amount = mine * share * closeness[d] * right[j]
                    if len(aim) > 0:
                        amount *= aim[other]
                    touched[many] = j
                    many += 1 - state[j]
                    state[j] = 1
                    total[j] += amount
        for place in range(alike_start[i], alike_start[i + 1]):
            v = alike_code[place]
            for e in range(value_start[v], value_start[v + 1]):
                j = value_item[e]
                touched[many] = j
                many += 1 - state[j]
                state[j] = 1
                total[j] += alike_worth[place] * value_worth[e]
        total[0] = total[i] = 0
        state[0] = state[i] = 0
        _best_touched(total, state, touched, many, rank, held, keys[row])


@compiled
def _second_hop(
    first: int,
    start: Any,
    ids: Any,
    scores: Any,
    weight: float,
    hops: int,
    rank: Any,
    keys: Any,
) -> None:
    """Write the keys [rows, N] of the rows from `first` after the second hop, in any order."""
    total = np.zeros(len(rank), dtype=np.float64)
    state = np.zeros(len(rank), dtype=np.uint8)
    touched = np.empty(len(rank) + 1, dtype=np.int32)
    held = empty_held(keys.shape[1])
    for row in range(len(keys)):
        i = first + row
        state[i] = 1
        many = 0
        for place in range(start[i], start[i + 1]):
            j = ids[place]
            touched[many] = j
            many += 1 - state[j]
            state[j] = 1
            total[j] += np.float64(scores[place])
        for place in range(start[i], min(start[i] + hops, start[i + 1])):
            k = ids[place]
            end = min(start[k] + hops, start[k + 1])
            out = 0.0
            for step in range(start[k], end):
                out += np.float64(scores[step])
            if out <= 0:
                continue
            amount = weight * np.float64(scores[place]) / out
            for step in range(start[k], end):
                j = ids[step]
                touched[many] = j
                many += 1 - state[j]
                state[j] = 1
                total[j] += amount * np.float64(scores[step])
        total[i] = 0
        state[i] = 0
        _best_touched(total, state, touched, many, rank, held, keys[row])


@compiled
def _best_touched(
    total: Any, state: Any, touched: Any, many: int, rank: Any, held: Any, keys: Any
) -> None:
    """Write the keys [N] of the best touched totals, and clear the touched entries."""
    last, best = len(rank) - 1, len(keys)
    count, floor = 0, np.int64(NOTHING)
    for t in range(many):
        j = touched[t]
        score = np.float32(total[j])
        total[j] = 0
        state[j] = 0
        if score != 0:
            count, floor = hold(held, count, floor, best, key_of(score, last - rank[j]))
    write_best(held, count, keys)
