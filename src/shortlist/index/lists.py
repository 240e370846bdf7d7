"""Which lists of an inverted index are the nearest to a query?

FAISS finds them by a matrix product for many queries, whose rounding depends on the batch, and list
by list for few queries, which is slow. This code is as fast as the product, and its choice depends
on the query alone: each score is summed in a fixed order, dimension by dimension.
"""

from typing import Any, NamedTuple

import numpy as np

from shortlist.compiled import compiled
from shortlist.index.candidates import LAST
from shortlist.index.pairs import Floats, Rows
from shortlist.selection import best_to_front, key_of, score_of

GROUPS = 2
"""Groups of lists per list asked for; their maxima bound the score of the last chosen list."""


class Centres(NamedTuple):
    """The centres of L lists, transposed so that one step scores many lists.

    by_dimension: float32 [D, L].
    euclidean: scores are minus squared distances if True, else dot products.
    """

    by_dimension: Floats
    euclidean: bool

    @classmethod
    def of(cls, centres: Floats, *, euclidean: bool) -> "Centres":
        """Return the centres for an array [L, D]."""
        return cls(np.ascontiguousarray(centres.T), euclidean)


def nearest_lists(centres: Centres, points: Floats, count: int) -> tuple[Rows, Floats]:
    """Return the `count` lists nearest to each point [P, D], nearest first, and their distances.

    count: number of lists per point, 1 <= count <= L.
    Returns (lists int64 [P, count], distances float32 [P, count]). Distances are squared euclidean
    distances, or dot products, where greater is nearer. Equally near lists are ordered by number.
    """
    keys = np.empty((len(points), count), dtype=np.int64)
    _pick(*centres, points, keys)
    keys.sort(axis=1)
    lists, far = np.empty_like(keys), np.empty(keys.shape, dtype=np.float32)
    _decode(keys, centres.euclidean, lists, far)
    return lists, far


@compiled
def _pick(by_dimension: Any, euclidean: Any, points: Any, keys: Any) -> None:
    """Write the keys of the nearest lists of each point, in any order."""
    total, count = by_dimension.shape[1], keys.shape[1]
    scores = np.empty(total, dtype=np.float32)
    some = np.empty(total, dtype=np.int64)
    groups = GROUPS * count
    best_of_group = np.empty(groups, dtype=np.float32)
    ranked = np.empty(groups, dtype=np.int64)
    for row in range(len(points)):
        _score_all(by_dimension, euclidean, points[row], scores)
        floor = np.float32(-np.inf)
        if total >= 2 * groups:
            # The count-th best group maximum is a lower bound of the count-th best score.
            best_of_group[:] = scores[:groups]
            for start in range(groups, total - groups + 1, groups):
                for place in range(groups):
                    best_of_group[place] = max(best_of_group[place], scores[start + place])
            for place in range(groups):
                ranked[place] = key_of(best_of_group[place], 0)
            best_to_front(ranked, groups, count)
            floor = score_of(ranked[count - 1])
        kept = 0
        for place in range(total):
            some[kept] = place
            kept += scores[place] >= floor
        for place in range(kept):
            some[place] = key_of(scores[some[place]], LAST - some[place])
        best_to_front(some, kept, count)
        keys[row] = some[:count]


@compiled
def _score_all(by_dimension: Any, euclidean: Any, point: Any, scores: Any) -> None:
    """Write the score of each list: the dot product or minus the squared distance."""
    scores[:] = 0
    for at in range(len(by_dimension)):
        value = point[at]
        if euclidean:
            for place in range(len(scores)):
                step = value - by_dimension[at, place]
                scores[place] -= step * step
        else:
            for place in range(len(scores)):
                scores[place] += value * by_dimension[at, place]


@compiled
def _decode(keys: Any, euclidean: Any, lists: Any, far: Any) -> None:
    """Write list numbers and distances of ascending keys, from the last key to the first."""
    last = keys.shape[1] - 1
    for row in range(len(keys)):
        for place in range(keys.shape[1]):
            key = keys[row, last - place]
            score = score_of(key)
            lists[row, place] = LAST - (key & 0xFFFFFFFF)
            far[row, place] = -score if euclidean else score
