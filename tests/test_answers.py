"""Comparisons by the answer rule's second form accept roundings and nothing else."""

import pytest

from answers import assert_same_up_to_rounding

LIST = ([[7, 3, 9, -1]], [[1.0, 0.5, 0.25, float("-inf")]])


@pytest.mark.parametrize(
    "other",
    [
        LIST,
        ([[7, 3, 9, -1]], [[1.000005, 0.499995, 0.25, float("-inf")]]),
        ([[7, 3, 8, -1]], [[1.0, 0.5, 0.250001, float("-inf")]]),  # as near to the last place
    ],
)
def test_roundings_pass(other):
    assert_same_up_to_rounding(LIST, other)


def test_neighbours_within_a_rounding_may_change_places():
    near = ([[7, 3, 9]], [[1.0, 0.500001, 0.5]])
    assert_same_up_to_rounding(near, ([[7, 9, 3]], [[1.0, 0.500002, 0.5]]))


@pytest.mark.parametrize(
    "other",
    [
        ([[3, 7, 9, -1]], [[1.0, 0.5, 0.25, float("-inf")]]),
        ([[7, 3, 9, -1]], [[1.0, 0.5001, 0.25, float("-inf")]]),
        ([[7, 8, 9, -1]], [[1.0, 0.5, 0.25, float("-inf")]]),
        ([[7, 3, -1, -1]], [[1.0, 0.5, float("-inf"), float("-inf")]]),
        ([[7, 3, 9, 4]], [[1.0, 0.5, 0.25, 0.2]]),
        ([[7, 3, 3, -1]], [[1.0, 0.5, 0.5, float("-inf")]]),
        ([[7, 3, -1, 9]], [[1.0, 0.5, float("-inf"), 0.25]]),
    ],
)
def test_another_answer_does_not_pass(other):
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(LIST, other)
