"""Which k of the candidates found for a query are the best? They are scored again in float32.

A score depends on the query and the item alone: the same code computes it in the same order of
operations, at any position and whatever the rest of the batch is.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from shortlist.compiled import compiled, worth_loading
from shortlist.index.checks import check_exclude
from shortlist.index.pairs import (
    Floats,
    Rows,
    measure_points,
    measures_of,
    score_pairs,
    scores_of,
)
from shortlist.selection import NOTHING, empty_held, hold, key_of, score_of, write_best

LAST = 2**31 - 1
"""Keys hold LAST - column, so that among equal scores the lower column is the better."""


class Contents(NamedTuple):
    """What is searched.

    ids: int64 [N], by column.
    vectors: float32 [N, D], by column.
    columns: int64, the column of each slot of the library, -1 for a removed item. Empty if slots
    are columns.
    euclidean: scores are minus squared distances if True, else dot products.
    """

    ids: Rows
    vectors: Floats
    columns: Rows
    euclidean: bool


class Seen(NamedTuple):
    """The ids that each query must not get: ids[starts[i]:starts[i + 1]] for query i.

    ids: int64, those of all queries, one query after another.
    starts: int64 [B + 1].
    """

    ids: Rows
    starts: Rows


RUN = 1024
"""Columns that are scored in one block before their keys are compared."""

PLAIN_NUMBERS = 500_000
"""Most products computed in numpy (a few milliseconds); more are worth loading compiled code."""

SAFE_SQUARE = 7e37  # Below this squared length no score of two vectors overflows float32.
UNSEEN = np.empty(0, dtype=np.int64)


def best_of_slots(
    contents: Contents, points: Floats, slots: Rows, seen: Seen | None, k: int
) -> tuple[Rows, Floats, int]:
    """Return the k best candidates of each query and the number of queries with fewer than k.

    points: float32 [B, K, D]; an item's score is its best over the K interests.
    slots: int64 [B x K, F], the candidates by slot, -1 for none.
    seen: the excluded ids of each query, or None.
    Returns (ids [B, k], scores [B, k], queries with fewer than k items). Short rows end with id -1
    and score -inf.
    """
    if slots.size * points.shape[2] <= PLAIN_NUMBERS and not worth_loading():
        columns = slots if not len(contents.columns) else contents.columns[slots]
        columns = np.where(slots < 0, -1, columns).reshape(len(points), -1)
        return best_plainly(contents, points, columns, seen, k)
    keys = np.empty((len(points), slots.size // len(points)), dtype=np.int64)
    ids, starts = (UNSEEN, UNSEEN) if seen is None else seen
    _keys_of_slots(*contents, points, slots.reshape(keys.shape), ids, starts, keys)
    return _answers(contents, keys, k)


def best_of_columns(
    contents: Contents, points: Floats, columns: Rows | None, seen: Seen | None, k: int
) -> tuple[Rows, Floats, int]:
    """Do what `best_of_slots` does for one set of candidates for all queries.

    columns: int64 [any], distinct; None means all columns.
    """
    count = len(contents.ids) if columns is None else len(columns)
    if count * points.size <= PLAIN_NUMBERS and not worth_loading():
        some = np.arange(count) if columns is None else columns
        return best_plainly(contents, points, np.broadcast_to(some, (len(points), count)), seen, k)
    keys = np.empty((len(points), k), dtype=np.int64)
    ids, starts = (UNSEEN, UNSEEN) if seen is None else seen
    every = columns is None
    some = UNSEEN if columns is None else columns
    best = min(k, len(contents.ids))
    _keys_of_columns(*contents, points, some, every, ids, starts, best, keys)
    return _answers(contents, keys, k)


def best_plainly(
    contents: Contents, points: Floats, columns: Rows, seen: Seen | None, k: int
) -> tuple[Rows, Floats, int]:
    """Do the same in numpy alone, with bit-equal results; columns: int64 [B, F], -1 for none."""
    ids = np.full((len(points), k), -1, dtype=np.int64)
    scores = np.full((len(points), k), -np.inf, dtype=np.float32)
    for row, interests in enumerate(points):
        some = np.unique(columns[row])  # Ascending, so that a stable sort keeps the tie order.
        some = some[some >= 0]
        if seen is not None:
            out = seen.ids[seen.starts[row] : seen.starts[row + 1]]
            some = some[~np.isin(contents.ids[some], out)]
        found = scores_of(interests, contents.vectors[some], contents.euclidean)
        best = np.argsort(-found, kind="stable")[:k]
        ids[row, : len(best)] = contents.ids[some[best]]
        scores[row, : len(best)] = found[best] + np.float32(0)  # -0 is 0
    return ids, scores, int((ids < 0).any(axis=1).sum())


def _answers(contents: Contents, keys: Rows, k: int) -> tuple[Rows, Floats, int]:
    """Decode the k best distinct keys of each row of [B, any]. Sorts the keys in place."""
    keys.sort(axis=1)  # numpy's integer sort is many times faster than one compiled by numba
    ids, scores = np.empty((len(keys), k), np.int64), np.empty((len(keys), k), np.float32)
    return ids, scores, _decode(keys, contents.ids, ids, scores)


def seen_of(exclude: tuple[Tensor, Tensor], rows: int) -> Seen:
    """Return `exclude` as arrays. Errors: QueryError unless it has one list for each query."""
    ids, starts = exclude[0].numpy(), exclude[1].numpy()
    if rows != 1 or len(starts) != 2 or starts[0] != 0 or starts[1] != len(ids):
        check_exclude(exclude, rows)
    return Seen(np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(starts, np.int64))


def measure(points: Floats, unit: Floats) -> tuple[float, float]:
    """Return the least and the greatest squared length of points [P, D]; NaN if any is not finite.

    unit: float32 [P, D], receives the normalised points; a zero vector stays zero. Pass an empty
    [0, D] to skip that.
    """
    if points.size <= PLAIN_NUMBERS and not worth_loading():
        return measures_of(points, unit)
    least, greatest = measure_points(points, unit)
    return least, greatest


@compiled
def holds(ordered: Any, value: Any) -> Any:
    """Return whether an ascending array contains a value, by binary search."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ordered) and ordered[low] == value


@compiled
def _keys_of_slots(
    ids: Any,
    vectors: Any,
    columns: Any,
    euclidean: Any,
    points: Any,
    slots: Any,
    seen: Any,
    starts: Any,
    keys: Any,
) -> None:
    """Write the keys of the valid candidates of each row, then NOTHING."""
    some = np.empty(slots.shape[1], dtype=np.int64)
    scores = np.empty(slots.shape[1], dtype=np.float32)
    for row in range(len(slots)):
        out = seen
        if len(starts) > 0:
            out = np.sort(seen[starts[row] : starts[row + 1]])
        count = 0
        for place in range(slots.shape[1]):
            column = slots[row, place]
            if column >= 0 and len(columns) > 0:
                column = columns[column]
            if column >= 0 and not (len(out) > 0 and holds(out, ids[column])):
                some[count] = column
                count += 1
        score_pairs(points, row, vectors, euclidean, some, count, scores)
        for place in range(count):
            keys[row, place] = key_of(scores[place], LAST - some[place])
        keys[row, count:] = NOTHING


@compiled
def _keys_of_columns(
    ids: Any,
    vectors: Any,
    columns: Any,  # noqa: ARG001
    euclidean: Any,
    points: Any,
    some: Any,
    every: Any,
    seen: Any,
    starts: Any,
    best: Any,
    keys: Any,
) -> None:
    """Write the keys of the `best` highest-scoring columns, in any order, then NOTHING."""
    held = empty_held(best)
    run = np.empty(RUN, dtype=np.int64)
    scores = np.empty(RUN, dtype=np.float32)
    total = len(ids) if every else len(some)
    for row in range(len(points)):
        out = seen
        if len(starts) > 0:
            out = np.sort(seen[starts[row] : starts[row + 1]])
        count, floor = 0, np.int64(NOTHING)
        for start in range(0, total, RUN):
            length = min(RUN, total - start)
            for place in range(length):
                run[place] = start + place if every else some[start + place]
            score_pairs(points, row, vectors, euclidean, run, length, scores)
            for place in range(length):
                key = key_of(scores[place], LAST - run[place])
                if key <= floor or (len(out) > 0 and holds(out, ids[run[place]])):
                    continue
                count, floor = hold(held, count, floor, best, key)
        write_best(held, count, keys[row])


@compiled
def _decode(keys: Any, ids: Any, found: Any, scores: Any) -> int:
    """Decode ascending keys into ids and scores [B, k]; return how many rows have fewer than k."""
    short = 0
    for row in range(len(found)):
        place, last = 0, np.int64(NOTHING)
        for at in range(keys.shape[1] - 1, -1, -1):
            key = keys[row, at]
            if key == NOTHING or place == found.shape[1]:
                break
            if key != last:  # Several interests may have found the same item.
                found[row, place] = ids[LAST - (key & 0xFFFFFFFF)]
                scores[row, place] = score_of(key)
                place += 1
            last = key
        if place < found.shape[1]:
            short += 1
            found[row, place:] = -1
            scores[row, place:] = -np.inf
    return short
