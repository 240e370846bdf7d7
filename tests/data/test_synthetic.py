"""Planted worlds: a pure function of their arguments, with an answer worth finding."""

import numpy as np
import polars as pl
import pytest

from shortlist.data.readers import read_entities, read_interactions
from shortlist.data.synthetic import FIRST_ITEM_ID, FIRST_USER_ID, planted_world
from shortlist.errors import DataError


def rows(world):
    users = world.interactions["user_id"].to_numpy() - FIRST_USER_ID
    items = world.interactions["item_id"].to_numpy() - FIRST_ITEM_ID
    return users, items


def last_out_hit_rate(world, scores, k=10):
    """Share of users whose last event is among the k best of the items they had not seen."""
    users, items = rows(world)
    last = np.zeros(world.users.height, dtype=int)
    last[users] = np.arange(len(users))  # the log is in order of time: the last write stays
    earlier = np.ones(len(users), dtype=bool)
    earlier[last] = False
    scores = np.broadcast_to(scores, (world.users.height, world.items.height)).copy()
    scores[users[earlier], items[earlier]] = -1.0
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (top[users[last]] == items[last][:, None]).any(axis=1).mean()


def test_the_same_arguments_give_the_same_world_and_another_seed_another():
    first, again = planted_world(seed=3), planted_world(seed=3)
    for table in ("interactions", "users", "items"):
        assert getattr(first, table).equals(getattr(again, table))
    assert not first.interactions.equals(planted_world(seed=4).interactions)


@pytest.mark.parametrize("sizes", [(2_000, 1_000, 50_000), (60, 80, 60), (30, 64, 480)])
def test_the_world_has_the_sizes_asked_for_and_no_pair_twice(sizes):
    users, items, events = sizes
    world = planted_world(users, items, events)
    assert (world.users.height, world.items.height, world.interactions.height) == sizes
    assert world.interactions.select("user_id", "item_id").n_unique() == events
    assert world.interactions["timestamp"].is_sorted()
    assert world.interactions["user_id"].n_unique() == users
    assert world.items["title"].n_unique() == items


def test_every_user_has_a_history_where_the_events_reach():
    counts = planted_world().interactions["user_id"].value_counts()["count"]
    assert counts.min() >= 3
    assert counts.max() > 5 * counts.median()


def test_who_knows_the_tastes_beats_popularity_by_far():
    world = planted_world()
    _, items = rows(world)
    popular = last_out_hit_rate(world, np.bincount(items, minlength=world.items.height))
    oracle = last_out_hit_rate(world, world.probabilities(np.arange(world.users.height)))
    assert popular > 0.05
    assert oracle > 3 * popular


def test_events_follow_the_tastes_the_world_tells():
    world = planted_world(users=4_000, items=4_000, events=12_000)
    users, items = rows(world)
    group = world.item_group[items]
    main = (group == world.user_group[users]).mean()
    second = (group == world.second_group[users]).mean()
    assert main == pytest.approx(0.80 + 0.05 / 10, abs=0.02)
    assert second == pytest.approx(0.15 + 0.05 / 10, abs=0.02)
    probabilities = world.probabilities(np.arange(400))
    assert probabilities.shape == (400, 4_000)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_popularity_is_zipf_and_has_nothing_to_do_with_ids():
    world = planted_world()
    ranked = np.sort(world.popularity)[::-1]
    assert ranked[0] / ranked[99] == pytest.approx(100**0.8)
    assert abs(np.corrcoef(world.popularity, np.arange(1_000))[0, 1]) < 0.1


def test_features_tell_the_group_about_half_of_the_time():
    world = planted_world(groups=10)
    clubs = world.users["club"].str.strip_suffix(" club")
    names = world.items.with_columns(group=world.item_group).group_by("group").agg("tags")
    theme = {
        group: pl.Series(tags).list.explode().value_counts(sort=True)[0, 0]
        for group, tags in names.iter_rows()
    }
    told = [theme[group] == club for group, club in zip(world.user_group, clubs, strict=True)]
    assert np.mean(told) == pytest.approx(0.5 + 0.5 / 10, abs=0.05)
    assert 0 < world.users["age"].null_count() < 100


def test_the_tables_pass_the_readers_with_their_own_schema():
    world = planted_world(users=100, items=64, events=1_000)
    frame, report = read_interactions(world.interactions, world.schema)
    assert frame.columns == ["user", "item", "time", "weight"]
    assert report.lines() == (
        "the interactions frame: 1,000 rows read, 1,000 kept.",
        "Times: 2023-11-15 to 2024-11-13, read as seconds.",
    )
    read_entities(world.users, "user_id", world.schema.user_features, name="users")
    read_entities(world.items, "item_id", world.schema.item_features, world.schema.title)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"groups": 13}, "between 2 and 12"),
        ({"groups": 1}, "between 2 and 12"),
        ({"items": 39}, "needs a user and 40 items"),
        ({"users": 0}, "needs a user"),
        ({"events": 1_999}, "between 2,000 and 500,000 events, got 1,999"),
        ({"events": 500_001}, "got 500,001"),
    ],
)
def test_a_world_that_cannot_be_is_refused(arguments, reason):
    with pytest.raises(DataError, match=reason):
        planted_world(**arguments)


def test_titles_stay_apart_when_words_run_out():
    world = planted_world(users=100, items=1_500, events=1_000, groups=2)
    assert world.items["title"].n_unique() == 1_500
    assert world.items["title"].str.ends_with(" 2").any()
