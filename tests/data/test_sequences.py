"""Sequence batches: each event once, with the events before it, and nothing later."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shortlist.data.interactions import Interactions
from shortlist.data.sequences import SequenceBatches
from shortlist.errors import ModelError


def log_of(*sizes):
    """Users 1, 2, ... with so many events; items are numbered through, from 1."""
    user = np.repeat(np.arange(len(sizes)) + 1, sizes).astype(np.int32)
    item = np.arange(1, len(user) + 1, dtype=np.int32)
    return Interactions(user=user, item=item, users=len(sizes) + 1)


def epoch(batches, seed=0):
    return list(batches.epoch(torch.Generator().manual_seed(seed)))


SIZES = (1, 7, 30, 2, 1, 13, 64)


@pytest.mark.parametrize("length", [3, 8, 64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_event_after_a_users_first_is_a_positive_once(length, seed):
    log = log_of(*SIZES)
    batches = SequenceBatches(log, batch_size=32, history_length=length)
    found = torch.cat([batch.positive for batch in epoch(batches, seed)])
    firsts = np.cumsum([0, *SIZES[:-1]]) + 1
    wanted = np.setdiff1d(log.item, firsts)
    assert sorted(found.tolist()) == wanted.tolist()
    assert batches.positives == len(wanted)


@pytest.mark.parametrize("length", [3, 8, 64])
def test_a_positive_is_asked_after_the_event_before_it_and_histories_are_the_log(length):
    log = log_of(*SIZES)
    batches = SequenceBatches(log, batch_size=32, history_length=length)
    owner = dict(zip(log.item.tolist(), log.user.tolist(), strict=True))
    for batch in epoch(batches):
        assert batch.history.lengths.max() <= length
        met = batch.history.values
        # Items are numbered through, so the event before a positive is its number less one.
        assert torch.equal(met[batch.place], batch.positive - 1)
        assert [owner[i] for i in batch.positive.tolist()] == batch.users.tolist()
        inside = batch.history.owners()[1:] == batch.history.owners()[:-1]
        assert bool((met.diff()[inside] == 1).all())
        assert len(batch.history.values) <= 32 or len(batch.history.offsets) == 2


def test_the_latest_events_have_full_context_and_the_cut_moves_from_epoch_to_epoch():
    batches = SequenceBatches(log_of(100), batch_size=500, history_length=10)
    lengths = []
    for seed in range(20):
        (batch,) = epoch(batches, seed)
        assert int((batch.positive == 100).sum()) == 1
        last = int(batch.place[batch.positive == 100])
        start = batch.history.offsets[batch.history.owners()[last]]
        assert last - int(start) == 9  # nine events before the one it is asked after
        lengths.append(tuple(sorted(batch.history.lengths.tolist())))
    assert len(set(lengths)) > 5


def test_an_epoch_is_the_same_for_the_same_seed_alone():
    batches = SequenceBatches(log_of(*SIZES), batch_size=32, history_length=8)

    def order(seed):
        return torch.cat([batch.positive for batch in epoch(batches, seed)]).tolist()

    assert order(3) == order(3) != order(4)


def test_little_is_spent_on_padding():
    sizes = np.random.default_rng(0).lognormal(3, 1, 500).astype(int) + 2
    batches = SequenceBatches(log_of(*sizes), batch_size=2000, history_length=100)
    spent = used = 0
    for batch in epoch(batches):
        lengths = batch.history.lengths
        spent += int(lengths.max()) * len(lengths)
        used += int(lengths.sum())
    assert used / spent > 0.85


def test_weights_and_known_positives_go_with_their_rows():
    log = log_of(3, 2)
    weight = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    log = Interactions(user=log.user, item=log.item, users=log.users, weight=weight)
    batches = SequenceBatches(log, batch_size=9, history_length=5, weighted=True, with_known=True)
    (batch,) = epoch(batches)
    rows = {
        int(item): (float(batch.weight[row]), batch.known.values[batch.known.owners() == row])
        for row, item in enumerate(batch.positive)
    }
    assert {item: weight for item, (weight, _) in rows.items()} == {2: 2.0, 3: 3.0, 5: 5.0}
    assert rows[3][1].tolist() == [1, 2, 3]
    assert rows[5][1].tolist() == [4, 5]


def test_a_log_without_a_sequence_is_refused():
    with pytest.raises(ModelError, match="two training events"):
        SequenceBatches(log_of(1, 1), batch_size=8, history_length=5)
    with pytest.raises(ModelError, match=r"data\.weight"):
        SequenceBatches(log_of(2), batch_size=8, history_length=5, weighted=True)


def test_users_meet_others_in_each_epoch():
    """Of 400 histories of one length, the two first ones share a batch of 8 now and then only."""
    batches = SequenceBatches(log_of(*[3] * 400), batch_size=16, history_length=5)
    together = 0
    for seed in range(50):
        for batch in epoch(batches, seed):
            users = set(batch.users.tolist())
            together += {1, 2} <= users
    assert together < 10


@pytest.mark.parametrize("length", [5, 100])
def test_the_number_of_batches_is_that_of_an_epoch_give_or_take_a_few(length):
    """A schedule that counts on fewer would end long before the training."""
    sizes = np.random.default_rng(1).lognormal(3, 1, 400).astype(int) + 2
    batches = SequenceBatches(log_of(*sizes), batch_size=256, history_length=length)
    for seed in range(1, 4):
        assert len(epoch(batches, seed)) == pytest.approx(len(batches), rel=0.03)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("length", [1, 3, 16, 200])
def test_stretches_give_each_positive_once_with_its_own_latest_events(length, seed):
    log = log_of(*SIZES)
    batches = SequenceBatches(log, batch_size=20, history_length=length, stretch=6)
    first = dict(zip(log.item.tolist(), (log.indptr[log.user] + 1).tolist(), strict=True))
    found = []
    for batch in epoch(batches, seed):
        history = batch.history
        assert torch.equal(history.values[batch.place], batch.positive - 1)
        assert bool((batch.place.diff() > 0).all())
        start = history.offsets[history.owners()[batch.place]]
        met = torch.minimum(batch.place - start + 1, torch.tensor(length))
        wanted = [min(length, item - first[item]) for item in batch.positive.tolist()]
        assert met.tolist() == wanted
        found += batch.positive.tolist()
    firsts = np.cumsum([0, *SIZES[:-1]]) + 1
    assert sorted(found) == np.setdiff1d(log.item, firsts).tolist()


@pytest.mark.parametrize("size", [4, 64, 10_000])
def test_batches_of_stretches_are_of_like_size_and_counted(size):
    sizes = np.random.default_rng(1).lognormal(3, 1, 400).astype(int) + 2
    batches = SequenceBatches(log_of(*sizes), batch_size=size, history_length=50, stretch=8)
    found = [len(batch.positive) for batch in epoch(batches, 5)]
    assert min(found) > 0
    assert max(found) <= size + 16
    assert len(found) == pytest.approx(len(batches), rel=0.05)


@pytest.mark.parametrize("stretch", [None, 4])
def test_times_stand_beside_their_events(stretch):
    log = log_of(*SIZES)
    timed = Interactions(user=log.user, item=log.item, users=log.users, time=log.item * 7)
    options = {"batch_size": 32, "history_length": 5, "stretch": stretch, "with_time": True}
    for batch in epoch(SequenceBatches(timed, **options)):
        assert torch.equal(batch.time, batch.history.values * 7)
    with pytest.raises(ModelError, match=r"data\.time"):
        SequenceBatches(log, **options)


def test_the_last_users_of_a_log_may_have_no_events():
    """As in the part of a log that one of several processes has."""
    log = replace(log_of(3, 4, 0, 0), asked=np.array([0, 0, 1, 0, 1, 0, 1], dtype=bool))
    batches = SequenceBatches(log, batch_size=32, history_length=8)
    found = torch.cat([batch.positive for batch in epoch(batches)])
    assert sorted(found.tolist()) == [3, 5, 7]
    assert batches.positives == 3
