"""One query against every item in one pass of memory: which columns can be among the k best?

A batch of queries is a matrix product, which reads each vector once for many queries; a single
query in it costs as much as eight. This pass is several times faster, and rounds otherwise, so it
does not answer: it names the few columns that can be in the answer however sums were rounded, and
the matrix product scores these.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled, compiled_reordering
from shortlist.index.candidates import holds
from shortlist.index.pairs import Floats, Rows
from shortlist.selection import best_to_front

UNIT = 2.0**-24  # What one step of float32 may be off by, as a share.
UNDERFLOW = 2.0**-126  # What it may be off by beside that, where numbers are very small.
SPARE = 1024  # Columns beyond 4 k that may be named; where more are as good, this is no shortcut.
RUN = 1024  # Columns that are scored before the scores are looked at.
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
    """Return the columns that can be among the k best for a query [D], ascending; None for many.

    vectors: [N, D], of which the longest is so long. Left out are the columns that are refused,
    bool [N], and those whose ids [N] were seen [any]. More than 4 (k + seen) + SPARE are too many.
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
    """How far below the k-th best of the scan an item of the k best may stand.

    A sum of D products, in whatever order, with or without fused steps, is off by at most
    γ = n u / (1 - n u) of the sum of their sizes, n = D (Higham 2002, §3.1), and so by γ |q| |t|;
    with four more steps it is a distance, of at most (|q| + |t|)². Two ways to score a pair
    differ by twice that. The k that the scan puts first may have gained so much in it, and an item
    of the true k best may have lost as much: twice the difference.
    """
    doubles = query.astype(np.float64)
    length = float(doubles.dot(doubles)) ** 0.5
    steps = len(query) + 4
    gamma = steps * UNIT / (1 - steps * UNIT)
    size = (length + longest) ** 2 if euclidean else length * longest
    return float(4 * (1 + 1e-3) * (gamma * size + steps * UNDERFLOW))


@compiled_reordering
def _score(vectors: Any, query: Any, euclidean: Any, start: Any, count: Any, scores: Any) -> None:
    """Write the scores of `count` columns from `start` on: products, or minus squared distances."""
    width = vectors.shape[1]
    for place in range(count):
        column = np.uint64(start + place)  # A signed index costs a test for being negative.
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
    """Write the columns scored at most `slack` below the k-th best; how many, -1 if too many."""
    scores = np.empty(RUN, dtype=np.float32)
    kept, ranked = np.empty(len(columns), np.float32), np.empty(len(columns), np.float32)
    count, bound = 0, LOWEST
    for start in range(0, len(vectors) + 1, RUN):
        length = min(RUN, len(vectors) - start)
        _score(vectors, query, euclidean, start, length, scores)
        last = start + RUN > len(vectors)
        for place in range(length + 1):
            if place < length:
                # The bound only rises: what is below it now is below it at the end.
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
    """Keep the columns whose ids were not seen, and return how many."""
    ordered = np.sort(seen)
    kept = 0
    for at in range(count):
        columns[kept] = columns[at]
        kept += not holds(ordered, ids[columns[at]])
    return kept
