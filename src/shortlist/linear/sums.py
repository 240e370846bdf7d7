"""Which k items have the largest sums over the neighbour lists of a history?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.linear.matrix import Matrix
from shortlist.linear.neighbours import Neighbours
from shortlist.linear.ranking import TieRanks, best_first, room_for, slot_of
from shortlist.selection import NOTHING, empty_held, hold, key_of, score_of, write_best


def dense_sums(profile: Matrix, neighbours: Neighbours) -> NDArray[np.float32]:
    """Return r = profile · S, [B, items]; column c is item row c + 1, -inf without a neighbour."""
    scores = np.full((profile.shape[0], profile.shape[1]), -np.inf, dtype=np.float32)
    _dense(*_arrays(profile), neighbours.start, neighbours.ids, neighbours.scores, scores)
    return scores[:, 1:]


def best_sums(
    profile: Matrix,
    neighbours: Neighbours,
    ties: TieRanks,
    k: int,
    seen: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    allow: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k best of r = profile · S: item rows and scores [B, k], padded with -1 and -inf.

    Scores equal those of `dense_sums` bit for bit; equal scores are ordered by tie rank.
    seen: (rows, offsets [B + 1]), the items that each query must not get.
    allow: bool [items + 1 or more], the items that any query may get; None: all.
    """
    queries = profile.shape[0]
    start, item, weight = _arrays(profile)
    rows, offsets = seen or (np.empty(0, np.int64), np.zeros(queries + 1, np.int64))
    of = neighbours
    work = np.concatenate([[0], np.cumsum(of.start[item + 1] - of.start[item])])[start]
    most = int((np.diff(work) + np.diff(offsets)).max(initial=0))
    keys = np.empty((queries, k), dtype=np.int64)
    _best(
        *(start, item, weight, of.start, of.ids, of.scores, rows, offsets),
        np.empty(0, np.bool_) if allow is None else allow,
        *(ties.rank, room_for(most, len(of) - 1), keys),
    )
    found = np.full((queries, k), -1, dtype=np.int64)
    values = np.full((queries, k), -np.inf, dtype=np.float32)
    best_first(keys, ties, found, values)
    return found, values


def _arrays(profile: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the arrays of the profile with fixed dtypes, so that the loops compile only once."""
    start, item = profile.indptr.astype(np.int64), profile.indices.astype(np.int64)
    return start, item, profile.data.astype(np.float32)


@compiled
def _dense(
    start: Any, item: Any, weight: Any, list_start: Any, ids: Any, scores: Any, out: Any
) -> None:
    """Write the sums, added in float64 and rounded once, into out [B, items + 1], which is -inf."""
    total = np.zeros(out.shape[1], dtype=np.float64)
    for query in range(len(start) - 1):
        for at in range(start[query], start[query + 1]):
            for place in range(list_start[item[at]], list_start[item[at] + 1]):
                j = ids[place]
                total[j] += weight[at] * np.float64(scores[place])
                out[query, j] = 0
        for j in range(out.shape[1]):
            if out[query, j] == 0:
                out[query, j] = total[j]
                total[j] = 0


@compiled
def _best(
    start: Any,
    item: Any,
    weight: Any,
    list_start: Any,
    ids: Any,
    scores: Any,
    seen: Any,
    seen_start: Any,
    allow: Any,
    rank: Any,
    room: int,
    keys: Any,
) -> None:
    """Write the keys [B, k] of the best sums, in any order.

    Memory grows with the items that the longest query touches (`room`), not with the catalogue.
    """
    items, best = len(list_start) - 2, keys.shape[1]
    row_of = np.zeros(room, dtype=np.int32)  # 0 marks a free slot
    total = np.zeros(room, dtype=np.float64)
    banned = np.zeros(room, dtype=np.bool_)
    taken = np.empty(room, dtype=np.int64)
    held = empty_held(best)
    for query in range(len(start) - 1):
        many = 0
        for at in range(seen_start[query], seen_start[query + 1]):
            if seen[at] > 0 and seen[at] <= items:
                slot = slot_of(row_of, seen[at])
                if row_of[slot] == 0:
                    row_of[slot] = seen[at]
                    banned[slot] = True
                    taken[many] = slot
                    many += 1
        for at in range(start[query], start[query + 1]):
            for place in range(list_start[item[at]], list_start[item[at] + 1]):
                j = ids[place]
                slot = slot_of(row_of, j)
                if row_of[slot] == 0:
                    row_of[slot] = j
                    taken[many] = slot
                    many += 1
                total[slot] += weight[at] * np.float64(scores[place])
        count, floor = 0, np.int64(NOTHING)
        for t in range(many):
            slot = taken[t]
            j = row_of[slot]
            out = banned[slot] or (len(allow) > 0 and not allow[j])
            score = np.float32(total[slot]) + np.float32(0)  # -0 is 0
            row_of[slot] = 0
            total[slot] = 0
            banned[slot] = False
            if out or score < score_of(floor):
                continue
            count, floor = hold(held, count, floor, best, key_of(score, items - rank[j]))
        write_best(held, count, keys[query])
