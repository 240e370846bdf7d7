"""What is the score of an item for a query? Compiled code and numpy give bit-equal scores.

Loading compiled code takes longer than the few answers of one command, so those are computed in
numpy (`compiled.worth_loading`). For equal bits both sum in the same order: term i is added to lane
i modulo LANES, and the lanes are then added in halves. No multiply-add is fused, so that the bits
are the same on every processor.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

LANES = 16


@compiled
def folded(lanes: Any) -> Any:
    """Return the sum of LANES numbers, adding halves; overwrites them."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2
    return lanes[0]


def sums_of(terms: NDArray[Any]) -> NDArray[Any]:
    """Return the row sums [N] of terms [N, D], in the order of `folded`."""
    lanes = np.zeros((len(terms), LANES), terms.dtype)
    for start in range(0, terms.shape[1], LANES):
        some = terms[:, start : start + LANES]
        lanes[:, : some.shape[1]] += some
    half = LANES // 2
    while half > 0:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    return lanes[:, 0]


@compiled
def score_pairs(
    points: Any, row: Any, vectors: Any, euclidean: Any, columns: Any, count: Any, scores: Any
) -> None:
    """Write the scores of the first `count` of `columns` for points[row], [K, D].

    An item's score is its best over the K interests. The loop creates no array views, because they
    would prevent prefetching.
    """
    width = points.shape[2]
    lanes = np.empty(LANES, dtype=np.float32)
    for place in range(count):
        column = np.uint64(columns[place])  # A signed index would be tested for < 0.
        best = np.float32(-np.inf)
        for interest in range(points.shape[1]):
            lanes[:] = 0
            for start in range(0, width, LANES):
                filled = min(LANES, width - start)
                if euclidean:
                    for lane in range(filled):
                        at = np.uint64(start + lane)
                        step = points[row, interest, at] - vectors[column, at]
                        lanes[lane] += step * step
                else:
                    for lane in range(filled):
                        at = np.uint64(start + lane)
                        lanes[lane] += points[row, interest, at] * vectors[column, at]
            total = folded(lanes)
            best = max(best, -total if euclidean else total)
        scores[place] = best


def scores_of(interests: Floats, vectors: Floats, euclidean: bool) -> Floats:
    """Return the scores [N] of vectors [N, D] for interests [K, D], as `score_pairs` does."""
    best = np.full(len(vectors), -np.inf, dtype=np.float32)
    for point in interests:
        steps = point - vectors if euclidean else vectors
        totals = sums_of(steps * steps if euclidean else point * vectors)
        np.maximum(best, -totals if euclidean else totals, out=best)
    return best


@compiled
def measure_points(points: Any, unit: Any) -> Any:
    """Do the work of `candidates.measure` in compiled code."""
    # Squares of float32 numbers neither overflow nor underflow in float64.
    least, greatest = np.inf, 0.0
    lanes = np.empty(LANES, dtype=np.float64)
    for row in range(len(points)):
        lanes[:] = 0
        for start in range(0, points.shape[1], LANES):
            for lane in range(min(LANES, points.shape[1] - start)):
                value = np.float64(points[row, np.uint64(start + lane)])
                lanes[lane] += value * value
        square = folded(lanes)
        if not square < np.inf:
            return np.nan, np.nan
        least, greatest = min(least, square), max(greatest, square)
        if len(unit) > 0:
            length = np.sqrt(square) if square > 0 else 1.0
            for at in range(points.shape[1]):
                unit[row, at] = points[row, at] / length
    return least, greatest


def measures_of(points: Floats, unit: Floats) -> tuple[float, float]:
    """Do the work of `candidates.measure` in numpy."""
    doubles = points.astype(np.float64)
    with np.errstate(invalid="ignore"):  # Infinite numbers are looked for, so no warning.
        squares = sums_of(doubles * doubles)
    if not np.all(squares < np.inf):
        return np.nan, np.nan
    if len(unit):
        unit[:] = doubles / np.where(squares > 0, np.sqrt(squares), 1.0)[:, None]
    return float(squares.min(initial=np.inf)), float(squares.max(initial=0.0))
