"""How is a history filtered on the user-item graph, without training?"""

from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebpts1, chebpts2, chebvander
from numpy.typing import NDArray

from shortlist.errors import ModelError
from shortlist.linear.from_scipy import csr_array, diags_array
from shortlist.linear.matrix import Matrix

Floats = NDArray[np.float32]

BLOCK = 128
"""Queries filtered at a time, so that their dense columns mostly fit in the processor's cache."""


class Graph(NamedTuple):
    """The normalised log: forward is R [users, items], backward its transpose."""

    forward: Matrix
    backward: Matrix


def normalised_graph(matrix: Matrix, user_power: float, item_power: float) -> Graph:
    """Return R = D_U^-user_power · A · D_I^-item_power, where D are the row and column sums.

    matrix: A, [users, items]. Both powers 1/2 are the usual symmetric normalisation.
    Errors: ModelError for entries that are not > 0, with which degrees are undefined.
    """
    if len(matrix.data) and matrix.data.min() <= 0:
        raise ModelError(
            f"a graph filter with values = 'explicit' needs weights > 0, got "
            f"{matrix.data.min():g}; remove the rows, or shift the column"
        )
    users = diags_array(power(matrix.sum(axis=1), -user_power))
    items = diags_array(power(matrix.sum(axis=0), -item_power))
    forward = csr_array(users @ matrix @ items)
    return Graph(forward, csr_array(forward.T.tocsr()))


def power(sums: NDArray[Any], exponent: float) -> Floats:
    """Return sums ** exponent, [n] float32; 0 where the sum is 0."""
    safe = np.where(sums > 0, sums, 1).astype(np.float64)
    return np.where(sums > 0, safe**exponent, 0).astype(np.float32)


def singular_vectors(
    graph: Graph, factors: int, *, seed: int, rounds: int = 8
) -> tuple[Floats, Floats]:
    """Return the leading right singular vectors of R and their values, [items, F] and [F].

    Values descend. F is less than `factors` if R has fewer values above 0. Computed by subspace
    iteration from seeded noise (Halko, Martinsson and Tropp 2011). Vectors at the ends of the
    spectrum are exact to float32; vectors near the cut are approximate, because they mix with
    their neighbours beyond it. The products and factorisations run in a library, whose rounding
    depends on the number of threads.
    """
    users, items = graph.forward.shape
    width = min(factors + 32, users, items)
    random = np.random.default_rng(seed)
    basis = random.standard_normal((items, width), dtype=np.float32)
    for _ in range(rounds):
        basis, _ = np.linalg.qr(graph.backward @ (graph.forward @ basis))
    image = (graph.forward @ basis).astype(np.float64)
    squares, turn = np.linalg.eigh(image.T @ image)
    values = np.sqrt(np.maximum(squares[::-1], 0))[:factors]
    held = int((values > 1e-5 * values[0]).sum()) if len(values) else 0
    vectors = (basis @ turn[:, ::-1].astype(np.float32))[:, :held]
    return np.ascontiguousarray(vectors), values[:held].astype(np.float32)


def smoothed(graph: Graph, profile: Matrix) -> Floats:
    """Return RᵀR times each history, dense, [items, B]. profile: [B, items]."""
    # Few users share an item, so the first product is cheaper in sparse form.
    halfway = (graph.forward @ profile.T.tocsc()).toarray()
    product: Floats = graph.backward @ halfway
    return product


def plateau(degree: int, flatness: float) -> NDArray[np.float64]:
    """Return the Chebyshev coefficients, [degree + 1], of the filter of ChebyCF (Kim et al. 2025).

    h(x) = 1/2 - sign(x) |x|^flatness / 2 falls from 1 at x = -1 (the smoothest signals on the
    graph) over a plateau around 0 to 0 at x = 1; a higher flatness widens the plateau. The
    polynomial runs through the Chebyshev points of the first kind, cos(π (k + 1/2) / (K + 1)) for
    degree K. Its value at each is h of the matching point of the second kind, cos(π k / K), as in
    the program that the authors published, so it is exactly 1 and 0 at the outermost points.
    """
    nodes = chebpts1(degree + 1)
    targets = chebpts2(degree + 1)
    values = 0.5 - 0.5 * np.sign(targets) * np.abs(targets) ** flatness
    coefficients = chebvander(nodes, degree).T @ values * (2 / (degree + 1))
    coefficients[0] /= 2
    return np.asarray(coefficients, dtype=np.float64)


def interpolated(
    graph: Graph, profile: Matrix, coefficients: NDArray[np.float64], shrink: float
) -> Floats:
    """Return Σ_k c_k T_k(I - 2 shrink RᵀR) times each history, dense, [items, B].

    profile: [B, items].
    coefficients: c, [degree + 1].
    shrink: 1 / the largest eigenvalue of RᵀR.
    Each degree costs two products with R.
    """
    before: Floats = profile.T.toarray()
    now = smoothed(graph, profile)
    now *= np.float32(-2 * shrink)
    now += before
    result = np.float32(coefficients[0]) * before + np.float32(coefficients[1]) * now
    for coefficient in coefficients[2:]:
        step: Floats = graph.backward @ (graph.forward @ now)  # T_k+1 = 2 x T_k - T_k-1
        step *= np.float32(-4 * shrink)
        step += 2 * now
        step -= before
        before, now = now, step
        result += np.float32(coefficient) * now
    return result


def sharpened(graph: Graph, columns: Floats, time: float, order: int) -> Floats:
    """Return the columns [items, B] after one step of dy/dt = -RᵀR y over `time`.

    order: 1 is an Euler step, 4 a Runge-Kutta step as in BSPM (Choi et al. 2023): the series of
    exp(-time RᵀR) up to that power. Each order costs two products with R.
    """
    result = columns
    for divisor in range(order, 0, -1):  # Horner: 1 - t(1 - t/2 (1 - t/3 (1 - t/4)))
        step = graph.backward @ (graph.forward @ result)
        step *= np.float32(-time / divisor)
        step += columns
        result = step
    return result
