"""Matrix products in which each element is summed in a fixed order, whatever the other elements.

The rounding of a library's product depends on shape, threads and processor. Here the terms of an
element are added one after the other, each step rounded to float32 or float64: the same bits on
every machine. One row takes about as long as in a library, many rows up to three times as long.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled

Floats = NDArray[np.float32]

ROWS = 128
"""Rows multiplied at a time, as vector lanes of one step."""

FEW = 8
"""Up to this number, rows are multiplied one by one."""

SWEEPS = 60
"""Largest number of Jacobi sweeps; about ten are enough."""


def product(rows: Floats, columns: Floats) -> Floats:
    """Return rows [B, D] · columnsᵀ [D, n], [B, n]; a row's bits do not depend on the batch."""
    rows, columns = np.ascontiguousarray(rows), np.ascontiguousarray(columns)
    result = np.empty((len(rows), len(columns)), dtype=np.float32)
    if len(rows) <= FEW:
        _one_by_one(rows, columns, result)
        return result
    for start in range(0, len(rows), ROWS):
        part = np.ascontiguousarray(rows[start : start + ROWS].T)
        lanes = np.empty((len(columns), part.shape[1]), dtype=np.float32)
        _side_by_side(part, columns, lanes)
        result[start : start + ROWS] = lanes.T
    return result


def gram(vectors: Floats) -> NDArray[np.float64]:
    """Return vectorsᵀ [D, n] · vectors [n, D], [D, D] float64."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    add_squares(vectors.astype(np.float64), total)
    return np.triu(total) + np.triu(total, 1).T


def diagonal_basis(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues [D] and eigenvectors [D, D] in columns.

    matrix = vectors · diag(values) · vectorsᵀ: symmetric and, except for rounding, positive
    semidefinite. Computed by Jacobi rotations in a fixed order.
    """
    rest, basis = np.array(matrix), np.eye(len(matrix))
    _rotate(rest, basis)
    return rest.diagonal().copy(), basis.T


@compiled
def add_squares(parts: Any, total: Any) -> None:
    """Add partsᵀ [n, m] · parts [m, n] to the upper triangle of total [n, n], row by row."""
    size = len(total)
    whole = len(parts) - len(parts) % 4
    for at in range(0, whole, 4):
        one, two, three, four = parts[at], parts[at + 1], parts[at + 2], parts[at + 3]
        for i in range(0, size, 2):
            low = min(i + 1, size - 1)
            a0, a1, a2, a3 = one[i], two[i], three[i], four[i]
            b0, b1, b2, b3 = one[low], two[low], three[low], four[low]
            total[i, i] = (((total[i, i] + a0 * a0) + a1 * a1) + a2 * a2) + a3 * a3
            for j in range(i + 1, size):
                t0, t1, t2, t3 = one[j], two[j], three[j], four[j]
                upper = (((total[i, j] + a0 * t0) + a1 * t1) + a2 * t2) + a3 * t3
                lower = (((total[low, j] + b0 * t0) + b1 * t1) + b2 * t2) + b3 * t3
                total[i, j], total[low, j] = upper, lower
    for at in range(whole, len(parts)):
        for i in range(size):
            for j in range(i, size):
                total[i, j] += parts[at, i] * parts[at, j]


@compiled
def _one_by_one(rows: Any, columns: Any, out: Any) -> None:
    """Write the products, eight columns at a time, as eight independent sums hide latency."""
    count, width = columns.shape
    whole = count - count % 8
    zero = np.float32(0)
    for row in range(len(rows)):
        for c in range(0, whole, 8):
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            for at in range(width):
                x = rows[row, at]
                s0 += x * columns[c, at]
                s1 += x * columns[c + 1, at]
                s2 += x * columns[c + 2, at]
                s3 += x * columns[c + 3, at]
                s4 += x * columns[c + 4, at]
                s5 += x * columns[c + 5, at]
                s6 += x * columns[c + 6, at]
                s7 += x * columns[c + 7, at]
            out[row, c], out[row, c + 1], out[row, c + 2], out[row, c + 3] = s0, s1, s2, s3
            out[row, c + 4], out[row, c + 5], out[row, c + 6], out[row, c + 7] = s4, s5, s6, s7
        for c in range(whole, count):
            s0 = zero
            for at in range(width):
                s0 += rows[row, at] * columns[c, at]
            out[row, c] = s0


@compiled
def _side_by_side(turned: Any, columns: Any, out: Any) -> None:
    """Write columns [n, D] · turned [D, L], [n, L], two columns and four steps at a time."""
    count, width = columns.shape
    whole = width - width % 4
    for first in range(0, count, 2):
        second = min(first + 1, count - 1)
        one, two = out[first], out[second]
        one[:] = 0
        two[:] = 0
        for at in range(0, whole, 4):
            a0, a1 = columns[first, at], columns[first, at + 1]
            a2, a3 = columns[first, at + 2], columns[first, at + 3]
            b0, b1 = columns[second, at], columns[second, at + 1]
            b2, b3 = columns[second, at + 2], columns[second, at + 3]
            for lane in range(turned.shape[1]):
                t0, t1 = turned[at, lane], turned[at + 1, lane]
                t2, t3 = turned[at + 2, lane], turned[at + 3, lane]
                sum_one = (((one[lane] + a0 * t0) + a1 * t1) + a2 * t2) + a3 * t3
                sum_two = (((two[lane] + b0 * t0) + b1 * t1) + b2 * t2) + b3 * t3
                one[lane], two[lane] = sum_one, sum_two
        for at in range(whole, width):
            a0, b0 = columns[first, at], columns[second, at]
            for lane in range(turned.shape[1]):
                sum_one = one[lane] + a0 * turned[at, lane]
                sum_two = two[lane] + b0 * turned[at, lane]
                one[lane], two[lane] = sum_one, sum_two


@compiled
def _rotate(matrix: Any, basis: Any) -> None:
    """Rotate pairs of rows and columns until the matrix is diagonal (Jacobi 1846)."""
    size = len(matrix)
    trace = 0.0
    for i in range(size):
        trace += abs(matrix[i, i])
    for _ in range(SWEEPS):
        turned = False
        for p in range(size - 1):
            for q in range(p + 1, size):
                beside, top, low = matrix[p, q], matrix[p, p], matrix[q, q]
                if abs(beside) <= 1e-16 * max(np.sqrt(abs(top * low)), 1e-2 * trace):
                    continue
                turned = True
                theta = (low - top) / (2 * beside)
                tangent = 1 / (abs(theta) + np.sqrt(theta * theta + 1))
                if theta < 0:
                    tangent = -tangent
                cosine = 1 / np.sqrt(tangent * tangent + 1)
                sine = tangent * cosine
                for i in range(size):
                    x, y = matrix[p, i], matrix[q, i]
                    matrix[p, i], matrix[q, i] = cosine * x - sine * y, sine * x + cosine * y
                    x, y = basis[p, i], basis[q, i]
                    basis[p, i], basis[q, i] = cosine * x - sine * y, sine * x + cosine * y
                for i in range(size):
                    matrix[i, p], matrix[i, q] = matrix[p, i], matrix[q, i]
                matrix[p, p], matrix[q, q] = top - tangent * beside, low + tangent * beside
                matrix[p, q] = matrix[q, p] = 0
        if not turned:
            break
