"""Products summed in a fixed order: equal alone, in batches and with threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

from shortlist.linear.products import diagonal_basis, gram, product


def in_order(rows, columns):
    """Every element as the sum of its terms one after the other, in float32."""
    terms = rows[:, None] * columns
    return np.cumsum(terms, axis=2, dtype=np.float32)[:, :, -1]


@pytest.mark.parametrize("width", [1, 3, 4, 33])
@pytest.mark.parametrize("count", [1, 2, 9, 16])
def test_an_element_is_the_sum_of_its_terms_in_order_whatever_stands_beside_it(width, count):
    random = np.random.default_rng(width)
    rows = random.standard_normal((130, width), dtype=np.float32)
    columns = random.standard_normal((count, width), dtype=np.float32)
    expected = in_order(rows, columns)
    for some in (slice(0, 1), slice(0, 8), slice(1, 10), slice(0, 129), slice(0, 130)):
        np.testing.assert_array_equal(product(rows[some], columns), expected[some])
    assert product(rows[:0], columns).shape == (0, count)


def test_a_gram_matrix_is_the_sum_of_squares():
    vectors = np.random.default_rng(0).standard_normal((50, 7), dtype=np.float32)
    doubles = vectors.astype(np.float64)
    np.testing.assert_allclose(gram(vectors), doubles.T @ doubles, rtol=1e-12)
    assert (gram(vectors) == gram(vectors).T).all()


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_a_basis_makes_the_matrix_diagonal(rank):
    vectors = np.random.default_rng(rank).standard_normal((40, 12))
    vectors[:, rank:] = vectors[:, :rank] @ np.ones((rank, 12 - rank)) / 2
    matrix = vectors.T @ vectors
    values, basis = diagonal_basis(matrix)
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-13)
    np.testing.assert_allclose((basis * values) @ basis.T, matrix, atol=1e-12 * matrix.max())
    np.testing.assert_allclose(
        np.sort(values), np.linalg.eigvalsh(matrix), atol=1e-12 * matrix.max()
    )


def test_what_is_no_number_ends_as_no_number():
    values, _ = diagonal_basis(np.full((3, 3), np.nan))
    assert np.isnan(values).all()


ROUNDS = """
import hashlib, numpy as np
from scipy.sparse import csr_array
from shortlist.linear.als import fixed_side, solve
random = np.random.default_rng(0)
events = csr_array((random.random((900, 500)) < np.linspace(0.01, 0.6, 900)[:, None]) * 1.0)
items = random.standard_normal((500, 96), dtype=np.float32)
for _ in range(2):
    users = solve(fixed_side(items, items[:, 0]), events, 10.0, np.ones(900, np.float32))
    items = solve(fixed_side(users, users[:, 0]), events.T.tocsr(), 10.0, np.ones(500, np.float32))
print(hashlib.sha256(items.tobytes()).hexdigest())
"""


def test_least_squares_are_the_same_bytes_with_any_number_of_threads():
    found = set()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        own = os.environ | {name: threads for name in names}
        own["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        run = subprocess.run(
            [sys.executable, "-c", ROUNDS], env=own, capture_output=True, text=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1
