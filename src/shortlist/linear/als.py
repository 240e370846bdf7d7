"""Alternating least squares: which user and item factors fit an implicit log best?"""

from typing import Any, NamedTuple

import numpy as np

from shortlist.compiled import compiled
from shortlist.linear.matrix import Matrix
from shortlist.linear.products import Floats, add_squares, diagonal_basis, gram, product


class Side(NamedTuple):
    """The fixed side in the least squares of the other side; made by `fixed_side`.

    vectors: [n, D], in a basis in which their Gram matrix is diagonal.
    rotation: [D, D], back to the original basis.
    gram: [D], the diagonal of the Gram matrix.
    offset: [n], the part of a score that is already known (biases).
    pull: [D], the sum of offset x vector over all n.
    """

    vectors: Floats
    rotation: Floats
    gram: Floats
    offset: Floats
    pull: Floats


def fixed_side(vectors: Floats, offset: Floats) -> Side:
    """Rotate a side's vectors [n, D] so that the Gram matrix in each row's system is diagonal.

    A row then costs min(events, D) squared instead of D squared. As everywhere in this file, sums
    have a fixed order: the bits do not depend on the number of threads.
    """
    values, rotation = diagonal_basis(gram(vectors))
    turned = product(vectors, rotation.T.astype(np.float32))
    pull = np.zeros(vectors.shape[1])
    _add_up(offset.astype(np.float64), turned, pull)
    return Side(
        vectors=turned,
        rotation=rotation.astype(np.float32),
        gram=np.maximum(values, 0).astype(np.float32),
        offset=offset,
        pull=pull.astype(np.float32),
    )


def solve(side: Side, events: Matrix, alpha: float, ridge: Floats) -> Floats:
    """Return the best vector of each row of `events` [B, n], [B, D] (Hu et al. 2008).

    The vector x minimises, exactly, the sum over all items i of
    c_i (p_i - offset_i - x · y_i)² + ridge |x|². q_i is the entry of `events`, c_i = 1 + alpha q_i,
    and p_i = 1 where q_i is not 0. For q < 1, p_i = q, so that a fading event ends as no event.
    Entries must be > 0.
    ridge: [B], > 0.
    """
    weight = events.data.astype(np.float32)
    extra = np.float32(alpha) * weight
    aim = np.minimum(weight, 1) + extra * (1 - side.offset[events.indices])
    out = np.empty((events.shape[0], side.vectors.shape[1]), dtype=np.float32)
    indptr = events.indptr.astype(np.int64)
    indices = events.indices.astype(np.int64)
    _solve_rows(indptr, indices, extra, aim, side.vectors, side.gram, side.pull, ridge, out)
    return product(out, side.rotation)


@compiled
def _add_up(weight: Any, vectors: Any, total: Any) -> None:
    """Add the weighted sum of the vectors [n, D] to total [D]."""
    for row in range(len(vectors)):
        for at in range(len(total)):
            total[at] += weight[row] * vectors[row, at]


@compiled
def _solve_rows(  # noqa: PLR0912
    indptr: Any,
    indices: Any,
    extra: Any,
    aim: Any,
    vectors: Any,
    gram: Any,
    pull: Any,
    ridge: Any,
    out: Any,
) -> None:
    """Solve (G + ridge I + Σ e v v') x = Σ aim v - pull for each row, with G diagonal.

    Scaled by S = (G + ridge)^-1/2 the matrix is I + V'V with V = sqrt(e) v S, [events, D]. With
    fewer events than D, the system I + VV' of the events gives the same solution. Only the upper
    triangle of either is computed.
    """
    rows, width = out.shape
    block = max(width, 256)
    scaled = np.empty(block * width, dtype=np.float32)
    square = np.empty(width * width, dtype=np.float32)
    right = np.empty(width, dtype=np.float32)
    strength = np.empty(block, dtype=np.float32)
    scale = np.empty(width, dtype=np.float32)
    shift = np.empty(width, dtype=np.float32)
    for row in range(rows):
        start, stop = indptr[row], indptr[row + 1]
        events = stop - start
        for f in range(width):
            scale[f] = 1 / np.sqrt(gram[f] + ridge[row])
            shift[f] = -scale[f] * pull[f]
        few = events < width
        size = events if few else width
        system = square[: size * size].reshape(size, size)
        system[:] = 0
        right[:] = shift
        for first in range(start, stop, block):
            count = min(stop - first, block)
            held = scaled[: count * width].reshape((width, count) if few else (count, width))
            for e in range(count):
                root = np.sqrt(extra[first + e])
                strength[e] = aim[first + e] / root
                vector = vectors[indices[first + e]]
                for f in range(width):
                    if few:
                        held[f, e] = root * scale[f] * vector[f]
                    else:
                        held[e, f] = root * scale[f] * vector[f]
            add_squares(held, system)
            if few:
                right[:count] = strength[:count]
                for f in range(width):
                    for e in range(count):
                        right[e] -= held[f, e] * shift[f]
            else:
                for e in range(count):
                    for f in range(width):
                        right[f] += strength[e] * held[e, f]
        # Cholesky on the upper triangle; each step works on whole rows, contiguous in memory.
        for k in range(size):
            system[k, k] += 1
        for k in range(size):
            root = np.sqrt(system[k, k])
            for j in range(k, size):
                system[k, j] /= root
            for i in range(k + 1, size):
                factor = system[k, i]
                for j in range(i, size):
                    system[i, j] -= factor * system[k, j]
            right[k] /= root
            for j in range(k + 1, size):
                right[j] -= right[k] * system[k, j]
        for k in range(size - 1, -1, -1):
            for j in range(k + 1, size):
                right[k] -= system[k, j] * right[j]
            right[k] /= system[k, k]
        if few:
            for f in range(width):
                out[row, f] = shift[f]
            turned = scaled[: events * width].reshape(width, events)
            for e in range(events):
                for f in range(width):
                    out[row, f] += right[e] * turned[f, e]
            for f in range(width):
                out[row, f] *= scale[f]
        else:
            for f in range(width):
                out[row, f] = scale[f] * right[f]
