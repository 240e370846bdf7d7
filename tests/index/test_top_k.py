"""top_k: the same answer as sorting by (score, column), on all kinds of ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.index.top_k import BLOCK, top_k

INF = float("inf")


def by_sorting(scores, k):
    """The definition: sort every row by score downward, then by column upward."""
    values = np.full((len(scores), k), -INF, dtype=np.float32)
    columns = np.full((len(scores), k), -1)
    for row, line in enumerate(scores.numpy()):
        order = [
            column for column in np.lexsort((np.arange(len(line)), -line)) if line[column] > -INF
        ]
        columns[row, : len(order[:k])] = order[:k]
        values[row, : len(order[:k])] = line[order[:k]]
    return torch.from_numpy(values), torch.from_numpy(columns)


def assert_by_definition(scores, k):
    values, columns = top_k(scores, k)
    expected_values, expected_columns = by_sorting(scores, k)
    assert torch.equal(columns, expected_columns)
    assert torch.equal(values, expected_values)


def rows(kind, n, seed):
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(5, n, generator=generator)
    return {
        "continuous": normal,
        "few values": normal.round(),
        "constant": torch.zeros(5, n),
        "signed zeros": torch.where(normal > 0, 0.0, -0.0),
        "all negative": -normal.abs() - 1,
        "rising": torch.arange(n, dtype=torch.float32).expand(5, n).contiguous(),
        "mostly excluded": normal.masked_fill(normal < 1.5, -INF),
        "all excluded": torch.full((5, n), -INF),
        "extreme": normal * 1e38,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "continuous",
        "few values",
        "constant",
        "signed zeros",
        "all negative",
        "rising",
        "mostly excluded",
        "all excluded",
        "extreme",
    ],
)
def test_top_k_is_the_head_of_the_sorted_row(kind):
    for n in (1, BLOCK, 3 * BLOCK + 1, 700, 5000):
        for k in (1, 7, 100):
            assert_by_definition(rows(kind, n, seed=n), k)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 20 * BLOCK),
    k=st.integers(0, 30),
    levels=st.integers(1, 50),
    seed=st.integers(0, 10_000),
)
def test_top_k_is_exact_on_any_number_of_ties(n, k, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (3, n), generator=generator).float()
    scores[scores == 0] = -INF
    assert_by_definition(scores, k)


def test_a_tie_across_the_last_place_goes_to_the_lower_column_in_another_block():
    scores = torch.zeros(1, 64 * BLOCK)
    scores[0, [BLOCK * 40, BLOCK * 3 + 5, BLOCK * 50]] = 1.0
    assert top_k(scores, 2)[1].tolist() == [[BLOCK * 3 + 5, BLOCK * 40]]


def test_the_columns_after_the_last_whole_block_are_searched():
    scores = torch.zeros(1, 64 * BLOCK + 3)
    scores[0, -1] = 1.0
    assert top_k(scores, 2)[1].tolist() == [[64 * BLOCK + 2, 0]]


def test_scores_that_are_not_contiguous_give_the_same_answer():
    wide = rows("few values", 4000, seed=1)
    part = wide[:, 10:3990]
    for got, expected in zip(top_k(part, 20), top_k(part.contiguous(), 20), strict=True):
        assert torch.equal(got, expected)
