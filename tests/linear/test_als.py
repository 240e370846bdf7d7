"""One side of alternating least squares: every row's exact minimum, however its system is made."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from shortlist.linear.als import fixed_side, solve

ALPHA = 5.0


def world(items=40, width=6, rows=(0, 1, 3, 5, 6, 7, 20, 39), seed=0):
    """Rows with few events, exactly as many as the width, and more; biases too."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(items, width)).astype(np.float32)
    offset = (0.2 * random.normal(size=items)).astype(np.float32)
    dense = np.zeros((len(rows), items), dtype=np.float32)
    for row, count in enumerate(rows):
        chosen = random.choice(items, count, replace=False)
        dense[row, chosen] = random.choice([0.25, 1, 3], count)
    ridge = random.uniform(0.1, 2, len(rows)).astype(np.float32)
    return vectors, offset, dense, ridge


def by_hand(vectors, offset, q, ridge):
    """Minimise sum over events of the part that counts, and over all items of the rest."""
    vectors = vectors.astype(np.float64)
    share = np.minimum(q, 1)  # an event of weight under 1 is that share of an event
    confident = ALPHA * q
    system = (vectors.T * (1 + confident)) @ vectors + ridge * np.eye(vectors.shape[1])
    right = vectors.T @ (share + confident - (1 + confident) * offset)
    return np.linalg.solve(system, right)


def test_every_row_is_its_own_least_squares_whatever_its_number_of_events():
    vectors, offset, dense, ridge = world()
    found = solve(fixed_side(vectors, offset), csr_array(dense), ALPHA, ridge)
    for row, q in enumerate(dense):
        expected = by_hand(vectors, offset, q, ridge[row])
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_the_minimum_is_that_of_hu_koren_and_volinsky():
    vectors, offset, dense, ridge = world()
    dense = np.minimum(np.ceil(dense), 1)
    found = solve(fixed_side(vectors, 0 * offset), csr_array(dense), ALPHA, ridge)
    for row, p in enumerate(dense):
        confidence = 1 + ALPHA * p

        def loss(x, p=p, confidence=confidence, row=row):
            return (confidence * (p - vectors @ x) ** 2).sum() + ridge[row] * x @ x

        for direction in np.eye(6):
            for step in (-1e-2, 1e-2):
                assert loss(found[row] + step * direction) > loss(found[row]) - 1e-6


def test_long_histories_are_added_up_in_blocks():
    vectors, offset, dense, ridge = world(items=700, width=3, rows=(699, 300, 256, 257))
    found = solve(fixed_side(vectors, offset), csr_array(dense), ALPHA, ridge)
    for row, q in enumerate(dense):
        expected = by_hand(vectors, offset, q, ridge[row])
        np.testing.assert_allclose(found[row], expected, rtol=1e-3, atol=1e-4)


def test_a_row_without_events_is_pulled_by_the_offsets_alone():
    vectors, offset, _, ridge = world()
    nobody = csr_array((1, 40), dtype=np.float32)
    found = solve(fixed_side(vectors, offset), nobody, ALPHA, ridge[:1])
    np.testing.assert_allclose(
        found[0], by_hand(vectors, offset, np.zeros(40), ridge[0]), rtol=1e-4, atol=1e-6
    )
    silent = solve(fixed_side(vectors, 0 * offset), nobody, ALPHA, ridge[:1])
    assert not silent.any()


def test_an_event_that_fades_ends_as_none():
    vectors, offset, _, ridge = world()
    faded = np.zeros((2, 40), dtype=np.float32)
    faded[0, 3] = 1e-30
    events = csr_array(faded)
    found = solve(fixed_side(vectors, offset), events, ALPHA, np.full(2, ridge[0]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_vectors_of_low_rank_are_no_trouble():
    vectors, offset, dense, ridge = world()
    vectors[:, 3:] = 0
    found = solve(fixed_side(vectors, offset), csr_array(dense), ALPHA, ridge)
    for row, q in enumerate(dense):
        expected = by_hand(vectors, offset, q, ridge[row])
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 6])
def test_the_basis_makes_no_difference(width):
    vectors, offset, dense, ridge = world(width=width)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    turn = turn.astype(np.float32)
    plain = solve(fixed_side(vectors, offset), csr_array(dense), ALPHA, ridge)
    turned = solve(fixed_side(vectors @ turn, offset), csr_array(dense), ALPHA, ridge)
    np.testing.assert_allclose(turned, plain @ turn, rtol=1e-3, atol=1e-5)
