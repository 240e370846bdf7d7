"""The lists nearest to a query: by brute force, in order, and equal alone and in a batch."""

import numpy as np
import pytest

from shortlist.index.lists import Centres, nearest_lists


def by_hand(centres, point, euclidean):
    """Lists in order and how far they are; integers, so without rounding."""
    far = np.square(point - centres).sum(1) if euclidean else point @ centres.T
    order = np.argsort(far if euclidean else -far, kind="stable")
    return order, far[order]


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize(("total", "count"), [(1, 1), (40, 40), (40, 3), (300, 1), (301, 20)])
def test_the_nearest_lists_are_those_of_brute_force_and_ties_go_by_number(total, count, euclidean):
    random = np.random.default_rng(total)
    centres = random.integers(-2, 3, (total, 6)).astype(np.float32)  # Many are equally near.
    points = random.integers(-2, 3, (25, 6)).astype(np.float32)
    lists, far = nearest_lists(Centres.of(centres, euclidean=euclidean), points, count)
    for row, point in enumerate(points):
        expected, distances = by_hand(centres, point, euclidean)
        assert lists[row].tolist() == expected[:count].tolist()
        assert far[row].tolist() == distances[:count].tolist()


@pytest.mark.parametrize("euclidean", [False, True])
def test_what_is_picked_for_a_point_does_not_depend_on_its_batch(euclidean):
    random = np.random.default_rng(5)
    centres = Centres.of(random.standard_normal((333, 17), np.float32), euclidean=euclidean)
    points = random.standard_normal((64, 17), np.float32)
    lists, far = nearest_lists(centres, points, 12)
    for row in range(64):
        alone = nearest_lists(centres, points[row : row + 1], 12)
        assert np.array_equal(alone[0][0], lists[row])
        assert np.array_equal(alone[1][0], far[row])
