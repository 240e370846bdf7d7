"""EASE's closed form against the textbook, tile by tile; and what truncation keeps."""

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from shortlist.errors import ModelError
from shortlist.linear import ease
from shortlist.linear.ease import closed_form, gram_matrix, strongest


@pytest.fixture
def log():
    random = np.random.default_rng(0)
    return csr_array(random_array((80, 37), density=0.2, rng=random, dtype=np.float32))


def textbook(matrix, l2):
    dense = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + l2 * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("tile", [1, 5, 37, 2048])
def test_the_closed_form_is_that_of_the_paper_whatever_the_tile(log, monkeypatch, tile):
    monkeypatch.setattr(ease, "TILE", tile)
    weights = closed_form(log, 2.0)
    np.testing.assert_allclose(weights, textbook(log, 2.0), atol=1e-6)
    assert weights.dtype == np.float32
    assert weights.flags.c_contiguous


def test_two_items_by_hand():
    # Gram [[2, 1], [1, 1]] + 1 = [[3, 1], [1, 2]]; the inverse is [[2, -1], [-1, 3]] / 5.
    weights = closed_form(csr_array(np.float32([[1, 1], [1, 0]])), 1.0)
    np.testing.assert_allclose(weights, [[0, 1 / 3], [1 / 2, 0]], rtol=1e-6)


def test_each_column_is_the_ridge_regression_of_its_item_on_the_others(log):
    dense, weights = log.toarray().astype(np.float64), closed_form(log, 3.0)
    others = np.arange(37) != 4
    by_regression = np.linalg.solve(
        dense[:, others].T @ dense[:, others] + 3.0 * np.eye(36),
        dense[:, others].T @ dense[:, 4],
    )
    np.testing.assert_allclose(weights[others, 4], by_regression, atol=1e-5)


def test_the_gram_matrix_is_dense_and_exact(log, monkeypatch):
    monkeypatch.setattr(ease, "TILE", 10)
    dense = log.toarray()
    np.testing.assert_allclose(gram_matrix(log), dense.T @ dense, atol=1e-5)


def test_a_ridge_too_small_for_32_bits_is_refused_by_name():
    twins = csr_array(np.ones((1000, 3), dtype=np.float32))
    with pytest.raises(ModelError, match="l2 = 1e-09 is too small"):
        closed_form(twins, 1e-9)


def test_the_strongest_of_a_row_are_kept_by_size_the_lower_column_among_equals(monkeypatch):
    monkeypatch.setattr(ease, "TILE", 2)
    weights = np.float32([[0, 1, -3, 2], [1, 0, 1, 1], [5, -5, 0, 0.5]])
    weights = np.vstack([weights, [0, 0, 0, 0]]).astype(np.float32)
    kept = strongest(weights, 2).toarray()
    assert kept.tolist() == [[0, 0, -3, 2], [1, 0, 1, 0], [5, -5, 0, 0], [0, 0, 0, 0]]


def test_truncation_to_more_than_there_are_keeps_all(log):
    weights = closed_form(log, 2.0)
    np.testing.assert_array_equal(strongest(weights, 100).toarray(), weights)
