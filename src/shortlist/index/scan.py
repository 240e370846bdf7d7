"""Which items can be among the k best of one query? One pass over all vectors finds them.

A matrix product reads each vector once for many queries, so with a single query it costs as much as
with eight. This pass is several times faster for one query, but it sums in another order and rounds
differently. So it only selects the few columns that can be in the answer under any rounding;
index/candidates.py then scores them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled, compiled_reordering
from shortlist.index.candidates import holds
from shortlist.index.pairs import Floats, Rows
from shortlist.selection import best_to_front

UNIT = 2.0**-24  # Largest relative rounding error of one float32 operation.
UNDERFLOW = 2.0**-126  # Largest additional absolute error, for very small numbers.
SPARE = 1024  # Most columns returned beyond 4 k; if more qualify, the pass saves nothing.
RUN = 1024  # Columns that are scored in one block before their scores are compared.
LOWEST = float(np.finfo(np.float32).min)


def could_be_best(
    vectors: Floats,
    query: Floats,
    k: int,
    *,
    longest: float,
    euclidean: bool,
    refused: NDArray[np.bool_] | None = None,
    ids: Rows | None = None,
    seen: Rows | None = None,
) -> Rows | None:
    """Return the columns that can be among the k best for a query, int64, ascending.

    Returns None if there are more than 4 (k + len(seen)) + SPARE of them.

    vectors: float32 [N, D].
    query: float32 [D].
    longest: length of the longest vector.
    euclidean: scores are minus squared distances if True, else dot products.
    refused: bool [N], True for columns to skip.
    ids: int64 [N], the id of each column; needed with `seen`.
    seen: int64 [any], ids to leave out.
    """
    wanted = k if seen is None else k + len(seen)
    columns = np.empty(4 * wanted + SPARE, dtype=np.int64)
    no_refusals = np.empty(0, dtype=np.bool_) if refused is None else refused
    slack = margin(query, longest, euclidean)
    count = _collect(vectors, query, euclidean, no_refusals, wanted, slack, columns)
    if count < 0:
        return None
    if seen is not None and ids is not None and len(seen):
        count = _drop_seen(columns, count, ids, seen)
    return columns[:count]


def margin(query: Floats, longest: float, euclidean: bool) -> float:
    """Return how far below the k-th score of the scan the score of a true top-k item can be.

    A float32 sum of D products, in any order and with or without fused multiply-adds, has an error
    of at most γ Σ|products| <= γ |q| |t|, where γ = n u / (1 - n u) and n = D (Higham 2002, §3.1).
    A squared distance needs four more operations and is at most (|q| + |t|)². Two ways to score a
    pair therefore differ by at most twice the error. The first k of the scan may be too high by
    that difference, and a true top-k item may be too low by it: four times the error in total.
    """
    doubles = query.astype(np.float64)
    length = float(doubles.dot(doubles)) ** 0.5
    steps = len(query) + 4
    gamma = steps * UNIT / (1 - steps * UNIT)
    size = (length + longest) ** 2 if euclidean else length * longest
    return float(4 * (1 + 1e-3) * (gamma * size + steps * UNDERFLOW))


@compiled_reordering
def _score(vectors: Any, query: Any, euclidean: Any, start: Any, count: Any, scores: Any) -> None:
    """Write the scores of `count` columns from `start` on, summed in any order."""
    width = vectors.shape[1]
    for place in range(count):
        column = np.uint64(start + place)  # A signed index would be tested for < 0.
        score = np.float32(0)
        if euclidean:
            for at in range(width):
                step = vectors[column, at] - query[at]
                score -= step * step
        else:
            for at in range(width):
                score += vectors[column, at] * query[at]
        scores[place] = score


@compiled
def _collect(
    vectors: Any,
    query: Any,
    euclidean: Any,
    refused: Any,
    k: Any,
    slack: Any,
    columns: Any,
) -> int:
    """Write the columns scored at most `slack` below the k-th best.

    Returns how many there are, or -1 if they do not fit into `columns`.
    """
    scores = np.empty(RUN, dtype=np.float32)
    kept, ranked = np.empty(len(columns), np.float32), np.empty(len(columns), np.float32)
    count, bound = 0, LOWEST
    for start in range(0, len(vectors) + 1, RUN):
        length = min(RUN, len(vectors) - start)
        _score(vectors, query, euclidean, start, length, scores)
        last = start + RUN > len(vectors)
        for place in range(length + 1):
            if place < length:
                # The bound never falls, so a score below it can be dropped now.
                if scores[place] < bound or (len(refused) > 0 and refused[start + place]):
                    continue
                kept[count] = scores[place]
                columns[count] = start + place
                count += 1
            if (count == len(columns) or (last and place == length)) and count > k:
                ranked[:count] = kept[:count]
                best_to_front(ranked, count, k)
                bound = max(LOWEST, np.float64(ranked[k - 1]) - slack)
                above = 0
                for at in range(count):
                    kept[above] = kept[at]
                    columns[above] = columns[at]
                    above += kept[above] >= bound
                count = above
                if count == len(columns):
                    return -1
    return count


@compiled
def _drop_seen(columns: Any, count: Any, ids: Any, seen: Any) -> int:
    """Keep the columns whose ids are not in `seen`, and return their number."""
    ordered = np.sort(seen)
    kept = 0
    for at in range(count):
        columns[kept] = columns[at]
        kept += not holds(ordered, ids[columns[at]])
    return kept
