"""Slices: worked by hand on a log of six users, and summing to the whole on a planted world."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from shortlist import Dataset, Feature, Popular, Schema, TwoTower, evaluate
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError

COLUMNS = ("user_id", "item_id", "time")


def by_hand():
    """Item 1 has 6 training events, 2 has 2, 3 and 4 have one; 5 is new. The last is held out."""
    train = [(u, 1) for u in range(1, 7)] + [(1, 2), (2, 2), (3, 3), (4, 4)]
    held = [(1, 3), (2, 4), (3, 2), (4, 2), (5, 5), (6, 2), (7, 1)]
    rows = [(u, i, t) for t, (u, i) in enumerate(train)]
    rows += [(u, i, 100 + u) for u, i in held]
    log = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    items = pl.DataFrame({"item_id": [1, 2, 3, 4, 5], "genre": ["a|b", "a", "b", None, "a"]})
    schema = Schema(time="time", item_features=(Feature("genre", "multi-valued"),))
    return Dataset.load(log, items=items, schema=schema).split("global-time", at=100)


def counts(report):
    return {(s.by, s.name): (s.users, s.events, dict(s.found)) for s in report.slices}


def test_each_slice_is_what_a_hand_counts():
    report = evaluate(Popular().fit(by_hand(), "train+validation"), k=(1, 2), by=["genre"])
    found = counts(report)
    # Unseen items by popularity, ties by key: users 1 and 2 have met 1 and 2; 5, 6 get 2; 7 gets 1.
    assert found["history", "none"] == (1, 1, {1: 1, 2: 1})
    assert found["history", "1 to 4"][:2] == (6, 6)
    assert found["users", "new"] == (1, 1, {1: 1, 2: 1})
    assert found["items", "head"] == (1, 1, {1: 1, 2: 1})
    assert found["items", "torso"] == (3, 3, {1: 3, 2: 3})
    assert found["items", "tail"][:2] == (2, 2)
    assert found["items", "new"] == (1, 1, {1: 0, 2: 0})
    assert found["genre", "a"][:2] == (5, 5)
    assert found["genre", "b"][:2] == (2, 2)
    assert found["genre", "(none)"][:2] == (1, 1)
    torso = next(s for s in report.slices if s.name == "torso")
    assert torso.recall[1] == torso.popularity[1] == (1.0, None, None)  # of three users
    assert torso.difference[1] == (0.0, None, None)


@pytest.mark.parametrize("kind", ["leave-last-out", "global-time"])
def test_slices_sum_to_the_whole(kind):
    world = planted_world(users=150, items=120, events=3_000, seed=4)
    schema = Schema(
        time="timestamp", user_features=(Feature("region", "categorical"),), title="title"
    )
    split = Dataset.load(world.interactions, users=world.users, items=world.items, schema=schema)
    model = TwoTower(dim=8, epochs=1, batch_size=256).fit(split.split(kind))
    report = evaluate(model, k=(5, 20), by=["region"])
    users, items, offsets = model.data.targets("test")
    recall = {k: report.metrics[f"recall@{k}"].mean for k in (5, 20)}
    for by in ("history", "users", "region"):
        parts = [s for s in report.slices if s.by == by]
        assert sum(s.users for s in parts) == len(users)
        for k in (5, 20):
            mean = sum(s.recall[k].mean * s.users for s in parts) / len(users)
            assert mean == pytest.approx(recall[k], abs=1e-12)
            beside = sum(s.popularity[k].mean * s.users for s in parts) / len(users)
            assert beside == pytest.approx(report.popularity[f"recall@{k}"].mean, abs=1e-12)
    for by in ("history", "users", "items", "region"):
        parts = [s for s in report.slices if s.by == by]
        assert sum(s.events for s in parts) == len(items)
        for k in (5, 20):
            # Found events by hand: precision counts them over all places.
            hits = report.metrics[f"precision@{k}"].mean * k * len(users)
            assert sum(s.found[k] for s in parts) == pytest.approx(hits, abs=1e-6)
    assert np.diff(offsets).min() >= 1
    assert report.to_dict()["slices"][0]["metrics"]["recall@5"]["found"] >= 0


def sliced_by(column, values, users=None, features=(), **dtype):
    """Seven users' last events hold items 1 to 5: how often each value has one, in order."""
    rows = [(u, 10 + u, u) for u in range(7)] + [(u, 20 + u, 50 + u) for u in range(7)]
    rows += [(u, item, 100 + u) for u, item in enumerate([1, 1, 2, 3, 4, 5, 5])]
    log = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    items = pl.DataFrame({"item_id": [1, 2, 3, 4, 5], column: pl.Series(values, **dtype)})
    schema = Schema(time="time", item_features=features)
    dataset = Dataset.load(log, items=items, users=users, schema=schema)
    report = evaluate(Popular().fit(dataset.split()), k=(1,), by=[column, column])
    return {(part.by, part.name): part.events for part in report.slices[-20:] if column in part.by}


@pytest.mark.parametrize(
    ("values", "dtype", "found"),
    [
        ([9, 10, 30, 9, None], {}, {"9": 3, "10": 1, "30": 1, "(none)": 2}),
        ([0.5, 2.0, 10.0, float("nan"), 0.5], {}, {"0.5": 4, "2": 1, "10": 1, "(none)": 1}),
        ([True, False, True, None, False], {}, {"true": 3, "false": 3, "(none)": 1}),
        ([[1, 2], [2], [], None, [3]], {}, {"1": 2, "2": 3, "3": 2, "(none)": 2}),
        (
            [date(2020, 1, d) for d in (3, 1, 2, 1, 1)],
            {},
            {"2020-01-01": 4, "2020-01-02": 1, "2020-01-03": 2},
        ),
        ([None] * 5, {"dtype": pl.String}, {"(none)": 7}),
        ([None] * 5, {"dtype": pl.Float64}, {"(none)": 7}),
        (["a", "b", "a", "b", "new"], {"dtype": pl.Categorical}, {"a": 3, "b": 2, "new": 2}),
    ],
)
def test_a_column_of_any_values_parts_the_events(values, dtype, found):
    assert {name: n for (_, name), n in sliced_by("c", values, **dtype).items()} == found


def test_numbers_of_many_values_are_parted_into_ranges_of_as_many_events(monkeypatch):
    """Values of the seven events: 1, 1, 2, 3, 4, 5, 5; their lower quartiles are 1, 3 and 4."""
    monkeypatch.setattr("shortlist.evaluation.slices.MOST_VALUES", 4)
    found = sliced_by("c", [1, 2, 3, 4, 5])
    assert list(found.items()) == [
        (("c", "1"), 2),
        (("c", "2 to 3"), 2),
        (("c", "4"), 1),
        (("c", "5"), 2),
    ]
    days = sliced_by("c", [f"2020-01-0{n}" for n in (1, 2, 3, 4, 5)])  # as a CSV has them
    assert [name for _, name in days] == [
        "2020-01-01",
        "2020-01-02 to 2020-01-03",
        "2020-01-04",
        "2020-01-05",
    ]
    assert list(days.values()) == list(found.values())
    declared = sliced_by("c", [1, 2, 3, 4, 5], features=(Feature("c", "numeric"),))
    assert declared == found


def test_columns_and_metrics_that_are_no_lists_are_refused():
    rows = [(u, item, item) for u in range(3) for item in range(4)]
    log = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    model = Popular().fit(Dataset.load(log, schema=Schema(time="time")).split())
    for by in ("c", None, 3, [3], [["c"]]):
        with pytest.raises(ModelError, match="by must be a list of columns, got"):
            evaluate(model, by=by)
    for metrics in ("ndcg", None, 3):
        with pytest.raises(ModelError, match="metrics must be a list of functions, got"):
            evaluate(model, metrics=metrics)


def test_a_column_of_both_tables_parts_by_both():
    users = pl.DataFrame({"user_id": range(7), "c": ["x"] * 6 + ["y"]})
    found = sliced_by("c", ["p", "p", "p", "p", "q"], users=users)
    assert found == {
        ("c of items", "p"): 5,
        ("c of items", "q"): 2,
        ("c of users", "x"): 6,
        ("c of users", "y"): 1,
    }


@pytest.mark.parametrize("values", [[[0.5, 1.0]] * 5, [{"a": 1}] * 5])
def test_a_column_without_values_to_tell_apart_is_refused_before_anything_is_asked(
    values, monkeypatch
):
    monkeypatch.setattr("shortlist.evaluation.evaluate._answers", None)
    with pytest.raises(ModelError, match="by: column 'c' holds"):
        sliced_by("c", values)


def test_a_column_that_no_table_has_is_refused_with_the_nearest_name():
    fitted = Popular().fit(by_hand())
    with pytest.raises(ModelError, match=r"'gerne'\. Did you mean 'genre'"):
        evaluate(fitted, by=["gerne"])
