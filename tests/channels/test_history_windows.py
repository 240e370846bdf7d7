"""Pooled histories trained in windows give the vectors of rows with their own history."""

import pytest
import torch

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.batches import PairBatches
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.training.objective import Objective

SMALL = {"dim": 8, "history_length": 9, "batch_size": 100, "dropout": 0.0, "seed": 2}


@pytest.mark.parametrize("options", [{}, {"history_reads": "items"}, {"history": "mean"}])
def test_every_row_has_the_vector_of_its_own_gathered_history(split, options):
    retriever = TwoTower(**{"user_layers": (8,), **SMALL, **options, "history_windows": True})
    data = split.training_data("train")
    retriever.set_data(data)
    log = data.training_log
    events = {}
    for number, pair in enumerate(zip(log.user.tolist(), log.item.tolist(), strict=True)):
        if number > log.indptr[pair[0]]:  # a user's first event is no positive
            events.setdefault(pair, []).append(number)
    pairs = PairBatches(log, ordered=True, batch_size=100, history_length=9)
    batches = retriever._batches(data)
    for _, batch in zip(range(4), batches.epoch(torch.Generator().manual_seed(0)), strict=False):
        found = retriever._encode_batch(batch)
        rows = list(zip(batch.users.tolist(), batch.positive.tolist(), strict=True))
        lone = [row for row, pair in enumerate(rows) if len(events[pair]) == 1]
        assert len(lone) > 40
        alone = pairs.gather(torch.tensor([events[rows[row]][0] for row in lone]))
        wanted = retriever._encode_batch(alone)
        torch.testing.assert_close(found[lone], wanted, rtol=1e-5, atol=1e-5)


def test_it_learns_and_the_same_run_gives_the_same_bytes(split):
    options = {"epochs": 3, "history_windows": True, "learning_rate": 0.01}
    one, other = (TwoTower(**(SMALL | options)).fit(split) for _ in range(2))
    assert one.epochs_run[-1].loss < 0.97 * one.epochs_run[0].loss
    assert torch.equal(one.item_vectors, other.item_vectors)


def test_ones_own_history_gives_no_negatives(split, monkeypatch):
    told = []
    whole = Objective.mean

    def seen(self, *vectors, **wanted):
        told.append(wanted["groups"])
        return whole(self, *vectors, **wanted)

    monkeypatch.setattr(Objective, "mean", seen)
    TwoTower(**SMALL, epochs=1, history_windows=True).fit(split)
    assert all(groups is not None for groups in told)


def test_where_there_is_nothing_to_read_in_stretches_it_is_refused(world):
    for history in ("attention", "gru", "comirec", "none"):
        with pytest.raises(ModelError, match="history_windows is for history = 'mean' or"):
            TwoTower(history=history, history_windows=True)
    with pytest.raises(ModelError, match="history_windows does nothing with positives = 'i2i'"):
        ItemToItem(history_windows=True, session_gap=10)
    with pytest.raises(ModelError, match="history_windows does nothing with positives = 'u2u'"):
        UserToUser(history_windows=True)
    unordered = Dataset.load(world.interactions, schema=Schema()).split("random")
    for history in ("recency", "mean"):
        with pytest.raises(ModelError, match=r"model\.history_windows reads events in their order"):
            TwoTower(**SMALL, history=history, history_windows=True).fit(unordered)
