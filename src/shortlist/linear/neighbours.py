"""Which N items are nearest to each item by shared users, without the full matrix?"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.data.interactions import Interactions
from shortlist.errors import ModelError
from shortlist.linear.matrix import Values
from shortlist.linear.ranking import TieRanks, best_first
from shortlist.selection import NOTHING, empty_held, hold, key_of, score_of, write_best

ROWS = 4096
"""Items per call of the kernel, so that progress can be reported between calls."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """The distinct (user, item) pairs of a log, each user's in the order of their last events.

    start: [users + 1] int64, where the pairs of each user start.
    item: [pairs] uint32, item rows.
    event: [pairs] int64, position in the log of the pair's last event.
    target: [pairs] bool, with kinds of events: True if an event of the pair is a target. None: all.
    worth: [pairs] float64, with kinds of events: the largest weight of the pair's events. None: 1.
    """

    start: NDArray[np.int64]
    item: NDArray[np.uint32]
    event: NDArray[np.int64]
    target: NDArray[np.bool_] | None = None
    worth: Floats | None = None

    @property
    def user(self) -> NDArray[np.int64]:
        """User row of each pair, [pairs]."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def keep(self, mask: NDArray[np.bool_]) -> "Pairs":
        """Return the pairs where `mask` [pairs] is True, in order."""
        if mask.all():
            return self
        start = np.concatenate([[0], np.cumsum(mask)])[self.start]
        return Pairs(
            start,
            self.item[mask],
            self.event[mask],
            None if self.target is None else self.target[mask],
            None if self.worth is None else self.worth[mask],
        )

    def latest(self, most: int | None) -> "Pairs":
        """Return the last `most` pairs of each user, their latest distinct items; None: all."""
        if most is None or most >= self.items_of_users().max(initial=0):
            return self
        older = np.maximum(self.items_of_users() - most, 0)
        change = np.zeros(len(self.item) + 1, dtype=np.int64)
        long = older > 0
        change[self.start[:-1][long]] -= 1
        change[(self.start[:-1] + older)[long]] += 1
        return self.keep(np.cumsum(change[:-1]) == 0)

    def items_of_users(self) -> NDArray[np.int64]:
        """Return the number of items of each user, [users]."""
        return np.diff(self.start)

    def users_of_items(self, items: int) -> NDArray[np.int64]:
        """Return the number of users of each item, [items + 1]."""
        return np.bincount(self.item, minlength=items + 1)

    def targets_of_items(self, items: int) -> NDArray[np.int64]:
        """Return the number of users who have each item as a target, [items + 1]."""
        if self.target is None:
            return self.users_of_items(items)
        return np.bincount(self.item[self.target], minlength=items + 1)


@dataclass(frozen=True)
class Neighbours:
    """Lists of neighbours, best first: list i is ids[start[i]:start[i + 1]].

    start: [lists + 1] int64.
    ids: [total] int32, item rows.
    scores: [total] float32, the score of each.
    For a whole catalogue there is one list per item row, and the list of row 0 is empty.
    """

    start: NDArray[np.int64]
    ids: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.start) - 1

    @classmethod
    def of_table(cls, ids: NDArray[np.int32], scores: NDArray[np.float32]) -> "Neighbours":
        """Return the lists in two tables [lists, N]; a list ends before its first id of 0."""
        there = np.minimum.accumulate(ids != 0, axis=1)
        start = np.concatenate([[0], np.cumsum(np.count_nonzero(there, axis=1))])
        return cls(start.astype(np.int64), ids[there], scores[there])

    def of(self, lists: NDArray[np.int64]) -> "Neighbours":
        """Return some of the lists, [n], in the given order."""
        places, start = _places_of(self.start, lists)
        return Neighbours(start, self.ids[places], self.scores[places])

    def with_lists(self, lists: NDArray[np.int64], others: "Neighbours") -> "Neighbours":
        """Return these lists with the lists numbered `lists` [n] replaced by the n `others`."""
        source = np.arange(len(self))
        source[lists] = len(self) + np.arange(len(lists))
        start = np.concatenate([self.start, others.start[1:] + self.start[-1]])
        ids = np.concatenate([self.ids, others.ids])
        return Neighbours(start, ids, np.concatenate([self.scores, others.scores])).of(source)


class Found:
    """Collects lists that are found in parts and in any order, and sorts them by number."""

    def __init__(self, lists: int) -> None:
        self._length = np.zeros(lists, dtype=np.int64)
        self._parts: list[tuple[NDArray[np.int64], Neighbours]] = []

    def add(
        self, lists: NDArray[np.int64], ids: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> None:
        """Add the lists of these numbers [n] as tables [n, N], with 0 after the last id."""
        part = Neighbours.of_table(ids, scores)
        self._length[lists] = np.diff(part.start)
        self._parts.append((lists, part))

    def neighbours(self) -> Neighbours:
        """Return all lists; lists that were never added are empty."""
        start = np.concatenate([[0], np.cumsum(self._length)]).astype(np.int64)
        ids = np.empty(start[-1], dtype=np.int32)
        scores = np.empty(start[-1], dtype=np.float32)
        while self._parts:
            lists, part = self._parts.pop()
            places, _ = _places_of(start, lists)
            ids[places], scores[places] = part.ids, part.scores
        return Neighbours(start, ids, scores)


@dataclass(frozen=True)
class Formula:
    """How a co-count becomes a score.

    s_ij = c_ij · left_i · right_j, or with `union` c_ij / (left_i + right_j - c_ij).
    c_ij sums, over the users of both i and j, user_weight_u · value_ui · value_uj ·
    2^(-|time_ui - time_uj| / half_life). With kinds of events, j must be a target of the user.

    left, right: [items + 1] float64.
    union: whether the second form is used.
    value: [pairs] float64; None: 1.
    time: [pairs] float64; None: no decay.
    user_weight: [users]; None: 1.
    shrinkage: s_ij is multiplied by n_ij / (n_ij + shrinkage), where n_ij users are shared.
    half_life: in the unit of `time`.
    """

    left: Floats
    right: Floats
    union: bool = False
    value: Floats | None = None
    time: Floats | None = None
    user_weight: Floats | None = None
    shrinkage: float = 0.0
    half_life: float = 1.0


def distinct_pairs(log: Interactions, items: int, most: int | None = None) -> Pairs:
    """Return the distinct pairs of a log, without events of row 0 and of rows above `items`.

    most: only the latest so many pairs of each user; None: all.
    """
    kept = np.empty(len(log), dtype=np.int64)
    start = np.empty(log.users + 1, dtype=np.int64)
    plain = log.target is None and log.worth is None
    wanted = most if most is not None and plain else items
    count = _last_events(log.indptr, log.item, items, wanted, kept, start)
    event = kept[:count]
    pairs = Pairs(start, log.item[event].astype(np.uint32), event)
    return pairs if plain else replace(pairs, **_of_kinds(log, items, event)).latest(most)


def _of_kinds(log: Interactions, items: int, event: NDArray[np.int64]) -> dict[str, Any]:
    """Return `target` and `worth` of `Pairs`. event: [pairs], the last event of each pair."""
    keys = log.user.astype(np.int64) * (items + 1) + log.item
    order = np.argsort(keys[event], kind="stable")
    place = np.searchsorted(keys[event][order], keys)
    place[place == len(order)] = 0
    known = (log.item > 0) & (log.item <= items)
    pair = order[place[known]] if len(order) else place[:0]
    found: dict[str, Any] = {}
    if log.target is not None:
        found["target"] = np.zeros(len(event), dtype=np.bool_)
        found["target"][pair[log.target[known]]] = True
    if log.worth is not None:
        found["worth"] = np.zeros(len(event))
        np.maximum.at(found["worth"], pair, log.worth[known].astype(np.float64))
    return found


def counted_pairs(
    log: Interactions, items: int, values: Values = "implicit", most: int | None = None
) -> Pairs:
    """Return the distinct pairs that count; with explicit values, those with a non-zero weight.

    most: only the latest so many pairs of each user; None: all.
    Errors: ModelError for explicit values of a log without weights.
    """
    if values == "implicit":
        return distinct_pairs(log, items, most)
    weight, pairs = log.weights_for("values = 'explicit'"), distinct_pairs(log, items)
    return pairs.keep(weight[pairs.event] != 0).latest(most)


def nearest(
    pairs: Pairs,
    formula: Formula,
    tie_keys: NDArray[np.int64],
    neighbours: int,
    rows: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Return the nearest items of each item; equal scores are ordered by tie key, smaller first.

    tie_keys: [items + 1 or more].
    rows: distinct item rows; list i belongs to rows[i]. None: all rows, with an empty list for 0.
    Memory: the pairs, the items and the result. Time: the sum over users of their items squared.
    """
    items = len(formula.left) - 1
    neighbours = min(neighbours, max(items, 1))
    ties = TieRanks.of(tie_keys[: items + 1])
    places = _Places.by_popularity(pairs.users_of_items(items))
    lists = _Lists.of(pairs, formula, places)
    found = Found(items + 1 if rows is None else len(rows))
    number = np.arange(1, items + 1) if rows is None else np.arange(len(rows))
    place = places.place[1:] if rows is None else places.place[rows]
    order = np.argsort(place)  # neighbouring popular items share users, which stay cached
    left, right, rank = (of[places.row] for of in (formula.left, formula.right, ties.rank))
    for start in range(0, len(order), ROWS):
        block = order[start : start + ROWS]
        keys = np.empty((len(block), neighbours), dtype=np.int64)
        _nearest(
            place[block],
            lists.list,
            lists.list_value,
            lists.list_time,
            lists.item_start,
            lists.item_list,
            lists.item_value,
            lists.item_time,
            left,
            right,
            formula.union,
            float(formula.shrinkage),
            1.0 / formula.half_life,
            rank,
            keys,
        )
        best = np.zeros((len(block), neighbours), dtype=np.int32), np.zeros(keys.shape, np.float32)
        best_first(keys, ties, *best)
        found.add(number[block], *best)
    return found.neighbours()


def renamed(kept: Neighbours, row: NDArray[np.int64], items: int) -> Neighbours:
    """Return the neighbours with item row r renamed to row[r - 1], without rows above `items`."""
    new = np.concatenate([[0], np.where(row <= items, row, 0)]).astype(np.int32)
    ids = new[kept.ids]
    there = ids > 0
    start = np.concatenate([[0], np.cumsum(there)])[kept.start]
    old = np.zeros(items + 1, dtype=np.int64)  # new items get list 0, which is empty
    old[new] = np.arange(len(new))
    old[0] = 0
    return Neighbours(start, ids[there], kept.scores[there]).of(old)


def _places_of(
    start: NDArray[np.int64], lists: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the entries of these lists, in order, and where each list starts."""
    length = start[lists + 1] - start[lists]
    begin = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return np.repeat(start[lists] - begin[:-1], length) + np.arange(begin[-1]), begin


def spread(pairs: Pairs, items: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which items share a user with any marked item, bool [items + 1]."""
    users = np.zeros(len(pairs.start) - 1, dtype=np.bool_)
    user = pairs.user
    users[user[items[pairs.item]]] = True
    reached = np.zeros(len(items), dtype=np.bool_)
    reached[pairs.item[users[user]]] = True
    return reached


@dataclass(frozen=True)
class _Places:
    """Items numbered by popularity, so that frequently counted ones are close in the cache.

    place: [items + 1], the place of each row.
    row: [items + 1], the row at each place.
    """

    place: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def by_popularity(cls, counts: NDArray[np.int64]) -> "_Places":
        row = np.concatenate([[0], 1 + np.argsort(-counts[1:], kind="stable")])
        place = np.empty(len(counts), dtype=np.int64)
        place[row] = np.arange(len(counts))
        return cls(place, row)


@dataclass(frozen=True)
class _Lists:
    """The items of each user, as places, and for each item where its users' lists start.

    list: [users + pairs] uint32. Each list is preceded by its length, so that one memory access
    finds both. Users with one item are left out, as they connect it to nothing. With kinds of
    events the lists have only targets, and every item refers to the lists of all of its users.
    list_value, list_time: value and time of each entry of `list`; length 0 if all are the same.
    item_start: [items + 2].
    item_list: [pairs] uint32, the list starts of each item.
    item_value, item_time: value (times the user's weight) and time of each of these.
    """

    list: NDArray[np.uint32]
    list_value: Floats
    list_time: Floats
    item_start: NDArray[np.int64]
    item_list: NDArray[np.uint32]
    item_value: Floats
    item_time: Floats

    @classmethod
    def of(cls, pairs: Pairs, formula: Formula, places: _Places) -> "_Lists":
        room = len(pairs.item) + len(pairs.start)
        if room >= 2**32:
            raise ModelError(f"neighbours are found for fewer than 2^32 pairs, got {room}")
        items = places.place.astype(np.uint32)[pairs.item]
        none = np.empty(0)
        value = formula.value
        if value is None and formula.user_weight is not None:
            value = np.ones(len(items))
        lists = np.empty(room, dtype=np.uint32)
        list_value = np.empty(room if value is not None else 0)
        list_time = np.empty(room if formula.time is not None else 0)
        item_start = np.zeros(len(places.row) + 1, dtype=np.int64)
        item_list = np.empty(len(items), dtype=np.uint32)
        item_value = np.empty(len(items) if value is not None else 0)
        item_time = np.empty(len(items) if formula.time is not None else 0)
        used = _turn(
            pairs.start,
            items,
            none if value is None else value,
            none if formula.time is None else formula.time,
            none if formula.user_weight is None else formula.user_weight,
            np.empty(0, dtype=np.bool_) if pairs.target is None else pairs.target,
            lists,
            list_value,
            list_time,
            item_start,
            item_list,
            item_value,
            item_time,
        )
        return cls(
            lists[:used], list_value, list_time, item_start, item_list, item_value, item_time
        )


@compiled
def _last_events(indptr: Any, item: Any, items: int, most: int, kept: Any, start: Any) -> int:
    """Write the position of the last event of each pair, ascending, and where each user starts.

    most: the number of pairs after which older events of a user are not looked at.
    """
    owner = np.full(items + 1, -1, dtype=np.int64)
    count = 0
    for user in range(len(indptr) - 1):
        start[user] = count
        for at in range(indptr[user + 1] - 1, indptr[user] - 1, -1):
            row = item[at]
            if row > 0 and row <= items and owner[row] != user:
                if count - start[user] == most:
                    break
                owner[row] = user
                kept[count] = at
                count += 1
        low, high = start[user], count - 1
        while low < high:
            kept[low], kept[high] = kept[high], kept[low]
            low, high = low + 1, high - 1
    start[len(indptr) - 1] = count
    return count


@compiled
def _turn(
    start: Any,
    items: Any,
    value: Any,
    time: Any,
    user_weight: Any,
    target: Any,
    lists: Any,
    list_value: Any,
    list_time: Any,
    item_start: Any,
    item_list: Any,
    item_value: Any,
    item_time: Any,
) -> int:
    """Write the arrays of `_Lists`, users ascending in both; return the used length of `lists`."""
    some = len(target) > 0
    used = 0
    users = len(start) - 1
    for user in range(users):
        length = start[user + 1] - start[user]
        if length < 2:
            continue
        head = used
        used += 1
        for at in range(start[user], start[user + 1]):
            item_start[items[at] + 1] += 1
            if some and not target[at]:
                continue
            lists[used] = items[at]
            if len(value) > 0:
                list_value[used] = value[at]
            if len(time) > 0:
                list_time[used] = time[at]
            used += 1
        lists[head] = used - head - 1
    for place in range(1, len(item_start)):
        item_start[place] += item_start[place - 1]
    fill = item_start.copy()
    head = 0
    for user in range(users):
        length = start[user + 1] - start[user]
        if length < 2:
            continue
        for at in range(start[user], start[user + 1]):
            place = items[at]
            item_list[fill[place]] = head
            if len(value) > 0:
                weight = user_weight[user] if len(user_weight) > 0 else 1.0
                item_value[fill[place]] = value[at] * weight
            if len(time) > 0:
                item_time[fill[place]] = time[at]
            fill[place] += 1
        head += 1 + lists[head]
    return used


@compiled
def _nearest(
    wanted: Any,
    lists: Any,
    list_value: Any,
    list_time: Any,
    item_start: Any,
    item_list: Any,
    item_value: Any,
    item_time: Any,
    left: Any,
    right: Any,
    union: bool,
    shrinkage: float,
    rate: float,
    rank: Any,
    keys: Any,
) -> None:
    """Write the keys [wanted, N] of the nearest items of each wanted place, in any order.

    One dense array of counts serves all items; the list of touched items clears it. A key is the
    score's bits above the tie rank, so one integer comparison is enough. Places are unsigned,
    because a signed index costs a test for negative values.
    """
    items, best = len(left) - 1, keys.shape[1]
    held = empty_held(best)
    shared = np.zeros(items + 1, dtype=np.int32)
    weighted, decays = len(list_value) > 0, len(list_time) > 0
    total = np.zeros(items + 1 if weighted or decays else 1, dtype=np.float64)
    touched = np.empty(items + 2, dtype=np.uint32)
    one = np.uint64(1)
    for at in range(len(wanted)):
        i = wanted[at]
        many = np.uint64(0)
        for place in range(item_start[i], item_start[i + 1]):
            head = np.uint64(item_list[place]) + one
            end = head + np.uint64(lists[head - one])
            if not (weighted or decays):
                for e in range(head, end):
                    j = lists[e]
                    count = shared[j]
                    touched[many] = j
                    many += np.uint64(count == 0)  # a branch here would be unpredictable
                    shared[j] = count + 1
                continue
            value = item_value[place] if weighted else 1.0
            for e in range(head, end):
                j = lists[e]
                count = shared[j]
                touched[many] = j
                many += np.uint64(count == 0)
                shared[j] = count + 1
                amount = value * list_value[e] if weighted else 1.0
                if decays:
                    amount *= np.exp2(-rate * abs(list_time[e] - item_time[place]))
                total[j] += amount
        count_held, floor = 0, np.int64(NOTHING)
        for t in range(many):
            j = touched[t]
            count = shared[j]
            shared[j] = 0
            amount = np.float64(count)
            if weighted or decays:
                amount = total[j]
                total[j] = 0.0
            if union:
                score = amount / (left[i] + right[j] - amount)
            else:
                score = amount * (left[i] * right[j])
            if shrinkage > 0:
                score *= count / (count + shrinkage)
            single = np.float32(score)
            if single < score_of(floor) or single == 0 or j == i:
                continue
            key = key_of(single, items - rank[j])
            count_held, floor = hold(held, count_held, floor, best, key)
        write_best(held, count_held, keys[at])
