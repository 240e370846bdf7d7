"""Merging lists: by hand, and against a plain loop."""

import numpy as np
import pytest

from shortlist.blending.merging import fill_slots, fuse, slot_order


def filled(lists, slots, lengths=None):
    lists = np.array(lists)
    channels, queries, _ = lists.shape
    lengths = (lists >= 0).sum(axis=2) if lengths is None else np.array(lengths)
    chosen = np.full((queries, len(slots)), -1)
    by = chosen.copy()
    ranks = np.zeros((queries, len(slots), channels), dtype=np.int32)
    fill_slots(lists, lengths, np.array(slots), chosen, by, ranks)
    return chosen, by, ranks


def test_quotas_spread_every_channel_evenly_over_the_list():
    assert slot_order(np.array([3, 1]), 4).tolist() == [0, 0, 1, 0]
    assert np.bincount(slot_order(np.array([50, 30, 20]), 10)).tolist() == [5, 3, 2]


def test_quotas_of_another_length_share_by_the_largest_remainder():
    # 7 slots of 60 : 40 are 4.2 and 2.8: the larger remainder is rounded up.
    assert np.bincount(slot_order(np.array([60, 40]), 7)).tolist() == [4, 3]
    assert np.bincount(slot_order(np.array([1, 0]), 3), minlength=2).tolist() == [3, 0]


def test_the_larger_quota_comes_first_where_slots_meet():
    assert slot_order(np.array([27, 40, 33]), 3).tolist() == [1, 2, 0]


def test_an_item_of_two_lists_takes_one_slot_and_the_other_channel_gives_its_next():
    chosen, by, ranks = filled([[[5, 6, 7]], [[5, 8, 9]]], [0, 1, 0, 1])
    assert chosen.tolist() == [[5, 8, 6, 9]]
    assert by.tolist() == [[0, 1, 0, 1]]
    assert ranks[0].tolist() == [[1, 1], [0, 2], [2, 0], [0, 3]]


def test_what_one_channel_cannot_give_goes_to_the_others():
    chosen, by, _ = filled([[[5, -1, -1]], [[5, 8, 9]]], [0, 0, 0, 1])
    assert chosen.tolist() == [[5, 8, 9, -1]]
    assert by.tolist() == [[0, 1, 1, -1]]


def test_lists_are_read_no_further_than_their_length():
    chosen, _, ranks = filled([[[5, 6]], [[7, 8]]], [0, 1], lengths=[[0], [2]])
    assert chosen.tolist() == [[7, 8]]
    assert ranks[:, :, 0].max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_fusion_is_the_sum_of_gains_ordered_by_sum_then_tie_key(seed):
    random = np.random.default_rng(seed)
    channels, queries, width, items, k = 3, 4, 6, 12, 7
    lists = np.stack(
        [[random.permutation(items)[:width] + 1 for _ in range(queries)] for _ in range(channels)]
    )
    lengths = random.integers(0, width + 1, (channels, queries))
    gains = random.integers(1, 4, lists.shape).astype(np.float32)  # small integers: many ties
    keys = random.permutation(items + 1)
    chosen = np.full((queries, k), -1)
    by, scores = chosen.copy(), np.full((queries, k), -np.inf, dtype=np.float32)
    ranks = np.zeros((queries, k, channels), dtype=np.int32)
    fuse(lists, lengths, gains, keys, chosen, scores, by, ranks)
    for query in range(queries):
        sums, places = {}, {}
        for channel in range(channels):
            for rank in range(lengths[channel, query]):
                item = int(lists[channel, query, rank])
                sums[item] = sums.get(item, 0) + float(gains[channel, query, rank])
                places.setdefault(item, [0] * channels)[channel] = rank + 1
        order = sorted(sums, key=lambda item: (-sums[item], keys[item]))[:k]
        assert chosen[query, : len(order)].tolist() == order
        assert (chosen[query, len(order) :] == -1).all()
        assert scores[query, : len(order)].tolist() == [sums[item] for item in order]
        assert ranks[query, : len(order)].tolist() == [places[item] for item in order]
        assert all(ranks[query, slot, by[query, slot]] > 0 for slot in range(len(order)))
