"""Top-N neighbours: every formula against dense numpy, ties, and rows made alone."""

import numpy as np
import pytest

from shortlist.data.interactions import Interactions
from shortlist.errors import ModelError
from shortlist.linear.neighbours import (
    Formula,
    Neighbours,
    distinct_pairs,
    nearest,
    renamed,
    spread,
)
from shortlist.linear.swing import swing
from shortlist.linear.weighting import bm25, inverse_frequency, tf_idf

USERS, ITEMS = 40, 25


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(5)
    user = np.sort(rng.integers(1, USERS, 400)).astype(np.int32)  # user 40 - 1 is the last
    item = np.minimum(rng.zipf(1.4, 400), ITEMS + 2).astype(np.int32)
    return Interactions(user, item, USERS, time=np.arange(400), weight=np.ones(400, np.float32))


@pytest.fixture(scope="module")
def pairs(log):
    return distinct_pairs(log, ITEMS)


@pytest.fixture(scope="module")
def tie_keys():
    return np.random.default_rng(6).permutation(ITEMS + 1).astype(np.int64)


def dense(pairs, value=None, weight=None, time=None, half_life=1.0):
    """Weighted and plain co-counts, by a loop over users: [items + 1, items + 1]."""
    shape = (ITEMS + 1, ITEMS + 1)
    total, shared = np.zeros(shape), np.zeros(shape)
    for user in range(USERS):
        part = slice(pairs.start[user], pairs.start[user + 1])
        own = pairs.item[part].astype(int)
        gain = np.ones((len(own), len(own)))
        if value is not None:
            gain *= np.outer(value[part], value[part])
        if weight is not None:
            gain *= weight[user]
        if time is not None:
            gain *= 2.0 ** (-np.abs(np.subtract.outer(time[part], time[part])) / half_life)
        total[np.ix_(own, own)] += gain
        shared[np.ix_(own, own)] += 1
    np.fill_diagonal(total, 0)
    return total, shared


def top(scores, tie_keys, count):
    """The best of each row by (score, tie key), zeros out: ids and scores."""
    ids = np.zeros((ITEMS + 1, count), int)
    values = np.zeros((ITEMS + 1, count))
    for row in range(1, ITEMS + 1):
        near = [j for j in range(1, ITEMS + 1) if scores[row, j] != 0]
        near.sort(key=lambda j: (-np.float32(scores[row, j]), tie_keys[j]))
        ids[row, : len(near[:count])] = near[:count]
        values[row, : len(near[:count])] = scores[row, near[:count]]
    return ids, values


def table(found, count):
    """Lists as tables [lists, count], 0 past the end: ids and scores."""
    ids, scores = np.zeros((len(found), count), int), np.zeros((len(found), count), np.float32)
    for number, (begin, end) in enumerate(zip(found.start, found.start[1:], strict=False)):
        ids[number, : end - begin] = found.ids[begin:end]
        scores[number, : end - begin] = found.scores[begin:end]
    return ids, scores


def same(found, scores, tie_keys, count):
    ids, values = top(scores, tie_keys, count)
    np.testing.assert_array_equal(table(found, count)[0], ids)
    np.testing.assert_allclose(table(found, count)[1], values, rtol=1e-6)


def power(counts, exponent):
    return np.where(counts > 0, np.maximum(counts, 1.0) ** exponent, 0.0)


def test_the_last_event_of_each_pair_is_kept_in_the_order_of_the_log():
    log = Interactions(np.array([1, 1, 1, 1, 2]), np.array([4, 3, 4, 9, 0]), users=3)
    found = distinct_pairs(log, items=5)
    assert found.start.tolist() == [0, 0, 2, 2]
    assert found.item.tolist() == [3, 4]
    assert found.event.tolist() == [1, 2]


@pytest.mark.parametrize("count", [1, 4, ITEMS + 9])
def test_cosine_equals_the_dense_product(pairs, tie_keys, count):
    left = power(pairs.users_of_items(ITEMS), -0.5)
    total, _ = dense(pairs)
    found = nearest(pairs, Formula(left, left), tie_keys, count)
    same(found, total * np.outer(left, left), tie_keys, count)


def test_cosine_by_hand_where_items_tie():
    # Items 1, 2, 3 share both users: every similarity is 1, and the smaller tie key goes first.
    log = Interactions(np.array([1, 1, 1, 2, 2, 2, 3]), np.array([1, 2, 3, 1, 2, 3, 4]), users=4)
    pairs = distinct_pairs(log, 4)
    left = power(pairs.users_of_items(4), -0.5)
    found = nearest(pairs, Formula(left, left), np.array([0, 9, 7, 8, 1]), 2)
    assert found.start.tolist() == [0, 0, 2, 4, 6, 6]
    assert found.ids.tolist() == [2, 3, 3, 1, 2, 1]
    assert found.scores.tolist() == [1] * 6


def test_a_long_tie_that_overflows_the_candidates_keeps_the_smallest_tie_keys():
    # One user has met 500 items: each is as near to each as any other; far more than are held.
    log = Interactions(np.ones(500, int), np.arange(1, 501), users=2)
    keys = np.random.default_rng(0).permutation(501)
    ones = np.ones(501)
    found = nearest(distinct_pairs(log, 500), Formula(ones, ones), keys, 3)
    order = 1 + np.argsort(keys[1:])
    for row in (1, 77, 500):
        assert found.of(np.array([row])).ids.tolist() == [i for i in order[:4] if i != row][:3]


def test_conditional_is_not_symmetric_and_reads_both_popularities(pairs, tie_keys):
    counts = pairs.users_of_items(ITEMS)
    left, right = power(counts, -1.0), power(counts, -0.3)
    total, _ = dense(pairs)
    found = nearest(pairs, Formula(left, right), tie_keys, 6)
    same(found, total * np.outer(left, right), tie_keys, 6)


@pytest.mark.parametrize("weighted", [False, True])
def test_jaccard_divides_by_the_union(pairs, tie_keys, weighted):
    weight = inverse_frequency(pairs.items_of_users()) if weighted else np.ones(USERS)
    size = np.bincount(pairs.item, weight[pairs.user], ITEMS + 1)
    total, _ = dense(pairs, weight=weight)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(total / (size[:, None] + size - total))
    formula = Formula(size, size, union=True, user_weight=weight if weighted else None)
    same(nearest(pairs, formula, tie_keys, 6), expected, tie_keys, 6)


def test_values_users_and_shrinkage_weigh_as_the_formula_says(pairs, tie_keys):
    rng = np.random.default_rng(8)
    value = rng.normal(size=len(pairs.item))  # negative ones too
    weight = inverse_frequency(pairs.items_of_users())
    left = power(np.bincount(pairs.item, value**2, ITEMS + 1), -0.5)
    total, shared = dense(pairs, value, weight)
    expected = total * np.outer(left, left) * shared / (shared + 3.0)
    formula = Formula(left, left, value=value, user_weight=weight, shrinkage=3.0)
    same(nearest(pairs, formula, tie_keys, 30), expected, tie_keys, 30)


def test_events_a_half_life_apart_count_a_half(pairs, tie_keys):
    time = pairs.event.astype(float)
    left = power(pairs.users_of_items(ITEMS), -0.5)
    total, _ = dense(pairs, time=time, half_life=4.0)
    found = nearest(pairs, Formula(left, left, time=time, half_life=4.0), tie_keys, 8)
    same(found, total * np.outer(left, left), tie_keys, 8)
    log = Interactions(np.array([1, 1]), np.array([1, 2]), users=2)
    two, ones = distinct_pairs(log, 2), np.ones(3)
    apart = Formula(ones, ones, time=np.array([10.0, 13.0]), half_life=3.0)
    assert nearest(two, apart, np.arange(3), 1).scores.tolist() == [0.5, 0.5]


def test_chosen_rows_are_those_of_the_whole_in_the_order_asked_for(pairs, tie_keys):
    left = power(pairs.users_of_items(ITEMS), -0.5)
    whole = nearest(pairs, Formula(left, left), tie_keys, 5)
    part = nearest(pairs, Formula(left, left), tie_keys, 5, np.array([7, 2]))
    wanted = whole.of(np.array([7, 2]))
    assert len(part) == 2
    for name in ("start", "ids", "scores"):
        np.testing.assert_array_equal(getattr(part, name), getattr(wanted, name))


def test_what_is_found_takes_the_room_of_the_neighbours_there_are():
    """Two items among many: no table of the catalogue times the neighbours asked for."""
    log, ones = Interactions(np.array([1, 1]), np.array([1, 9]), users=2), np.ones(100_001)
    pairs = distinct_pairs(log, 100_000)
    found = nearest(pairs, Formula(ones, ones), np.arange(100_001), 10_000, np.array([1, 9, 5]))
    assert found.start.tolist() == [0, 1, 2, 2]
    assert found.ids.tolist() == [9, 1]


def test_the_latest_pairs_of_a_user_are_the_distinct_items_met_last():
    log = Interactions(np.array([1, 1, 1, 1, 2]), np.array([4, 3, 4, 5, 3]), users=3)
    found = distinct_pairs(log, items=5)
    assert found.item.tolist() == [3, 4, 5, 3]
    assert found.latest(2).item.tolist() == [4, 5, 3]
    assert found.latest(2).start.tolist() == [0, 0, 2, 3]
    for most in (1, 2, 3, 9):
        stopped, cut = distinct_pairs(log, 5, most), found.latest(most)
        assert stopped.item.tolist() == cut.item.tolist()
        assert stopped.start.tolist() == cut.start.tolist()
        assert stopped.event.tolist() == cut.event.tolist()
    assert found.latest(None) is found


def test_replaced_lists_stand_where_the_old_ones_stood():
    lists = Neighbours.of_table(
        np.array([[0, 0], [2, 3], [3, 0]], np.int32), np.ones((3, 2), np.float32)
    )
    others = Neighbours.of_table(np.array([[1, 2]], np.int32), np.full((1, 2), 0.5, np.float32))
    found = lists.with_lists(np.array([2]), others)
    assert found.start.tolist() == [0, 0, 2, 4]
    assert found.ids.tolist() == [2, 3, 1, 2]
    assert found.scores.tolist() == [1, 1, 0.5, 0.5]


def test_a_log_without_pairs_gives_no_neighbours():
    log = Interactions(np.array([1, 2]), np.array([1, 2]), users=3)
    ones = np.ones(3)
    assert not nearest(distinct_pairs(log, 2), Formula(ones, ones), np.arange(3), 4).ids.size


def test_renamed_neighbours_point_to_the_new_rows():
    log = Interactions(np.array([1, 1]), np.array([1, 2]), users=2)
    ones = np.ones(3)
    old = nearest(distinct_pairs(log, 2), Formula(ones, ones), np.arange(3), 1)
    new = renamed(old, np.array([3, 1]), 3)
    assert new.start.tolist() == [0, 0, 1, 1, 2]
    assert new.ids.tolist() == [3, 1]
    assert new.scores.tolist() == [1, 1]


def test_spread_reaches_the_items_that_share_a_user():
    log = Interactions(np.array([1, 1, 2, 2]), np.array([1, 2, 3, 4]), users=3)
    marked = np.array([False, True, False, False, False])
    assert np.flatnonzero(spread(distinct_pairs(log, 4), marked)).tolist() == [1, 2]


def swing_by_hand(pairs, alpha):
    """All pairs of users of each item, by loops."""
    own = [
        set(pairs.item[a:b].tolist()) for a, b in zip(pairs.start, pairs.start[1:], strict=False)
    ]
    total = np.zeros((ITEMS + 1, ITEMS + 1))
    for u in range(USERS):
        for v in range(u + 1, USERS):
            common = own[u] & own[v]
            gain = (len(own[u]) * len(own[v])) ** -0.5 / (alpha + len(common)) if common else 0
            for i in common:
                for j in common - {i}:
                    total[i, j] += gain
    return total


def test_swing_equals_the_sum_over_pairs_of_users(pairs, tie_keys):
    user_keys = np.random.default_rng(3).permutation(USERS)
    found = swing(pairs, tie_keys, user_keys, ITEMS, 6, alpha=2.0, users=USERS)
    ids, values = top(swing_by_hand(pairs, 2.0), tie_keys, 6)
    found_ids, scores = table(found, 6)
    np.testing.assert_allclose(scores, values, rtol=1e-5)
    # Where two sums differ by rounding alone their order may too: compare where they are apart.
    apart = np.abs(np.diff(values, axis=1, prepend=np.inf, append=-1)) > 1e-5
    clear = apart[:, :-1] & apart[:, 1:]
    np.testing.assert_array_equal(found_ids[clear], ids[clear])


def test_swing_compares_a_seeded_sample_of_the_users_that_does_not_hang_on_other_users():
    user = np.repeat(np.arange(1, 31), 2)
    log = Interactions(user, np.tile([1, 2], 30), users=31)
    keys, items = np.random.default_rng(3).permutation(31), np.arange(3)
    whole = swing(distinct_pairs(log, 2), items, keys, 2, 1, users=4)
    # Each of the six pairs of four users: 1/2 / (1 + 2).
    assert whole.scores.tolist() == pytest.approx([6 * 0.5 / 3] * 2)
    pairs = distinct_pairs(log, 2)
    other = swing(pairs, items, keys, 2, 1, users=4, rows=np.array([2]))
    assert len(other) == 1
    assert other.scores.tolist() == [whole.scores[1]]


def test_inverse_frequency_of_nothing_is_nothing():
    np.testing.assert_allclose(
        inverse_frequency(np.array([0, 1, 7])), [0, 1 / np.log(2), 1 / np.log(8)]
    )


def test_tf_idf_by_hand():
    # 3 items; user 1 has 1 of them, user 2 all.
    value = tf_idf(np.array([4.0, 9.0]), np.array([1, 2]), np.array([0, 1, 3]), items=3)
    np.testing.assert_allclose(value, [2 * np.log(4 / 2), 0])


def test_bm25_by_hand():
    # Item lengths 3 and 1, mean 2; b = 0.5, k1 = 2: 2 (0.5 + 0.5 * 1.5) = 2.5 and 1.5.
    item, user, value = np.array([1, 1, 2]), np.array([1, 2, 1]), np.array([1.0, 2.0, 1.0])
    found = bm25(value, user, item, np.array([0, 2, 1]), np.array([0.0, 3.0, 1.0]), k1=2.0, b=0.5)
    idf = np.log(3 / np.array([3.0, 2.0, 3.0]))
    np.testing.assert_allclose(found, [3 / 3.5, 6 / 4.5, 3 / 2.5] * idf)


def test_weights_of_words_refuse_negative_values():
    value, user, counts = np.array([-1.0]), np.array([1]), np.array([0, 1])
    with pytest.raises(ModelError, match="'bm25' needs values >= 0"):
        bm25(value, user, np.array([1]), counts, np.zeros(2))
    with pytest.raises(ModelError, match="'tf-idf' needs values >= 0"):
        tf_idf(value, user, counts, 1)
