"""Towers that continue training: old rows keep their vectors, new rows start well."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.batches import Batch
from shortlist.data.dataset import Dataset
from shortlist.data.ragged import Ragged
from shortlist.data.renewal import renewed
from shortlist.data.schema import Feature, Schema
from shortlist.data.updates import with_events
from shortlist.training.lesson import Lesson

SCHEMA = Schema(time="time", item_features=(Feature("genre", "categorical"),))


def log(seed=0, users=30, items=20, events=300):
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": random.integers(1, users, events),
            "item_id": random.integers(1, items, events) * 10,
            "time": np.sort(random.integers(0, 1_000, events)),
        }
    )


def came(data, user, item, time):
    """The data with these events, nothing held out."""
    events = pl.DataFrame({"user": user, "item": item, "time": time})
    return renewed(data, with_events(data, events, learns=True))


@pytest.fixture(scope="module")
def fitted():
    """Ids alone on both sides, and a history."""
    split = Dataset.load(log(), schema=Schema(time="time")).split("leave-last-out")
    return TwoTower(dim=8, epochs=1, batch_size=64).fit(split, "all")


def weights(retriever, name, ids, side="items"):
    rows = getattr(retriever.data, side).rows(ids)
    return retriever.towers.state_dict()[name][torch.from_numpy(rows)]


def test_rows_of_old_ids_are_the_same_bits_before_anything_is_learned(fitted):
    """Item 15 sorts among the others: every row after it has another number."""
    old = fitted.data
    new = came(old, [1, 2, 99], [15, 15, 15], [1_001, 1_002, 1_003])
    gone = fitted.refreshed(new.data, Lesson(np.zeros(len(new.data.log), dtype=bool)))
    for name, side in (("item.id.weight", "items"), ("query.id.weight", "users")):
        ids = getattr(old, side).ids
        if name in fitted.towers.state_dict():
            torch.testing.assert_close(
                weights(gone, name, ids, side), weights(fitted, name, ids, side), rtol=0, atol=0
            )
    assert gone.data.items.rows([20])[0] == old.items.rows([20])[0] + 1
    users = old.users.ids[2:]
    before, after = (one.recommend(users, 5) for one in (fitted, gone))
    there = np.isin(np.asarray(after.ids), [15], invert=True).all(axis=1)
    assert there.any()
    assert (np.asarray(before.ids)[there] == np.asarray(after.ids)[there]).all()


def test_a_new_items_row_begins_as_the_mean_of_what_was_met_before_it(fitted):
    old = fitted.data
    new = came(old, [501, 501, 501], [20, 30, 15], [1_001, 1_001, 1_002])
    gone = fitted.refreshed(new.data, Lesson(np.zeros(len(new.data.log), dtype=bool)))
    mean = weights(fitted, "item.id.weight", [20, 30]).mean(dim=0)
    torch.testing.assert_close(weights(gone, "item.id.weight", [15])[0], mean)


def test_the_codes_of_feature_values_stay_and_new_values_get_some():
    items = pl.DataFrame({"item_id": np.arange(1, 21) * 10, "genre": ["b", "d"] * 10})
    split = Dataset.load(log(), items=items, schema=SCHEMA).split("leave-last-out")
    fitted = TwoTower(dim=8, epochs=1, batch_size=64).fit(split, "all")
    old = fitted.data
    more = pl.concat([old.item_frame, pl.DataFrame({"id": [15, 16], "genre": ["a", "c"]})])
    grown = replace(old, item_frame=more.cast(old.item_frame.schema))
    new = came(grown, [1, 2], [15, 15], [1_001, 1_002])
    assert new.data.item_features.encoders["genre"].values == ("b", "d", "a")  # 16 is not learned
    gone = fitted.refreshed(new.data, Lesson(np.zeros(len(new.data.log), dtype=bool)))
    name = "item.fields.maps.0.weight"
    before, after = (one.towers.state_dict()[name] for one in (fitted, gone))
    torch.testing.assert_close(after[:3], before, rtol=0, atol=0)
    assert len(after) == 4
    assert not weights(gone, "item.id.weight", [15]).any()


@pytest.mark.parametrize("optimizer", ["dense", "row-wise"])
def test_what_the_optimiser_remembers_of_a_row_moves_with_it(optimizer):
    split = Dataset.load(log(), schema=Schema(time="time")).split("leave-last-out")
    options = {"dim": 8, "epochs": 1, "batch_size": 64, "optimizer": optimizer}
    fitted = TwoTower(**options).fit(split, "all")
    data = came(fitted.data, [1, 2], [15, 15], [1_001, 1_002])
    first = Lesson(data.fresh, epochs=1, replay=50.0)
    once = fitted.refreshed(data.data, first)
    (name,) = [
        name
        for name in first.after[""]
        if name.startswith("optimizer.model.item.id.weight.")
        and name.endswith(("exp_avg_sq", "sums"))
    ]
    later = came(once.data, [1, 2], [12, 12], [1_003, 1_004])
    second = Lesson(np.zeros(len(later.data.log), dtype=bool), before=first.after)
    twice = once.refreshed(later.data, second)
    ids = once.data.items.ids.head(once.data.items.trained)
    kept, moved = first.after[""][name], second.after[""][name]
    rows = [torch.from_numpy(one.data.items.rows(ids)) for one in (once, twice)]
    assert kept.any()
    assert (rows[0] != rows[1]).any()
    torch.testing.assert_close(moved[rows[1]], kept[rows[0]], rtol=0, atol=0)
    assert not moved[twice.data.items.rows([12])[0]].any()


def test_only_new_events_and_as_many_old_ones_are_learned(fitted, monkeypatch):
    data = came(fitted.data, [1, 2, 3], [20, 30, 40], [1_001, 1_002, 1_003])
    asked = []
    inner = TwoTower._trainer

    def counted(self, practice):
        asked.append(practice.training_log.target.sum())
        return inner(self, practice)

    monkeypatch.setattr(TwoTower, "_trainer", counted)
    for replay, wanted in ((0.0, 3), (1.0, 6), (2.5, 11)):
        fitted.refreshed(data.data, Lesson(data.fresh, epochs=1, replay=replay))
        assert asked[-1] == wanted


@pytest.mark.parametrize("sampler", ["catalogue", "uniform", "popularity", "mixture", "mixed"])
@pytest.mark.parametrize("kind", [TwoTower, ItemToItem, UserToUser])
def test_negatives_are_drawn_from_all_there_are_however_few_are_learned(monkeypatch, kind, sampler):
    trainers, inner = [], kind._trainer
    monkeypatch.setattr(kind, "_trainer", lambda *a: trainers.append(inner(*a)) or trainers[-1])
    drawn = {} if sampler == "catalogue" else {"negatives": 2_000}
    keys = {"dim": 4, "epochs": 1, "loss": "softmax", "sampler": sampler, **drawn}
    if kind is ItemToItem:
        keys["session_gap"] = 1_000
    split = Dataset.load(log(), schema=Schema(time="time", time_unit="s")).split("leave-last-out")
    fitted = kind(**keys).fit(split, "all")
    new = came(fitted.data, [1, 1], [20, 30], [1_001, 1_002])
    fitted.refreshed(new.data, Lesson(new.fresh, replay=0.0))
    known = new.data.users.rows([1]) if kind is UserToUser else new.data.items.rows([20, 30])
    positive = torch.from_numpy(known)
    none = Ragged(positive[:0], torch.zeros(len(known) + 1, dtype=torch.int64))
    batch = Batch(torch.ones_like(positive), positive, torch.ones(len(known)), none)
    pools = [one._sampler.sample(batch, torch.Generator().manual_seed(0)) for one in trainers[-2:]]
    before, after = ({*pool.ids.tolist()} for pool in pools)
    assert after >= before
    assert len(before) > 15
    assert pools[1].log_q.isfinite().all()


def test_hard_negatives_are_mined_among_all_items_however_few_are_learned(monkeypatch):
    """With kinds of events, what can be recommended was a target of some event, not of the new."""
    kinds = {"event": "kind", "events": {"view": {}, "buy": {"target": True}}}
    bought = log().with_columns(kind=pl.Series(["buy", "view", "buy"] * 100))
    split = Dataset.load(bought, schema=Schema(time="time", **kinds)).split("leave-last-out")
    fitted = TwoTower(dim=4, epochs=1, hard="mined", hard_ranks=(1, 12)).fit(split, "all")
    events = pl.DataFrame({"user": [1, 2], "item": [20, 30], "time": [1_001, 1_002]})
    events = events.with_columns(kind=pl.lit(fitted.data.log.kinds.names.index("buy"), pl.Int8))
    new = renewed(fitted.data, with_events(fitted.data, events, learns=True))
    trainers, inner = [], TwoTower._trainer
    monkeypatch.setattr(TwoTower, "_trainer", lambda *a: trainers.append(inner(*a)) or trainers[-1])
    gone = fitted.refreshed(new.data, Lesson(new.fresh, replay=0.0))
    assert trainers[0]._hard.source.candidates.tolist() == gone.candidate_rows().tolist()
