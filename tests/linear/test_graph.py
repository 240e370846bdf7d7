"""Graph filters' parts against dense numpy."""

import math

import numpy as np
import pytest
from numpy.polynomial.chebyshev import chebpts1, chebval
from scipy.sparse import csr_array, random_array

from shortlist.errors import ModelError
from shortlist.linear.graph import (
    interpolated,
    normalised_graph,
    plateau,
    power,
    sharpened,
    singular_vectors,
    smoothed,
)


@pytest.fixture
def log():
    random = np.random.default_rng(0)
    matrix = csr_array(random_array((60, 40), density=0.15, rng=random, dtype=np.float32))
    matrix.data[:] = 1
    return matrix


def test_normalisation_divides_by_powers_of_both_degrees_and_leaves_the_untouched_at_zero():
    matrix = csr_array(np.float32([[0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]))
    graph = normalised_graph(matrix, 0.5, 1.0)
    by_hand = np.zeros((5, 3))
    by_hand[1, 1], by_hand[1, 2] = 1 / np.sqrt(2), 1 / np.sqrt(2) / 4
    by_hand[2:, 2] = 1 / 4
    np.testing.assert_allclose(graph.forward.toarray(), by_hand, rtol=1e-6)
    np.testing.assert_array_equal(graph.backward.toarray(), graph.forward.toarray().T)


def test_a_power_of_nothing_is_nothing():
    assert power(np.array([0.0, 4.0]), -0.5).tolist() == [0.0, 0.5]


def test_weights_that_are_not_positive_have_no_degrees():
    with pytest.raises(ModelError, match="needs weights > 0, got -1"):
        normalised_graph(csr_array(np.float32([[1, -1]])), 0.5, 0.5)


def test_the_largest_singular_value_of_the_symmetric_normalisation_is_one(log):
    _, values = singular_vectors(normalised_graph(log, 0.5, 0.5), 5, seed=0)
    assert values[0] == pytest.approx(1, rel=1e-5)


def test_singular_vectors_are_those_of_lapack_whatever_their_sign(log):
    graph = normalised_graph(log, 0.3, 0.5)
    _, values, right = np.linalg.svd(graph.forward.toarray().astype(np.float64))
    found, ours = singular_vectors(graph, 7, seed=3)
    np.testing.assert_allclose(ours, values[:7], rtol=1e-5)
    np.testing.assert_allclose(found @ found.T, right[:7].T @ right[:7], atol=1e-4)


def test_subspace_iteration_finds_the_leading_space_of_a_larger_matrix():
    random = np.random.default_rng(1)
    tastes = random.random((400, 5)) @ random.random((5, 300))
    matrix = csr_array((random.random((400, 300)) < 0.2 * tastes / tastes.max()) * np.float32(1))
    graph = normalised_graph(matrix, 0.5, 0.5)
    _, values, right = np.linalg.svd(graph.forward.toarray().astype(np.float64))
    found, ours = singular_vectors(graph, 2, seed=0, rounds=60)
    np.testing.assert_allclose(ours, values[:2], rtol=1e-4)
    assert abs(found[:, 0] @ right[0]) == pytest.approx(1, abs=1e-4)


def test_a_log_of_low_rank_has_no_more_vectors_than_that():
    matrix = csr_array(np.repeat(np.float32([[1, 1, 0], [0, 0, 1]]), 4, axis=0))
    vectors, values = singular_vectors(normalised_graph(matrix, 0.5, 0.5), 3, seed=0)
    assert vectors.shape == (3, 2)
    assert len(values) == 2


def test_the_same_seed_gives_the_same_bits(log):
    graph = normalised_graph(log, 0.5, 0.5)
    once, again = (singular_vectors(graph, 4, seed=9)[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_smoothing_and_sharpening_are_the_dense_products(log):
    graph = normalised_graph(log, 0.5, 0.5)
    dense = graph.forward.toarray().astype(np.float64)
    gram = dense.T @ dense
    profile = log[:6]
    smooth = smoothed(graph, profile)
    np.testing.assert_allclose(smooth, gram @ profile.toarray().T, atol=1e-5)
    steps = [np.eye(40)]
    for order in (1, 2, 3, 4):
        steps.append(steps[-1] @ (-2.5 * gram) / order)
    for most in (1, 4):
        series = sum(steps[: most + 1])
        np.testing.assert_allclose(sharpened(graph, smooth, 2.5, most), series @ smooth, atol=1e-5)


def test_a_runge_kutta_step_is_what_sharpening_does(log):
    graph = normalised_graph(log, 0.5, 0.5)
    dense = graph.forward.toarray().astype(np.float64)
    state, time = smoothed(graph, log[:3]).astype(np.float64), 2.0
    slope = [-dense.T @ (dense @ state)]
    for share in (0.5, 0.5, 1.0):
        slope.append(-dense.T @ (dense @ (state + time * share * slope[-1])))
    stepped = state + time / 6 * (slope[0] + 2 * slope[1] + 2 * slope[2] + slope[3])
    np.testing.assert_allclose(sharpened(graph, np.float32(state), time, 4), stepped, atol=1e-5)


def test_the_plateau_is_one_then_a_half_then_nothing():
    series = plateau(9, 3.0)
    extremes = [-math.cos(math.pi * step / 9) for step in range(10)]
    by_hand = [0.5 - 0.5 * x**3 for x in extremes]  # an odd power needs no sign
    np.testing.assert_allclose(chebval(chebpts1(10), series), by_hand, atol=1e-12)
    assert chebval(chebpts1(10)[[0, -1]], series) == pytest.approx([1, 0])
    assert chebval(0.0, series) == pytest.approx(0.5)


def test_the_plateau_of_degree_one_is_the_line_through_one_and_nothing():
    # Points of the first kind: -+sqrt(1/2); values there: 1 and 0.
    np.testing.assert_allclose(plateau(1, 1.5), [0.5, -math.sqrt(0.5)], atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 7])
def test_an_interpolated_filter_is_its_polynomial_of_the_graph(log, degree):
    graph = normalised_graph(log, 0.5, 0.5)
    series = plateau(degree, 1.5)
    squares, basis = np.linalg.eigh((graph.backward @ graph.forward).toarray().astype(np.float64))
    expected = basis @ np.diag(chebval(1 - 2 * squares, series)) @ basis.T @ log.toarray().T
    found = interpolated(graph, log, series, 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
