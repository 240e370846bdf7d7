"""Transitions: directed counts by hand and by loops, attributes, two hops, new events, reasons."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from shortlist.asking.queries import Queries
from shortlist.channels.counting.transitions import Transitions
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.errors import ModelError
from shortlist.linear import transitions

PLAIN = {"backward": 0.0, "from_power": 0.0, "to_power": 0.0}
"""Steps alone."""


def everything(rows, items=None, **schema):
    """Training data of a log of (user, item, time, weight): all of it."""
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "t", "w"], orient="row")
    dataset = Dataset.load(frame, items=items, schema=Schema(time="t", weight="w", **schema))
    role = np.zeros(len(dataset.log), dtype=np.int8)
    return Split(dataset, replace(dataset.log, role=role), "random").training_data("all")


def in_order(*histories):
    return [(u, i, t, 1.0) for u, items in enumerate(histories) for t, i in enumerate(items)]


def followers(model, item, k=9):
    found = model.similar([item], k)
    return dict(zip(found.ids[0], found.scores[0].tolist(), strict=False))


def test_steps_count_by_their_places_and_only_forward():
    data = everything(in_order([1, 2, 3, 4], [9, 1, 3]))
    model = Transitions(**PLAIN, window=2, decay=1.0).fit_data(data)
    assert followers(model, 1) == {2: 1.0, 3: 1.5}  # 3 once two places on, once at the next
    assert followers(model, 4) == {}
    back = Transitions(**PLAIN | {"backward": 0.5}, window=1).fit_data(data)
    assert followers(back, 3) == {4: 1.0, 2: 0.5, 1: 0.5}


def test_frequent_items_count_less_on_either_side():
    data = everything(in_order([1, 2], [1, 3], [4, 2], [5, 2], [6, 2]))
    model = Transitions(**PLAIN | {"from_power": 1.0, "to_power": 0.5}, window=1).fit_data(data)
    assert followers(model, 1) == pytest.approx({3: 1 / 2, 2: 1 / 2 / 4**0.5})


def test_the_second_hop_goes_where_a_follower_goes():
    data = everything(in_order([1, 2], [2, 3], [2, 3], [2, 4]))
    one = Transitions(**PLAIN, window=1).fit_data(data)
    two = Transitions(**PLAIN, window=1, second_hop=0.5).fit_data(data)
    assert followers(one, 1) == {2: 1.0}
    assert followers(two, 1) == pytest.approx({2: 1.0, 3: 0.5 * 2 / 3, 4: 0.5 * 1 / 3})


def test_items_of_equal_rare_attributes_follow_each_other_unmet(monkeypatch):
    items = pl.DataFrame({"item_id": [1, 2, 3, 4], "kind": ["a", "a", "b", "b"]})
    data = everything(
        in_order([1, 3], [4], [2]), items, item_features=(Feature("kind", "categorical"),)
    )
    model = Transitions(**PLAIN, attribute="kind", attribute_weight=0.25).fit_data(data)
    assert followers(model, 1) == pytest.approx({3: 1.0, 2: 0.25})
    monkeypatch.setattr(transitions, "COMMON", 1)  # now both values are held by too many
    common = Transitions(**PLAIN, attribute="kind").fit_data(data)
    assert followers(common, 1) == {3: 1.0}
    with pytest.raises(ModelError, match="no column 'kin'"):
        Transitions(attribute="kin").fit_data(data)
    with pytest.raises(ModelError, match="attribute_weight does nothing without attribute"):
        Transitions(attribute_weight=0.25)


def test_scores_are_those_of_plain_loops(split):
    data = split.training_data()
    options = {"window": 3, "backward": 0.3, "decay": 2.0, "values": "explicit"}
    model = Transitions(neighbours=300, **options).fit_data(data)
    log, items = data.training_log, data.items.trained
    expected = np.zeros((items + 1, items + 1))
    for user in range(log.users):
        events = range(log.indptr[user], log.indptr[user + 1])
        for at in events:
            for other in events:
                places = other - at
                if places and abs(places) <= 3 and log.item[at] != log.item[other]:
                    step = 2 ** -((abs(places) - 1) / 2) * (1 if places > 0 else 0.3)
                    value = log.weight[at] * log.weight[other]
                    expected[log.item[at], log.item[other]] += step * value
    counts = np.maximum(log.item_counts(items), 1).astype(float)
    expected *= np.outer(counts**-model.options.from_power, counts**-model.options.to_power)
    found = np.zeros_like(expected)
    lists = np.repeat(np.arange(items + 1), np.diff(model.neighbours.start))
    found[lists, model.neighbours.ids] = model.neighbours.scores
    np.testing.assert_allclose(found[1:, 1:], expected[1:, 1:], rtol=1e-5)


def test_what_was_met_last_speaks_loudest():
    data = everything(in_order([1, 5], [2, 6], [1, 2]))
    model = Transitions(window=1).fit_data(data)
    assert model.recommend(Queries(histories=[[1, 2]]), 1).ids == [[6]]
    assert model.recommend(Queries(histories=[[2, 1]]), 1).ids == [[5]]


def test_new_events_give_what_a_whole_fit_gives_bit_for_bit():
    random = np.random.default_rng(4)
    walks = [random.zipf(1.4, 9).clip(max=40).tolist() for _ in range(60)]
    old = in_order(*walks)
    new = [*old, (3, 999, 50, 1.0), (3, 2, 51, 1.0), (77, 0, 50, 1.0), (77, 1, 51, 1.0)]
    before, after = everything(old), everything(new)
    options = {"second_hop": 0.3, "neighbours": 7}
    whole = Transitions(**options).fit_data(after)
    model = Transitions(**options).fit_data(before).observe(after)
    np.testing.assert_array_equal(model.neighbours.ids, whole.neighbours.ids)
    np.testing.assert_array_equal(model.neighbours.scores, whole.neighbours.scores)
    assert followers(model, 0, 1).keys() == {1}


def test_a_log_without_an_order_is_refused():
    split = Dataset.load(pl.DataFrame({"user_id": [1, 1, 2, 2] * 9, "item_id": range(36)})).split()
    with pytest.raises(ModelError, match=r"transitions need data\.time"):
        Transitions().fit(split)
