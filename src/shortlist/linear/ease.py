"""EASE: which weights between items rebuild every history best, in closed form?"""

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ModelError
from shortlist.linear.from_scipy import csr_array, get_lapack_funcs
from shortlist.linear.matrix import Matrix

Dense = NDArray[np.float32]

TILE = 2048
"""Rows and columns handled at a time: what is held beside the one matrix is a strip this wide."""


def gram_matrix(matrix: Matrix) -> Dense:
    """Return XᵀX of X [users, n] as one dense array [n, n] float32, made from sparse strips."""
    turned = matrix.T.tocsr()
    items = matrix.shape[1]
    gram = np.zeros((items, items), dtype=np.float32, order="F")
    for start in range(0, items, TILE):
        strip = (turned[start : start + TILE] @ matrix).tocoo()
        # Symmetric: a strip of rows is written where it lies together in memory, as columns.
        gram.T[start + strip.row, strip.col] = strip.data
    return gram


def closed_form(matrix: Matrix, l2: float, aims: Matrix | None = None) -> Dense:
    """Return B [n, n]: the least squares weights of X ≈ XB with a zero diagonal (Steck 2019).

    aims: T, [users, n]: the weights of T ≈ XB instead, by two more matrices of that size.

    X: [users, n]. With P = (XᵀX + l2·I)⁻¹, B[i, j] = -P[i, j] / P[j, j] off the diagonal. One n × n
    array in float32 serves as Gram matrix, Cholesky factor, inverse and answer; n³ multiplications
    and additions, by a library that rounds otherwise with another number of threads. Raises
    ModelError where float32 cannot invert the matrix: l2 is too small.
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
    inverse: Dense = weights.T  # symmetric, and now its rows lie together in memory
    if aims is not None:
        return _towards(inverse, matrix, aims)
    scale = -1.0 / inverse.diagonal()
    for start in range(0, len(inverse), TILE):
        inverse[start : start + TILE] *= scale
    np.fill_diagonal(inverse, 0.0)
    return inverse


def _towards(inverse: Dense, matrix: Matrix, aims: Matrix) -> Dense:
    """The weights of T ≈ XB: with P the inverse and C = XᵀT, PC, less what empties the diagonal.

    The Lagrangian of a zero diagonal takes γ_j P e_j from column j of PC, γ_j = (PC)_jj / P_jj.
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
    """Return the weights [n, n] with the `neighbours` of largest size in each row, the rest 0.

    Negative weights count by their size: "who likes this does not want that" is kept as well.
    Equal sizes: the lower column stays.
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
    """The columns of the `width` largest of each row [rows, n], ascending; the lower of equals."""
    limit = np.partition(sizes, sizes.shape[1] - width, axis=1)[:, sizes.shape[1] - width, None]
    above = sizes > limit
    equal = sizes == limit
    room = width - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(sizes), width)


def _mirror(lower: Dense) -> None:
    """Copy the lower triangle over the upper one, a tile at a time, in place."""
    items = len(lower)
    for left in range(0, items, TILE):
        columns = slice(left, left + TILE)
        corner = lower[columns, columns]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        for top in range(left + TILE, items, TILE):
            rows = slice(top, top + TILE)
            lower[columns, rows] = lower[rows, columns].T
