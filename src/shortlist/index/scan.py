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
from shortlist.selection import best_to_front

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

UNIT = 2.0**-24  # Half a unit in the last place of a float32 around 1: what one step may be off by.
UNDERFLOW = 2.0**-126  # What a step may be off by beside that, where numbers are very small.
SPARE = 1024  # Columns beyond 4 k that may be named; where more are as good, this is no shortcut.


def scanned(vectors: Floats, query: Floats, euclidean: bool) -> Floats:
    """Return a score of each vector [N, D] for a query [D], [N]: within `margin` of any other way.

    The dot product, or minus the squared distance.
    """
    scores = np.empty(len(vectors), dtype=np.float32)
    _scan(vectors, query, euclidean, scores)
    return scores


def margin(query: Floats, longest: float, euclidean: bool) -> float:
    """How much better `scanned` may put an item than the k-th that it puts first, and be wrong.

    longest: the length of the longest vector. A sum of D products, in whatever order, with or
    without fused steps, is off by at most γ = n u / (1 - n u) of the sum of their sizes, n = D
    (Higham 2002, §3.1), and so by γ |q| |t|; four more steps make it a distance, of at most
    (|q| + |t|)². Two scores of one pair, from two ways to sum, so differ by 2 γ of that at most.
    An item of the true k best is no worse than the worst of the k that the scan puts first: it may
    have lost that much in the scan, and they may have won it.
    """
    length = float(np.linalg.norm(query.astype(np.float64))) * (1 + 1e-6)
    longest *= 1 + 1e-6
    steps = len(query) + 4
    gamma = steps * UNIT / (1 - steps * UNIT)
    size = (length + longest) ** 2 if euclidean else length * longest
    return 4 * (gamma * size + steps * UNDERFLOW)


def could_be_best(scores: Floats, k: int, slack: float) -> Rows | None:
    """Return the columns, ascending, whose score is at most `slack` below the k-th best.

    Fewer than k scores over -inf: all of these. None where the columns are more than 4 k + SPARE.
    """
    columns = np.empty(4 * k + SPARE, dtype=np.int64)
    count = _collect(scores, k, slack, columns)
    return columns[:count] if count >= 0 else None


@compiled_reordering
def _scan(vectors: Any, query: Any, euclidean: Any, scores: Any) -> None:
    width = vectors.shape[1]
    for row in range(len(scores)):
        score = np.float32(0)
        if euclidean:
            for at in range(width):
                step = vectors[row, at] - query[at]
                score -= step * step
        else:
            for at in range(width):
                score += vectors[row, at] * query[at]
        scores[row] = score


@compiled
def _collect(scores: Any, k: Any, slack: Any, columns: Any) -> int:
    """Write the columns that could be among the k best, and return how many; -1 if too many."""
    held = np.empty(2 * k + 64, dtype=np.float32)
    count, floor = 0, np.float32(-np.inf)
    for column in range(len(scores)):
        if scores[column] > floor:
            held[count] = scores[column]
            count += 1
            if count == len(held):
                best_to_front(held, count, k)
                count, floor = k, held[k - 1]
    if count >= k:
        best_to_front(held, count, k)
        floor = held[k - 1] if count > k else held[:k].min()
    else:
        floor = np.float32(-np.inf)
    bound = max(np.float64(floor) - slack, np.float64(np.finfo(np.float32).min))
    count = 0
    for column in range(len(scores)):
        if scores[column] >= bound:
            if count == len(columns):
                return -1
            columns[count] = column
            count += 1
    return count
