"""What is the sum of a history's neighbour lists, and which k items have the most of it?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.linear.matrix import Matrix
from shortlist.linear.neighbours import Neighbours
from shortlist.linear.ranking import TieRanks, best_first
from shortlist.selection import NOTHING, best_to_front, key_of, score_of


def dense_sums(profile: Matrix, neighbours: Neighbours) -> NDArray[np.float32]:
    """Return r = profile · S, [B, items]: column c is item row c + 1, -inf where nothing adds."""
    scores = np.full((profile.shape[0], profile.shape[1]), -np.inf, dtype=np.float32)
    _dense(*_arrays(profile), neighbours.ids, neighbours.scores, scores)
    return scores[:, 1:]


def best_sums(
    profile: Matrix,
    neighbours: Neighbours,
    ties: TieRanks,
    k: int,
    seen: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    allow: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k best of r = profile · S: item rows [B, k], -1 past the end, and scores, -inf.

    The scores are those of `dense_sums`, bit for bit; equal ones go by tie rank. seen: (rows,
    offsets [B + 1]) of the items each query must not get; allow: [items + 1 or more], true for
    those that any query may get.
    """
    queries = profile.shape[0]
    rows, offsets = seen or (np.empty(0, np.int64), np.zeros(queries + 1, np.int64))
    keys = np.empty((queries, k), dtype=np.int64)
    forbidden = np.zeros(len(ties.rank), dtype=np.uint8)
    if allow is not None:
        forbidden[~allow[: len(forbidden)]] = 1
    ids, scores = neighbours.ids, neighbours.scores
    _best(*_arrays(profile), ids, scores, rows, offsets, forbidden, ties.rank, keys)
    found = np.full((queries, k), -1, dtype=np.int64)
    values = np.full((queries, k), -np.inf, dtype=np.float32)
    best_first(keys, ties, found, values)
    return found, values


def _arrays(profile: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """One type each, so that the loops are compiled once."""
    start, item = profile.indptr.astype(np.int64), profile.indices.astype(np.int64)
    return start, item, profile.data.astype(np.float32)


@compiled
def _dense(start: Any, item: Any, weight: Any, ids: Any, scores: Any, out: Any) -> None:
    """Write the sums in float64, rounded once, over the -inf of out [B, items + 1]."""
    width = ids.shape[1]
    total = np.zeros(out.shape[1], dtype=np.float64)
    for query in range(len(start) - 1):
        for at in range(start[query], start[query + 1]):
            for place in range(width):
                j = ids[item[at], place]
                if j == 0:
                    break
                total[j] += weight[at] * np.float64(scores[item[at], place])
                out[query, j] = 0
        for j in range(out.shape[1]):
            if out[query, j] == 0:
                out[query, j] = total[j]
                total[j] = 0


@compiled
def _best(  # noqa: PLR0912
    start: Any,
    item: Any,
    weight: Any,
    ids: Any,
    scores: Any,
    seen: Any,
    seen_start: Any,
    forbidden: Any,
    rank: Any,
    keys: Any,
) -> None:
    """Write the keys [B, k] of the best sums, in any order: only what a history touches is read."""
    items, width, best = len(ids) - 1, ids.shape[1], keys.shape[1]
    total = np.zeros(items + 1, dtype=np.float64)
    state = forbidden.copy()  # 1: touched, or not to be given
    touched = np.empty(items + 2, dtype=np.int32)
    held = np.empty(2 * best + 64, dtype=np.int64)
    for query in range(len(start) - 1):
        for at in range(seen_start[query], seen_start[query + 1]):
            if seen[at] <= items:
                state[seen[at]] = 1
        many = 0
        for at in range(start[query], start[query + 1]):
            row = item[at]
            for place in range(width):
                j = ids[row, place]
                if j == 0:
                    break
                touched[many] = j
                many += 1 - state[j]
                state[j] = 1
                total[j] += weight[at] * np.float64(scores[row, place])
        for at in range(seen_start[query], seen_start[query + 1]):
            if seen[at] <= items:
                state[seen[at]] = forbidden[seen[at]]
                total[seen[at]] = 0
        count, floor, key_floor = 0, np.float32(-np.inf), np.int64(NOTHING)
        for t in range(many + 1):
            if t < many:
                j = touched[t]
                score = np.float32(total[j]) + np.float32(0)  # -0 is 0
                total[j] = 0
                state[j] = 0
                if score < floor:
                    continue
                key = key_of(score, items - rank[j])
                if key <= key_floor:
                    continue
                held[count] = key
                count += 1
                if count < len(held):
                    continue
            if count <= best:
                continue
            best_to_front(held, count, best)
            count = best
            key_floor = held[best - 1]
            floor = score_of(key_floor)
        keys[query, :count] = held[:count]
        keys[query, count:] = NOTHING
