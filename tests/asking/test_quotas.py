"""Quotas: the best list within the quota, compared with every list that is possible."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
import torch

from answers import assert_same_up_to_rounding
from index.servers import ADDRESS_OF
from shortlist.asking.queries import Queries
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.errors import QueryError
from shortlist.index import INDEXES

ITEMS, USERS = 400, 12
EXTRAS = {"annoy": "annoy", "scann": "scann"}
KINDS = [name for name in INDEXES if name not in ADDRESS_OF]  # a server takes a second to publish


@pytest.fixture(scope="module")
def split():
    """Items of a large genre, of small ones, and of none; the large one is the best by far."""
    random = np.random.default_rng(4)
    log = pl.DataFrame(
        {
            "user_id": [*random.integers(0, USERS, ITEMS), *(np.arange(USERS * 5) % USERS)],
            "item_id": [*np.arange(ITEMS), *random.integers(0, ITEMS, USERS * 5)],
            "time": np.arange(ITEMS + USERS * 5),
        }
    )
    genre = [None if i % 10 == 0 else "big" if i < 300 else f"g{i % 7}" for i in range(ITEMS)]
    items = pl.DataFrame(
        {
            "item_id": np.arange(ITEMS),
            "genre": genre,
            "year": np.arange(ITEMS) % 5,
            "new": np.arange(ITEMS) % 3 == 0,
            "tags": [["a", "b"]] * ITEMS,
            "words": ["a|b"] * ITEMS,
        }
    )
    schema = Schema(time="time", item_features=(Feature("words", "multi-valued", "|"),))
    return Dataset.load(log, items=items, schema=schema).split("leave-last-out")


@pytest.fixture(scope="module")
def model(split):
    model = TwoTower(dim=8, seed=0, similarity="dot", user_id=False, item_features=())
    torch.manual_seed(3)
    model.set_data(split.training_data())
    model.place_items()
    return model


def indexed(model, name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    again = TwoTower.from_state(model.data, *model.state())
    if name != "exact":
        again.use_index(INDEXES[name]("dot").build(*model.placed_vectors()))
    return again


def column(model, name):
    frame = model.data.item_frame
    held = dict(
        zip(model.data.items.rows(frame["id"]).tolist(), frame[name].to_list(), strict=True)
    )
    return [held.get(row) for row in range(len(model.data.items) + 1)]


def by_the_whole_ranking(model, queries, k, values, most):
    """Greedy down the list of everything: rows and scores of each query."""
    everything = model.recommend(queries, ITEMS)
    answers = []
    for rows, scores in zip(everything.rows, everything.scores, strict=True):
        taken, count = [], {}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            value = values[row] if row >= 0 else None
            if row < 0 or len(taken) == k or (value is not None and count.get(value, 0) == most):
                continue
            count[value] = count.get(value, 0) + 1
            taken.append((row, score))
        answers.append(taken)
    return answers


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("k", "most"), [(1, 1), (10, 1), (10, 3), (60, 5), (500, 2)])
@pytest.mark.parametrize("name", KINDS)
def test_the_answer_is_the_greedy_one_of_the_whole_ranking(model, name, k, most, exclude_seen):
    users, values = model.data.users.ids, column(model, "genre")
    plain = Queries(users, exclude_seen=exclude_seen)
    expected = by_the_whole_ranking(model, plain, k, values, most)
    asked = Queries(users, exclude_seen=exclude_seen, quota={"genre": most})
    found = indexed(model, name).recommend(asked, k)
    hits = 0
    for rows, scores, wanted in zip(found.rows, found.scores, expected, strict=True):
        taken = rows[rows >= 0]
        assert len(taken) == len(wanted)
        assert (rows[len(taken) :] == -1).all()
        assert (scores[len(taken) :] == -np.inf).all()
        assert (np.diff(scores[: len(taken)]) <= 0).all()
        given = [values[row] for row in taken if values[row] is not None]
        assert all(given.count(value) <= most for value in given)
        hits += len({row for row, _ in wanted} & set(taken.tolist()))
        if INDEXES[name].is_exact:
            assert [score for _, score in wanted] == pytest.approx(scores[: len(taken)], abs=1e-6)
    assert hits >= 0.95 * sum(map(len, expected))


def test_no_list_that_keeps_to_it_is_better(model):
    """Every list of 4 of the 14 best, tried."""
    values = column(model, "year")
    user = model.data.users.ids.head(1)
    best = model.recommend(user, 14)
    scores = dict(zip(best.rows[0].tolist(), best.scores[0].tolist(), strict=True))
    sums = [
        sum(scores[row] for row in rows)
        for rows in combinations(scores, 4)
        if all([values[r] for r in rows].count(values[row]) <= 2 for row in rows)
    ]
    found = model.recommend(Queries(user, quota={"year": 2}), 4)
    assert found.scores[0].sum() == pytest.approx(max(sums), abs=1e-5)


def test_filters_and_strangers_keep_to_it_too(model):
    values = column(model, "new")
    where = {"column": "year", "in": [1, 2]}
    queries = Queries(histories=[[], [5, 8]], where=where, quota={"new": 6})
    found = model.recommend(queries, 20)
    years = column(model, "year")
    assert found.fallback.tolist() == [True, False]
    for rows in found.rows:
        assert sorted(values[row] for row in rows[:12]) == [False] * 6 + [True] * 6
        assert (rows[12:] == -1).all()
        assert {years[row] for row in rows[:12]} <= {1, 2}


def test_an_answer_does_not_depend_on_the_blocks_of_a_batch(model, monkeypatch):
    asked = Queries(model.data.users.ids, quota={"genre": 2})
    whole = model.recommend(asked, 10)
    monkeypatch.setattr(type(model), "queries_at_a_time", 5)
    parts = model.recommend(asked, 10)
    assert_same_up_to_rounding((whole.rows, whole.scores), (parts.rows, parts.scores))
    assert (whole.fallback == parts.fallback).all()


def test_a_quota_that_never_binds_changes_nothing(model):
    users = model.data.users.ids
    plain, asked = (
        model.recommend(users, 10),
        model.recommend(Queries(users, quota={"year": 10}), 10),
    )
    assert (plain.rows == asked.rows).all()
    assert (plain.scores == asked.scores).all()


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ({}, "one column"),
        ({"genre": 1, "year": 2}, "one column"),
        ({"genre": 0}, "quota.genre must be a whole number >= 1"),
        ({"genre": True}, "whole number"),
        ({"gener": 1}, "genre"),
        ({"tags": 1}, "several values"),
        ({"words": 1}, "several values"),
    ],
)
def test_a_quota_without_a_meaning_is_refused(model, quota, message):
    with pytest.raises(QueryError, match=message):
        model.recommend(Queries(model.data.users.ids, quota=quota), 5)
