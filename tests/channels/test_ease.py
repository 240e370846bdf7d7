"""EASE as a channel: dense sums, ties, strangers, explanations, bundles and new events."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.channels.counting.ease import EASE
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.linear.matrix import user_item_matrix

L2 = 20.0


@pytest.fixture(scope="module")
def ease(split) -> EASE:
    return EASE(l2=L2).fit(split)


def oracle(retriever, l2=L2):
    """B over item rows 1 to trained, in float64."""
    data = retriever.data
    matrix = user_item_matrix(data.training_log, data.items.trained).toarray()[:, 1:]
    inverse = np.linalg.inv(matrix.T.astype(np.float64) @ matrix + l2 * np.eye(matrix.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def test_scores_are_sums_of_the_closed_form_over_the_history(ease):
    data = ease.data
    known = data.log.before("test")
    histories = user_item_matrix(known, data.items.trained).toarray()[:, 1:]
    users = np.arange(1, 101)
    expected = histories[users].astype(np.float64) @ oracle(ease)
    found = ease.recommend(
        Queries(data.users.external(users), before="test", exclude_seen=False), 10**6
    )
    assert found.rows.shape == (100, data.items.trained)
    assert (found.rows > 0).all()
    by_row = np.take_along_axis(expected, found.rows - 1, axis=1)
    np.testing.assert_allclose(found.scores, by_row, atol=2e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert not found.fallback.any()


def test_equal_scores_go_by_the_tie_keys(ease):
    # An inverse rounds, so the weights are put in by hand: all equal but for one.
    settings, tensors = ease.state()
    weights = torch.ones_like(tensors["learned"]["weights"])
    weights[:, 29] = 2
    fitted = tensors["learned"]["fitted"]
    level = EASE.from_state(
        ease.data, settings, {"learned": {"weights": weights, "fitted": fitted}}
    )
    found = level.recommend(Queries(histories=[level.data.items.ids[:1].to_list()]), 40)
    assert found.rows[0, 0] == 30
    keys = level.data.items.tie_keys
    others = np.setdiff1d(level.candidate_rows(), [1, 30])
    assert found.rows[0, 1:].tolist() == others[np.argsort(keys[others])][:39].tolist()


def test_a_user_and_their_history_given_as_a_list_get_the_same(ease):
    data = ease.data
    users = data.users.ids[:20].to_list()
    known = data.log.before("end")
    lists = [
        data.items.external(known.item[known.indptr[row] : known.indptr[row + 1]]).to_list()
        for row in data.users.rows(users)
    ]
    by_id = ease.recommend(users, 10)
    by_history = ease.recommend(Queries(histories=lists), 10)
    np.testing.assert_array_equal(by_id.rows, by_history.rows)
    np.testing.assert_array_equal(by_id.scores, by_history.scores)
    for history, found in zip(lists, by_id.ids, strict=True):
        assert not set(history) & set(found)


def test_nothing_known_gives_popular_items_and_says_so(ease):
    found = ease.recommend(Queries(histories=[[], [-5]]), 3)
    assert found.fallback.tolist() == [True, True]
    stranger = ease.recommend([-1], 3)
    assert stranger.fallback.tolist() == [True]
    assert stranger.ids[0] == found.ids[0]


def test_the_strongest_neighbours_alone_are_summed(split):
    few = EASE(l2=L2, neighbours=5).fit(split)
    weights = oracle(few)
    limit = np.sort(np.abs(weights), axis=1)[:, -5, None]
    kept = np.where(np.abs(weights) >= limit, weights, 0)
    item = few.data.items.external(np.array([7]))[0]
    found = few.recommend(Queries(histories=[[item]]), 50)
    valid = found.rows[0] >= 0
    assert valid.sum() == 5
    np.testing.assert_allclose(
        np.sort(found.scores[0][valid]), np.sort(kept[6][kept[6] != 0]), atol=1e-5
    )
    assert (found.scores[0][~valid] == -np.inf).all()


def test_contributions_are_what_a_score_falls_by_when_the_event_goes(ease):
    data = ease.data
    history = data.items.ids[[3, 17, 40, 90]].to_list()
    top = ease.recommend(Queries(histories=[history]), 4)
    why = ease.explain(Queries(histories=[history]), [top.ids[0]])
    sums = why.group_by("item", maintain_order=True).agg(pl.col("contribution").sum())
    assert sums["item"].to_list() == top.ids[0]
    np.testing.assert_allclose(sums["contribution"], top.scores[0], atol=1e-5)
    for gone in history:
        rest = Queries(histories=[[i for i in history if i != gone]], exclude_seen=False)
        scores = dict(ease.recommend(rest, 10**6).to_frame().select("item", "score").iter_rows())
        for item, score in zip(top.ids[0], top.scores[0], strict=True):
            named = why.filter((pl.col("item") == item) & (pl.col("because") == str(gone)))
            assert score - scores[item] == pytest.approx(named["contribution"].sum(), abs=1e-5)


def test_similar_items_are_those_of_the_largest_weight(ease):
    item = ease.data.items.external(np.array([12]))
    found = ease.similar(item, 5)
    assert found.rows[0].tolist() == (np.argsort(-oracle(ease)[11])[:5] + 1).tolist()


@pytest.mark.parametrize("neighbours", [None, 20])
def test_saved_and_loaded_it_gives_the_same_bits(split, neighbours):
    ease = EASE(l2=L2, neighbours=neighbours, recency=5.0).fit(split)
    settings, tensors = ease.state()
    again = EASE.from_state(ease.data, settings, tensors)
    users = ease.data.users.ids[:50]
    once, twice = ease.recommend(users, 20), again.recommend(users, 20)
    np.testing.assert_array_equal(once.rows, twice.rows)
    np.testing.assert_array_equal(once.scores, twice.scores)


def test_a_catalogue_too_large_is_refused_with_what_it_would_need(split):
    with pytest.raises(ModelError, match=r"EASE keeps .* items need 0\.0 GB, and max_items = 10"):
        EASE(max_items=10).fit(split)


@pytest.mark.parametrize("option", [{"recency": 5.0}, {"latest_items": 3}])
def test_recency_without_a_time_is_refused(world, option):
    log = Dataset.load(world.interactions.select("user_id", "item_id"))
    with pytest.raises(ModelError, match=f"{next(iter(option))} needs data.time"):
        EASE(**option).fit(log.split("random"))


def test_new_events_change_histories_and_not_weights():
    frame = pl.DataFrame(
        {"user_id": [1, 1, 2, 2, 3, 3, 3], "item_id": [20, 30, 20, 30, 30, 40, 50]}
    )
    frame = frame.with_columns(time=pl.int_range(7))
    # Item 10 comes later, and its row before all others.
    later = pl.DataFrame({"user_id": [4, 4, 1], "item_id": [20, 10, 40], "time": [7, 8, 9]})

    def data_of(log):
        return Dataset.load(log, schema=Schema(time="time")).split().training_data("all")

    old = EASE(l2=1.0).fit_data(data_of(frame))
    before = old.recommend(Queries(histories=[[20]], exclude_seen=False), 5)
    new = old.observe(data_of(pl.concat([frame, later])))
    after = new.recommend(Queries(histories=[[20]], exclude_seen=False), 5)
    assert after.ids == before.ids
    np.testing.assert_array_equal(after.scores, before.scores)
    known, listed = new.recommend([4], 3), new.recommend(Queries(histories=[[20, 10]]), 3)
    assert known.ids == listed.ids
    assert 10 not in known.ids[0]
    assert new.recommend(Queries(histories=[[10]]), 2).fallback.tolist() == [True]
    settings, tensors = new.state()
    again = EASE.from_state(new.data, settings, tensors)
    np.testing.assert_array_equal(again.recommend([4], 3).scores, known.scores)
