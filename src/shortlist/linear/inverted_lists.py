"""Which items match the values of a taste best? Sorted lists are read in parallel.

A value is one category of an attribute, such as a genre. Each value has a list of its items, best
first, and a taste is a few values with weights. The score of an item is the sum, or the mean, of
weight x worth over those of its values whose list contains it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled

Rows = NDArray[np.int64]


class Members(NamedTuple):
    """Which values each item has: item i has value[e] for start[i] <= e < start[i + 1].

    start: [items + 2] int64.
    value: [P] int64, codes from 0, ascending within an item.
    place: [P] int64, the item's position in the list of the value; -1 if it is not in the list.
    """

    start: Rows
    value: Rows
    place: Rows


class SortedLists(NamedTuple):
    """The items of each value v, best first: item[start[v]:start[v + 1]], with their worth.

    start: [V + 1] int64.
    item: [L] int64, item rows.
    worth: [L] float32, the metric of each item.
    """

    start: Rows
    item: Rows
    worth: NDArray[np.float32]


class Tastes(NamedTuple):
    """The tastes of B queries: for each, ascending values with weights > 0.

    start: [B + 1], where the values of each query start.
    value, weight: [n].
    mean: whether a score is the mean over an item's values instead of the sum.
    """

    start: Rows
    value: Rows
    weight: NDArray[np.float64]
    mean: bool = False


def fill_lists(
    order: Rows,
    worth: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    members: Members,
    lists: SortedLists,
) -> None:
    """Append items, in their order [n], to the lists of their values until these are full.

    worth: [items + 1].
    wanted: bool [V], the values whose lists are filled again.
    The arrays of `lists` and the places of `members` are changed in place.
    """
    _fill(order, worth, wanted, members, lists)


def tastes_of(
    history: Rows,
    history_start: Rows,
    members: Members,
    trained: int,
    scale: NDArray[np.float64],
    *,
    recency: float | None = None,
    latest: int | None = None,
    mean: bool = False,
    worth: NDArray[np.float32] | None = None,
) -> Tastes:
    """Return the taste of each of B histories: the share of every value, times its `scale` [V].

    history: [E] item rows, oldest first.
    history_start: [B + 1].
    trained: items of a larger row are ignored.
    recency: half-life of an event, counted in events; None: all events count the same.
    latest: number of latest events that count; None: all.
    mean: passed on to `Tastes`.
    worth: [E], the weight of each event; None: 1.
    """
    counted = 2**31 if latest is None else latest
    each = np.zeros(0, dtype=np.float32) if worth is None else worth
    half_life = recency or np.inf
    shares = _shares(history, each, history_start, trained, half_life, counted, members, scale)
    return Tastes(*shares, mean)


def best_of_lists(
    tastes: Tastes,
    lists: SortedLists,
    members: Members,
    keys: Rows,
    k: int,
    seen: tuple[Rows, Rows] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> tuple[Rows, NDArray[np.float32]]:
    """Return the k best items of B tastes: rows and scores [B, k], padded with -1 and -inf.

    keys: tie keys, [items + 1]; of equal scores the smaller key is better.
    seen: (rows, starts [B + 1]), the rows that each query must not get.
    allow: bool [items + 1], the rows that any query may get; None: all.
    The result is exact, without reading whole lists (Fagin, Lotem, Naor 2001).
    """
    queries = len(tastes.start) - 1
    rows = np.full((queries, k), -1, dtype=np.int64)
    scores = np.full((queries, k), -np.inf, dtype=np.float32)
    met, start = seen or (np.zeros(0, dtype=np.int64), np.zeros(queries + 1, dtype=np.int64))
    allow = np.zeros(0, dtype=np.bool_) if allow is None else allow
    _walk(tastes, lists, members, keys, met, start, allow, rows, scores)
    return rows, scores


@compiled
def _fill(
    order: Rows,
    worth: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    members: Members,
    lists: SortedLists,
) -> None:
    size = np.zeros(len(lists.start) - 1, dtype=np.int64)
    for item in order:
        for pair in range(members.start[item], members.start[item + 1]):
            value = members.value[pair]
            if not wanted[value]:
                continue
            place = size[value]
            at = lists.start[value] + place
            if at == lists.start[value + 1]:
                members.place[pair] = -1
                continue
            lists.item[at] = item
            lists.worth[at] = worth[item]
            members.place[pair] = place
            size[value] += 1


@compiled
def _shares(
    history: Rows,
    worth: NDArray[np.float32],
    history_start: Rows,
    trained: int,
    recency: float,
    latest: int,
    members: Members,
    scale: NDArray[np.float64],
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    total = 0
    for item in history:
        if 0 < item <= trained:
            total += members.start[item + 1] - members.start[item]
    start = np.zeros(len(history_start), dtype=np.int64)
    value_of = np.empty(total, dtype=np.int64)
    weight_of = np.empty(total, dtype=np.float64)
    sums = np.zeros(len(scale), dtype=np.float64)
    filled = 0
    for query in range(len(history_start) - 1):
        begin, age, whole = filled, 0, 0.0
        for event in range(history_start[query + 1] - 1, history_start[query] - 1, -1):
            item = history[event]
            if item < 1 or item > trained:
                continue
            if age == latest:
                break
            weight = 2.0 ** (-age / recency)
            if len(worth) > 0:
                weight *= worth[event]
            age += 1
            if weight == 0.0:
                break  # all older weights are 0 as well
            for pair in range(members.start[item], members.start[item + 1]):
                value = members.value[pair]
                if sums[value] == 0.0:
                    value_of[filled] = value
                    filled += 1
                sums[value] += weight
                whole += weight
        value_of[begin:filled] = np.sort(value_of[begin:filled])
        for at in range(begin, filled):
            weight_of[at] = sums[value_of[at]] / whole * scale[value_of[at]]
            sums[value_of[at]] = 0.0
        start[query + 1] = filled
    return start, value_of[:filled].copy(), weight_of[:filled].copy()


@compiled
def _walk(  # noqa: PLR0912 - scoring is inlined, as a call would be slower
    tastes: Tastes,
    lists: SortedLists,
    members: Members,
    keys: Rows,
    seen: Rows,
    seen_start: Rows,
    allow: NDArray[np.bool_],
    rows: Rows,
    scores: NDArray[np.float32],
) -> None:
    """Read all lists of a taste in parallel, from their best items down.

    An item that first appears at some depth is no higher in any list, so its score is at most the
    sum of the entries at that depth. If that is less than the k-th best score, reading stops.
    """
    list_start, list_item, list_worth = lists.start, lists.item, lists.worth
    item_start, item_value, item_place = members.start, members.value, members.place
    width = rows.shape[1]
    taste = np.zeros(len(list_start) - 1, dtype=np.float64)
    for query in range(len(tastes.start) - 1):
        begin, end = tastes.start[query], tastes.start[query + 1]
        values, weights = tastes.value[begin:end], tastes.weight[begin:end]
        taste[values] = weights
        mine = np.sort(seen[seen_start[query] : seen_start[query + 1]])
        best, high = rows[query], scores[query]
        found, depth = 0, 0
        while True:
            most = _most(values, weights, list_start, list_worth, depth)
            full = found == width and most <= high[width - 1]
            if most < 0 or (full and most < high[width - 1]):
                break
            for at in range(len(values)):
                value = values[at]
                entry = list_start[value] + depth
                if entry >= list_start[value + 1]:
                    continue
                item = list_item[entry]
                if full and keys[item] > keys[best[width - 1]]:
                    continue  # at best it ties with the last item, and has a larger key
                # Its whole score, unless another list contained it earlier.
                total, fresh = 0.0, True
                for pair in range(item_start[item], item_start[item + 1]):
                    other, place = item_value[pair], item_place[pair]
                    if place < 0 or taste[other] == 0.0:
                        continue
                    if place < depth or (place == depth and other < value):
                        fresh = False
                        break
                    total += taste[other] * list_worth[list_start[other] + place]
                if not fresh:
                    continue
                if tastes.mean:
                    total /= item_start[item + 1] - item_start[item]
                score = np.float32(total)
                if found == width:
                    last, rival = high[width - 1], best[width - 1]
                    if score < last or (score == last and keys[item] > keys[rival]):
                        continue
                if len(allow) and not allow[item]:
                    continue
                near = np.searchsorted(mine, item)
                if near < len(mine) and mine[near] == item:
                    continue
                found = min(found + 1, width)
                _insert(item, score, found - 1, keys, best, high)
            depth += 1
        taste[values] = 0.0


@compiled
def _most(
    values: Rows,
    weights: NDArray[np.float64],
    list_start: Rows,
    list_worth: NDArray[np.float32],
    depth: int,
) -> np.float32:
    """Return an upper bound for items that first appear at this depth; -1 if all lists ended."""
    bound, ended = 0.0, True
    for at in range(len(values)):
        entry = list_start[values[at]] + depth
        if entry < list_start[values[at] + 1]:
            bound += weights[at] * list_worth[entry]
            ended = False
    # A sum in another order may be rounded up, so the bound is slightly enlarged.
    return np.float32(-1) if ended else np.float32(bound * (1 + 1e-9))


@compiled
def _insert(
    item: int, score: np.float32, last: int, keys: Rows, rows: Rows, scores: NDArray[np.float32]
) -> None:
    """Insert an item in order among the places up to `last`, whose item it replaces."""
    place = last
    while place > 0:
        above, rival = scores[place - 1], rows[place - 1]
        if above > score or (above == score and keys[rival] < keys[item]):
            break
        scores[place], rows[place] = above, rival
        place -= 1
    scores[place], rows[place] = score, item
