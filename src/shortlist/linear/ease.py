"""EASE: which item-to-item weights reconstruct all histories best, in closed form?"""

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ModelError
from shortlist.linear.from_scipy import csr_array, get_lapack_funcs
from shortlist.linear.matrix import Matrix

Dense = NDArray[np.float32]

TILE = 2048
"""Rows and columns processed at a time: a strip this wide is held beside the one matrix."""


def gram_matrix(matrix: Matrix) -> Dense:
    """Return XᵀX of X [users, n] as a dense array [n, n] float32, computed in sparse strips."""
    turned = matrix.T.tocsr()
    items = matrix.shape[1]
    gram = np.zeros((items, items), dtype=np.float32, order="F")
    for start in range(0, items, TILE):
        strip = (turned[start : start + TILE] @ matrix).tocoo()
        # Symmetric: strips of rows are written as columns, which are contiguous in memory.
        gram.T[start + strip.row, strip.col] = strip.data
    return gram


def closed_form(matrix: Matrix, l2: float, aims: Matrix | None = None) -> Dense:
    """Return B [n, n]: the least squares weights of X ≈ XB with a zero diagonal (Steck 2019).

    matrix: X, [users, n].
    l2: regularisation, > 0.
    aims: T, [users, n]; if given, the weights of T ≈ XB, which need another matrix of that size.

    With P = (XᵀX + l2·I)⁻¹, B[i, j] = -P[i, j] / P[j, j] off the diagonal. One n × n float32 array
    is in turn Gram matrix, Cholesky factor, inverse and result. The n³ multiply-adds run in LAPACK,
    whose rounding depends on the number of threads.
    Errors: ModelError if l2 is too small to invert the matrix in float32.
    """
    weights = gram_matrix(matrix)
    diagonal = np.einsum("ii->i", weights)
    diagonal += np.float32(l2)
    factor, invert = get_lapack_funcs(("potrf", "potri"), (weights,))
    weights, failed = factor(weights, lower=1, overwrite_a=1, clean=0)
    if not failed:
        weights, failed = invert(weights, lower=1, overwrite_c=1)
    if failed:
        raise ModelError(
            f"l2 = {l2:g} is too small: the matrix of item counts cannot be inverted with it in "
            "32-bit numbers; raise l2"
        )
    _mirror(weights)
    inverse: Dense = weights.T  # symmetric; the transpose has contiguous rows
    if aims is not None:
        return _towards(inverse, matrix, aims)
    scale = -1.0 / inverse.diagonal()
    for start in range(0, len(inverse), TILE):
        inverse[start : start + TILE] *= scale
    np.fill_diagonal(inverse, 0.0)
    return inverse


def _towards(inverse: Dense, matrix: Matrix, aims: Matrix) -> Dense:
    """Return the weights of T ≈ XB: with P the inverse and C = XᵀT, PC minus a correction.

    The Lagrangian of the zero diagonal subtracts γ_j P e_j from column j, γ_j = (PC)_jj / P_jj.
    """
    turned, items = matrix.T.tocsr(), len(inverse)
    product = np.empty((items, items), dtype=np.float32)
    for start in range(0, items, TILE):
        part = slice(start, start + TILE)
        product[:, part] = inverse @ (turned @ aims[:, part]).toarray().astype(np.float32)
    scale = product.diagonal() / inverse.diagonal()
    for start in range(0, items, TILE):
        part = slice(start, start + TILE)
        product[part] -= inverse[part] * scale
    np.fill_diagonal(product, 0.0)
    return product


def strongest(weights: Dense, neighbours: int) -> Matrix:
    """Return the weights [n, n] with only the `neighbours` largest absolute values of each row.

    Negative weights count by absolute value, as "users of this item avoid that one" is information
    too. Among equal values the lower column is kept.
    """
    items = len(weights)
    width = min(neighbours, max(items - 1, 1))
    columns = np.empty((items, width), dtype=np.int32)
    data = np.empty((items, width), dtype=np.float32)
    for start in range(0, items, TILE):
        strip = np.ascontiguousarray(weights[start : start + TILE])
        chosen = _largest(np.abs(strip), width)
        columns[start : start + TILE] = chosen
        data[start : start + TILE] = np.take_along_axis(strip, chosen, axis=1)
    indptr = np.arange(items + 1, dtype=np.int64) * width
    kept = csr_array((data.ravel(), columns.ravel(), indptr), shape=weights.shape)
    kept.eliminate_zeros()
    return kept


def _largest(sizes: Dense, width: int) -> NDArray[np.int64]:
    """Return the columns of the `width` largest of each row [rows, n], ascending; ties: lower."""
    limit = np.partition(sizes, sizes.shape[1] - width, axis=1)[:, sizes.shape[1] - width, None]
    above = sizes > limit
    equal = sizes == limit
    room = width - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(sizes), width)


def _mirror(lower: Dense) -> None:
    """Copy the lower triangle to the upper one, tile by tile, in place."""
    items = len(lower)
    for left in range(0, items, TILE):
        columns = slice(left, left + TILE)
        corner = lower[columns, columns]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        for top in range(left + TILE, items, TILE):
            rows = slice(top, top + TILE)
            lower[columns, rows] = lower[rows, columns].T
