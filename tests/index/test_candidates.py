"""The k best of the candidates of a library, compared with brute force."""

import numpy as np
import pytest

from shortlist.index.candidates import (
    Contents,
    Seen,
    best_of_columns,
    best_of_slots,
    measure,
)

ITEMS, WIDTH = 60, 5


def world(seed, euclidean, interests):
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (ITEMS, WIDTH)).astype(np.float32)  # Many equal scores.
    points = random.integers(-2, 3, (7, interests, WIDTH)).astype(np.float32)
    ids = random.permutation(500)[:ITEMS]
    columns = np.append(random.permutation(ITEMS), [-1, -1])  # Two slots of removed items.
    return random, Contents(ids, vectors, columns, euclidean), points


def by_hand(contents, point, columns, seen, k):
    """Pairs (id, score), best first, equal scores by column."""
    scores = point @ contents.vectors.T
    if contents.euclidean:
        scores = -np.square(point[:, None] - contents.vectors).sum(2)
    scores = scores.max(0)
    kept = [c for c in set(columns) - {-1} if contents.ids[c] not in seen]
    kept.sort(key=lambda column: (-scores[column], column))
    pairs = [(contents.ids[c], scores[c]) for c in kept[:k]]
    return pairs + [(-1, -np.inf)] * (k - len(pairs))


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("k", [1, 8, 70])
def test_the_best_of_the_slots_found_are_those_of_brute_force(euclidean, interests, k):
    random, contents, points = world(1, euclidean, interests)
    slots = np.stack([random.permutation(62)[:20] for _ in range(7 * interests)])
    slots[:, 3] = -1
    lists = [random.permutation(500)[: 60 * row] for row in range(7)]
    seen = Seen(np.concatenate(lists), np.cumsum([0] + [len(some) for some in lists]))
    ids, scores, short = best_of_slots(contents, points, slots, seen, k)
    for row, point in enumerate(points):
        found = slots[row * interests : (row + 1) * interests].ravel()
        columns = contents.columns[found[found >= 0]].tolist()
        expected = by_hand(contents, point, columns, lists[row].tolist(), k)
        assert list(zip(ids[row], scores[row], strict=True)) == expected
    assert short == (ids[:, -1] < 0).sum()


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("k", [1, 8, 70])
@pytest.mark.parametrize("share", [0.0, 0.3, None])
def test_the_best_of_some_columns_are_those_of_brute_force(euclidean, interests, k, share):
    random, contents, points = world(2, euclidean, interests)
    columns = None if share is None else np.flatnonzero(random.random(ITEMS) < share)
    lists = [random.permutation(500)[: 60 * row] for row in range(7)]
    seen = Seen(np.concatenate(lists), np.cumsum([0] + [len(some) for some in lists]))
    for known in (None, seen):
        ids, scores, short = best_of_columns(contents, points, columns, known, k)
        for row, point in enumerate(points):
            every = range(ITEMS) if columns is None else columns.tolist()
            theirs = [] if known is None else lists[row].tolist()
            expected = by_hand(contents, point, every, theirs, k)
            assert list(zip(ids[row], scores[row], strict=True)) == expected
        assert short == (ids[:, -1] < 0).sum()


def test_points_are_measured_and_scaled_and_what_is_not_finite_is_seen():
    points = np.array([[3, 4], [0, 1], [5, 12]], dtype=np.float32)
    unit = np.empty_like(points)
    assert measure(points, unit) == (1, 169)
    assert unit == pytest.approx(points / np.array([[5], [1], [13]]))
    assert measure(points, unit[:0]) == (1, 169)
    for odd in (np.inf, -np.inf, np.nan):
        points[1, 1] = odd
        assert np.isnan(measure(points, unit)).all()
