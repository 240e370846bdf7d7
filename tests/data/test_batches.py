"""Batches: each positive once, with the latest events before it and never with itself."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.data.batches import PairBatches, histories
from shortlist.data.dataset import Dataset
from shortlist.data.interactions import Interactions
from shortlist.data.schema import Schema
from shortlist.errors import ModelError

LOG = Interactions(
    user=np.array([1, 1, 1, 1, 2, 3, 3], dtype=np.int32),
    item=np.array([5, 6, 7, 8, 5, 9, 6], dtype=np.int32),
    users=4,
)


def lists(ragged):
    ends = ragged.offsets.tolist()
    return [ragged.values[a:b].tolist() for a, b in pairwise(ends)]


def test_a_history_is_what_came_before_the_latest_kept_oldest_first():
    batches = PairBatches(LOG, ordered=True, batch_size=4, history_length=2)
    batch = batches.gather(torch.arange(7))
    assert lists(batch.history) == [[], [5], [5, 6], [6, 7], [], [], [9]]
    assert batch.positive.tolist() == LOG.item.tolist()


def test_without_an_order_a_history_is_everything_else_of_the_user():
    batches = PairBatches(LOG, ordered=False, batch_size=4, history_length=9)
    found = lists(batches.gather(torch.arange(7)).history)
    assert [sorted(h) for h in found] == [[6, 7, 8], [5, 7, 8], [5, 6, 8], [5, 6, 7], [], [6], [9]]


def test_without_an_order_a_long_history_is_cut_but_never_holds_the_target():
    batches = PairBatches(LOG, ordered=False, batch_size=4, history_length=2)
    for positive, history in zip(
        LOG.item, lists(batches.gather(torch.arange(7)).history), strict=True
    ):
        assert positive not in history
        assert len(history) <= 2


def test_known_positives_are_all_of_the_users_events():
    batches = PairBatches(LOG, ordered=True, batch_size=4, history_length=2, with_known=True)
    assert lists(batches.gather(torch.tensor([1, 6])).known) == [[5, 6, 7, 8], [9, 6]]


def test_an_epoch_takes_each_positive_once_in_batches_of_equal_size():
    batches = PairBatches(LOG, ordered=True, batch_size=3, history_length=2)
    epoch = list(batches.epoch(torch.Generator().manual_seed(1)))
    assert [len(b.positive) for b in epoch] == [3, 2, 2]
    assert len(epoch) == len(batches)
    pairs = [
        (u, i) for b in epoch for u, i in zip(b.users.tolist(), b.positive.tolist(), strict=True)
    ]
    assert sorted(pairs) == sorted(zip(LOG.user.tolist(), LOG.item.tolist(), strict=True))


def test_the_same_seed_gives_the_same_order_and_another_another(split):
    log = split.training_data().training_log
    batches = PairBatches(log, ordered=True, batch_size=500, history_length=5)
    one, two, three = (
        next(batches.epoch(torch.Generator().manual_seed(s))).positive for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_weights_are_used_only_when_asked_and_refused_when_absent(tiny_log):
    frame = tiny_log.with_columns(pl.Series("w", np.arange(8.0)))
    log = Dataset.load(frame, schema=Schema(time="time", weight="w")).log
    options = {"ordered": True, "batch_size": 8, "history_length": 2}
    plain = PairBatches(log, **options).gather(torch.arange(8))
    weighted = PairBatches(log, weighted=True, **options).gather(torch.arange(8))
    assert plain.weight.tolist() == [1.0] * 8
    assert sorted(weighted.weight.tolist()) == list(range(8))
    with pytest.raises(ModelError, match=r"data\.weight"):
        PairBatches(LOG, weighted=True, **options)


def test_full_histories_of_chosen_users():
    assert lists(histories(LOG, torch.tensor([3, 0, 1]), None)) == [[9, 6], [], [5, 6, 7, 8]]
    assert lists(histories(LOG, torch.tensor([1]), 3)) == [[6, 7, 8]]
