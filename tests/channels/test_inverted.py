"""The inverted index: dense tables, values by hand, ties, truncation, refreshes and refusals."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.explaining import REASONS
from shortlist.asking.queries import Queries
from shortlist.channels.counting.attributes import value_lists
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.popular import Popular
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.data.updates import with_events
from shortlist.errors import ModelError, QueryError

# Counts: item 1: 4, 2: 3, 3: 2, 4: 1, 5: 1, 6: 1.
LOG = pl.DataFrame(
    {
        "user_id": [11, 12, 13, 14, 11, 12, 15, 13, 14, 11, 16, 17],
        "item_id": [1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6],
        "time": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    }
)
ITEMS = pl.DataFrame(
    {
        "item_id": [1, 2, 3, 4, 5, 6, 7],
        "genres": ["red|red", "red|blue", "blue", "blue|green", "green", None, "red"],
        "price": [1.0] * 7,
        "share": ["yes", "no", "yes", None, "yes", "no", "yes"],
    }
)
GENRES = (Feature("genres", "multi-valued"), Feature("price", "numeric"))


def small(log=LOG, items=ITEMS, features=GENRES, time="time", users=None):
    roles = ["train"] * (len(log) - 2) + ["validation", "test"]
    schema = Schema(time=time, split="role", item_features=features)
    log = log.with_columns(role=pl.Series(roles))
    return Dataset.load(log, users=users, items=items, schema=schema).split().training_data("all")


def planted(world, world_schema):
    loaded = Dataset.load(
        world.interactions, users=world.users, items=world.items, schema=world_schema
    )
    return loaded.split().training_data()


def answer(channel, queries, k=10):
    found = channel.recommend(queries, k)
    return [
        dict(zip(ids, scores.tolist(), strict=False))
        for ids, scores in zip(found.ids, found.scores, strict=True)
    ]


def histories(*lists, exclude_seen=False):
    return Queries(histories=lists, exclude_seen=exclude_seen)


def test_a_score_is_the_taste_for_a_value_times_what_the_item_is_worth():
    channel = Inverted(attribute="genres").fit_data(small())
    # History 2, 3: red once, blue twice, so the shares are 1/3 and 2/3.
    (scores,) = answer(channel, histories([2, 3]))
    assert scores == pytest.approx({2: 3.0, 1: 4 / 3, 3: 4 / 3, 4: 2 / 3})
    (left,) = answer(channel, histories([2, 3], exclude_seen=True))
    assert left == pytest.approx({1: 4 / 3, 4: 2 / 3})


def test_a_mean_does_not_favour_items_of_many_values():
    channel = Inverted(attribute="genres", combine="mean").fit_data(small())
    (scores,) = answer(channel, histories([2, 3]))
    assert scores == pytest.approx({2: 1.5, 1: 4 / 3, 3: 4 / 3, 4: 1 / 3})


def test_a_lift_is_the_share_over_that_of_all_training_events():
    channel = Inverted(attribute="genres", taste="lift").fit_data(small())
    # Events by value: red 4 + 3, blue 3 + 2 + 1, green 1 + 1: of 15.
    (scores,) = answer(channel, histories([2]))
    red, blue = 0.5 * 15 / 7, 0.5 * 15 / 6
    assert scores == pytest.approx({2: 3 * (red + blue), 1: 4 * red, 3: 2 * blue, 4: blue})


def test_the_newest_events_weigh_most_in_a_taste():
    channel = Inverted(attribute="genres", recency=1.0).fit_data(small())
    # Oldest first: 5 (green) weighs 1/4, 3 (blue) 1/2, 1 (red) 1; unknown items take no place.
    (scores,) = answer(channel, histories([5, 99, 3, 1]))
    total = 7 / 4
    assert scores == pytest.approx(
        {1: 4 / total, 2: 3 * 1.5 / total, 3: 1 / total, 4: 0.75 / total, 5: 0.25 / total}
    )
    latest = Inverted(attribute="genres", latest_items=2).fit_data(small())
    assert answer(latest, histories([5, 3, 1])) == answer(latest, histories([3, 1]))
    assert answer(latest, histories([5, 3, 1])) != answer(latest, histories([5, 3]))


def test_an_event_too_old_to_weigh_anything_is_no_taste():
    channel = Inverted(attribute="genres", recency=1e-4).fit_data(small())
    (scores,) = answer(channel, histories([3, 5]))
    assert scores == {4: 1.0, 5: 1.0}


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("length", [3, 1000])
@pytest.mark.parametrize(
    "options", [{}, {"combine": "mean", "taste": "lift"}, {"recency": 2.0}, {"latest_items": 4}]
)
def test_lists_are_those_of_a_dense_table(world, world_schema, k, length, options):
    data = planted(world, world_schema)
    channel = Inverted(attribute="tags", list_length=length, **options).fit_data(data)
    values, start, codes = value_lists("tags", data.item_frame, data.item_features, data.items)
    trained, keys = data.items.trained, data.items.tie_keys
    has = np.zeros((trained + 1, len(values)))
    for row in range(1, trained + 1):
        has[row, codes[start[row] : start[row + 1]] - 1] = 1
    worth = data.item_counts.astype(np.float32)
    listed = np.zeros_like(has)
    for value in range(len(values)):
        rows = np.flatnonzero(has[:, value])
        best = rows[np.lexsort((keys[rows], -worth[rows]))][:length]
        listed[best, value] = 1
    share = data.item_counts @ has
    log = data.training_log
    ids = data.users.ids.to_list()[:40]
    for exclude in (True, False):
        found = channel.recommend(Queries(ids, before="validation", exclude_seen=exclude), k)
        assert not found.fallback.any()
        for place, row in enumerate(data.users.rows(ids)):
            history = log.item[log.user == row][-options.get("latest_items", 10**6) :]
            age = np.arange(len(history))[::-1]
            taste = np.exp2(-age / options.get("recency", np.inf)) @ has[history]
            taste /= taste.sum()
            if "taste" in options:
                taste *= share.sum() / share
            scores = (listed * taste).sum(1) * worth
            if "combine" in options:
                scores /= np.maximum(has.sum(1), 1)
            scores[(listed * taste).sum(1) == 0] = -np.inf
            if exclude:
                scores[log.item[log.user == row]] = -np.inf
            expected = np.sort(scores[np.isfinite(scores)])[::-1][:k]
            got = found.rows[place][found.rows[place] >= 0]
            assert len(got) == len(expected)
            np.testing.assert_allclose(found.scores[place, : len(got)], expected, rtol=1e-6)
            np.testing.assert_allclose(scores[got], expected, rtol=1e-6)
            assert (np.diff(found.scores[place, : len(got)]) <= 0).all()


@pytest.mark.parametrize("length", [4, 1000])
def test_the_best_of_several_lists_are_exact_to_the_last_tie(world, world_schema, length):
    data = planted(world, world_schema)
    channel = Inverted(attribute="tags", list_length=length).fit_data(data)
    random, keys = np.random.default_rng(0), data.items.tie_keys
    asked = [
        random.choice(len(channel.values), size, replace=False)
        for size in random.integers(1, 6, 100)
    ]
    for k in (1, 5, 50):
        found = channel.lookup([[channel.values[v] for v in mine] for mine in asked], k)
        for place, mine in enumerate(asked):
            scores = np.zeros(len(data.items) + 1)  # sums of counts: exact
            for value in mine:
                begin, end = channel._lists.start[value : value + 2]
                scores[channel._lists.item[begin:end]] += channel._lists.worth[begin:end]
            rows = np.flatnonzero(scores)
            rows = rows[np.lexsort((keys[rows], -scores[rows]))][:k]
            assert found.rows[place, : len(rows)].tolist() == rows.tolist()
            assert (found.rows[place, len(rows) :] == -1).all()


def test_equal_scores_go_by_tie_key_wherever_the_list_is_cut():
    items = pl.DataFrame({"item_id": range(1, 41), "genres": ["red"] * 40})
    log = pl.DataFrame({"user_id": range(1, 41), "item_id": range(1, 41), "time": range(40)})
    data = small(log, items, GENRES[:1])
    order = np.argsort(data.items.tie_keys[1:]) + 1
    for length in (5, 40):
        channel = Inverted(attribute="genres", list_length=length).fit_data(data)
        for k in (1, 3, 40):
            found = channel.lookup([["red"]], k)
            assert found.rows[0, : min(k, length)].tolist() == order[: min(k, length)].tolist()


def test_a_rule_asks_for_the_same_values_for_everybody():
    channel = Inverted(attribute="share", values=["yes"]).fit_data(small())
    found = channel.recommend(Queries([11, 999], exclude_seen=True), 10)
    assert found.ids == [[3, 5], [1, 3, 5]]  # 7 shares, but nobody has met it
    assert found.fallback.tolist() == [False, False]
    assert found.scores[1, :3].tolist() == [4.0, 2.0, 1.0]
    assert channel.explain([999], [[1]]).row(0)[2:] == ("attribute", "yes", 4.0)


def test_values_can_be_looked_up_without_a_user():
    channel = Inverted(attribute="genres").fit_data(small())
    found = channel.lookup([["red", "blue"], ["green", "pink"], ["pink"], []], 3)
    assert [set(ids) for ids in found.ids[:2]] == [{1, 2, 3} - {3} | {3}, {4, 5}]
    assert found.ids[0][0] == 2
    assert found.scores[0].tolist() == [6.0, 4.0, 2.0]
    assert found.ids[2:] == [[], []]
    assert found.fallback.tolist() == [False, False, True, True]
    assert channel.lookup([], 3).ids == []
    assert channel.lookup([["red", "red"]], 1).scores[0, 0] == 4.0
    with pytest.raises(QueryError, match="a list of values a query"):
        channel.lookup(["red"], 3)
    with pytest.raises(QueryError, match="k must be at least 1"):
        channel.lookup([["red"]], 0)


def test_values_that_are_no_text_are_looked_up_as_the_column_has_them():
    items = ITEMS.with_columns(genres=pl.Series([True, False, True, None, True, False, True]))
    channel = Inverted(attribute="genres").fit_data(small(items=items, features=()))
    assert channel.lookup([[True]], 5).ids == channel.lookup([["true"]], 5).ids == [[1, 3, 5]]


def test_nothing_known_gives_popular_items_with_the_flag():
    channel = Inverted(attribute="genres").fit_data(small())
    # Item 6 has no genre, 7 was never trained on, 99 is unknown.
    asked = histories([], [6], [7], [99], [3], exclude_seen=True)
    found = channel.recommend(asked, 3)
    assert found.fallback.tolist() == [True, True, True, True, False]
    assert found.ids[1] == Popular().fit_data(small()).recommend(asked, 3).ids[1]
    assert channel.recommend([-1], 2).fallback.tolist() == [True]


def test_a_user_and_the_same_history_as_a_list_get_the_same(world, world_schema):
    data = planted(world, world_schema)
    channel = Inverted(attribute="tags", recency=3.0, taste="lift").fit_data(data)
    ids = data.users.ids.to_list()[:50]
    lists = [
        data.items.external(data.log.item[data.log.user == row]).to_list()
        for row in data.users.rows(ids)
    ]
    one, two = channel.recommend(ids, 20), channel.recommend(Queries(histories=lists), 20)
    assert one.rows.tolist() == two.rows.tolist()
    assert one.scores.tobytes() == two.scores.tobytes()


def test_the_answer_to_a_query_does_not_depend_on_its_batch(world, world_schema):
    data = planted(world, world_schema)
    channel = Inverted(attribute="tags").fit_data(data)
    ids = data.users.ids.to_list()[:50]
    together = channel.recommend(ids, 20)
    alone = [channel.recommend([user], 20) for user in ids]
    assert together.rows.tolist() == [one.rows[0].tolist() for one in alone]
    assert together.scores.tolist() == [one.scores[0].tolist() for one in alone]


@pytest.mark.parametrize("options", [{}, {"combine": "mean", "taste": "lift"}, {"list_length": 2}])
def test_an_explanation_sums_to_the_score(options):
    channel = Inverted(attribute="genres", **options).fit_data(small())
    asked = histories([2, 3], [5])
    scores = answer(channel, asked)
    why = channel.explain(asked, [[1, 2, 3, 4, 5, 6, 99], [4, 5]])
    assert list(why.columns) == list(REASONS)
    sums = why.group_by("query", "item").agg(pl.col("contribution").sum())
    assert {(q, i): c for q, i, c in sums.iter_rows()} == pytest.approx(
        {(q, i): c for q, found in enumerate(scores) for i, c in found.items()}
    )
    assert set(why["kind"]) == {"attribute"}


def test_without_a_value_the_score_falls_by_what_it_was_said_to_give():
    channel = Inverted(attribute="genres").fit_data(small())
    asked = histories([2, 3])
    block = next(iter(channel_blocks(asked, channel)))
    taste = channel._tastes_of(block)
    for item in (2, 1, 3, 4):
        row = int(channel.data.items.rows([item])[0])
        why = channel.explain(asked, [[item]])
        before = score_of(channel._best(taste, 10), row)
        for value, gain in why.select("because", "contribution").iter_rows():
            kept = taste.value != channel.values.index(value)
            less = taste._replace(
                start=np.array([0, kept.sum()]), value=taste.value[kept], weight=taste.weight[kept]
            )
            after = score_of(channel._best(less, 10), row)
            assert before - after == pytest.approx(gain, rel=1e-6)


def channel_blocks(queries, channel):
    from shortlist.asking.rows import row_blocks

    return row_blocks(queries, channel.data)


def score_of(found, row):
    rows, scores = found
    place = np.flatnonzero(rows[0] == row)
    return float(scores[0, place[0]]) if len(place) else 0.0


def test_similar_items_share_values_and_leave_out_the_item():
    channel = Inverted(attribute="genres").fit_data(small())
    found = channel.similar([2, 6, 99], 4)
    assert found.ids[0] == sorted(found.ids[0], key=[1, 3, 4].index)
    assert found.scores[0, :3].tolist() == [2.0, 1.0, 0.5]
    assert found.ids[1] == []
    assert found.fallback.tolist() == [False, False, True]
    rule = Inverted(attribute="share", values=["yes"]).fit_data(small())
    assert rule.similar([2], 3).ids == [[6]]  # by the item's own value, not the rule's


def test_what_was_saved_answers_alike_bit_for_bit(world, world_schema):
    data = planted(world, world_schema)
    channel = Inverted(attribute="tags", taste="lift", list_length=7).fit_data(data)
    settings, states = channel.state()
    again = Inverted.from_state(data, settings, states)
    ids = data.users.ids.to_list()
    one, two = (c.recommend(ids, 30) for c in (channel, again))
    assert again.options == channel.options
    assert one.rows.tolist() == two.rows.tolist()
    assert one.scores.tobytes() == two.scores.tobytes()
    assert again._members.place.tolist() == channel._members.place.tolist()
    rule = Inverted(attribute="share", values=["yes", "no"]).fit_data(small())
    assert Inverted.from_state(rule.data, *rule.state()).options == rule.options


MORE = pl.concat(
    [
        LOG,
        pl.DataFrame(
            {"user_id": [15, 16, 17, 13], "item_id": [3, 3, 3, 4], "time": [20, 21, 22, 23]}
        ),
    ]
)  # 3 has 5 now, 4 has 2


def test_a_refresh_sorts_the_named_lists_and_no_others():
    channel = Inverted(attribute="genres").fit_data(small())
    channel.refresh(["blue"], data=small(MORE))
    found = channel.lookup([["blue"], ["green"], ["blue", "green"]], 9)
    scores = [
        dict(zip(i, s.tolist(), strict=False)) for i, s in zip(found.ids, found.scores, strict=True)
    ]
    assert scores == [{3: 5, 2: 3, 4: 2}, {4: 1, 5: 1}, {3: 5, 2: 3, 4: 3, 5: 1}]
    assert found.ids[0] == [3, 2, 4]
    settings, states = channel.state()
    again = Inverted.from_state(channel.data, settings, states)
    assert again.lookup([["blue", "green"]], 9).scores.tobytes() == (
        channel.lookup([["blue", "green"]], 9).scores.tobytes()
    )
    lift = Inverted(attribute="genres", taste="lift")
    refreshed = lift.fit_data(small()).refresh(data=small(MORE))
    fresh = Inverted(attribute="genres", taste="lift").fit_data(small(MORE))
    assert answer(refreshed, histories([2, 3])) == answer(fresh, histories([2, 3]))
    for value in ("red", "blue", "green"):
        one, two = (c.refresh().lookup([[value]], 9) for c in (channel, fresh))
        assert one.rows.tolist() == two.rows.tolist()
        assert one.scores.tobytes() == two.scores.tobytes()


def test_an_item_pushed_out_of_a_cut_list_is_no_longer_in_it():
    channel = Inverted(attribute="genres", list_length=1).fit_data(small())
    assert channel.lookup([["blue"]], 3).ids == [[2]]
    channel.refresh(["blue"], data=small(MORE))
    found = channel.lookup([["blue"], ["red", "blue"]], 3)
    assert found.ids == [[3], [3, 1]]
    assert found.scores[1, :2].tolist() == [5.0, 4.0]


def test_an_item_pushed_out_of_one_list_keeps_its_score_in_another():
    extra = pl.DataFrame({"user_id": [15, 16, 17], "item_id": [4] * 3, "time": [20, 21, 22]})
    channel = Inverted(attribute="genres", list_length=1).fit_data(small(pl.concat([LOG, extra])))
    assert channel.lookup([["blue", "green"]], 3).scores[0, :2].tolist() == [8.0, -np.inf]
    channel.refresh(["blue"], data=small(MORE))
    found = channel.lookup([["blue", "green"]], 3)
    assert found.ids == [[3, 4]]
    assert found.scores[0, :2].tolist() == [5.0, 4.0]


def test_observing_gives_what_a_fit_would():
    channel = Inverted(attribute="genres", taste="lift").fit_data(small())
    newer = small(pl.concat([MORE, LOG.tail(1).with_columns(item_id=pl.lit(7, pl.Int64))]))
    fresh = Inverted(attribute="genres", taste="lift").fit_data(newer)
    asked = histories([2, 3], [7])
    assert answer(channel.observe(newer), asked) == answer(fresh, asked)


def test_a_refresh_with_other_items_or_values_is_refused_and_changes_nothing():
    channel = Inverted(attribute="genres").fit_data(small())
    before = answer(channel, histories([2, 3]))
    newer = pl.concat([LOG, LOG.tail(1).with_columns(item_id=pl.lit(7, pl.Int64))])
    with pytest.raises(ModelError, match="for new ones use observe"):
        channel.refresh(data=small(newer))
    other = ITEMS.with_columns(genres=pl.col("genres").fill_null("green"))
    with pytest.raises(ModelError, match="other values of 'genres' now"):
        channel.refresh(data=small(items=other))
    with pytest.raises(ModelError, match="no trained item has 'rde' as 'genres'"):
        channel.refresh(["rde"])
    assert answer(channel, histories([2, 3])) == before


def test_lists_can_be_sorted_by_recent_events_and_by_rates():
    recent = Inverted(attribute="genres", metric="recent", half_life=1.0).fit_data(small())
    assert recent.lookup([["blue"]], 3).ids == [[4, 3, 2]]
    shown = pl.DataFrame(
        {
            "user_id": [11] * 6,
            "item_id": [1, 1, 1, 2, 2, 2],
            "time": [1] * 6,
            "clicked": [0, 0, 0, 1, 1, 0],
        }
    )
    schema = Schema(time="time", click="clicked", item_features=GENRES)
    data = Dataset.load(LOG, items=ITEMS, impressions=shown, schema=schema).split()
    ctr = Inverted(attribute="genres", metric="ctr", prior_strength=3.0)
    found = ctr.fit_data(data.training_data("all")).lookup([["red"]], 3)
    assert found.ids == [[2, 1]]
    np.testing.assert_allclose(found.scores[0, :2], [3 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Inverted needs the option 'attribute'"),
        ({"attribute": "genres", "half_life": 3.0}, "half_life needs that metric"),
        ({"attribute": "genres", "metric": "recent"}, "metric = 'recent' needs half_life"),
        ({"attribute": "genres", "metric": "clicks"}, "metric cannot be 'clicks'"),
        ({"attribute": "genres", "prior_strength": 3.0}, "prior_strength does nothing with"),
        ({"attribute": "genres", "values": ["a"], "recency": 3.0}, "recency does nothing with va"),
        ({"attribute": "genres", "values": ["a"], "latest_items": 3}, "latest_items does nothing"),
        ({"attribute": "genres", "list_length": 0}, "list_length must be >= 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        Inverted(**options)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"attribute": "genre"}, {}, "no column 'genre'. Did you mean 'genres'"),
        ({"attribute": "price"}, {}, "declared as numeric"),
        ({"attribute": "price"}, {"features": ()}, "declare it as categorical"),
        ({"attribute": "genres"}, {"items": None, "features": ()}, "no such table is given"),
        (
            {"attribute": "genres"},
            {"items": ITEMS.with_columns(genres=pl.lit(None, pl.String))},
            "is empty for every item that was trained on",
        ),
        ({"attribute": "share", "values": ["yess"]}, {}, "no trained item has 'yess' as 'share'"),
        ({"attribute": "genres", "metric": "ctr"}, {}, "give the impressions"),
        ({"attribute": "genres", "recency": 2.0}, {"time": None}, r"recency needs data\.time"),
        ({"attribute": "genres", "latest_items": 2}, {"time": None}, r"items needs data\.time"),
        (
            {"attribute": "genres", "metric": "recent", "half_life": 2.0},
            {"time": None},
            r"half_life needs data\.time",
        ),
    ],
)
def test_data_without_what_an_option_needs_is_refused(options, change, message):
    with pytest.raises(ModelError, match=message):
        Inverted(**options).fit_data(small(**change))


def test_k_beyond_what_the_lists_hold_gives_short_lists():
    channel = Inverted(attribute="genres", list_length=1).fit_data(small())
    found = channel.lookup([["red", "green"]], 1000)
    assert len(found.ids[0]) == 2
    assert found.rows.shape[1] == len(channel.candidate_rows())
    assert found.rows[0, 2:].tolist() == [-1] * 4
    assert np.isneginf(found.scores[0, 2:]).all()
    assert torch.from_numpy(found.scores).dtype == torch.float32


def test_new_events_of_new_items_are_observed_without_making_them_candidates():
    data = small()
    more = pl.DataFrame({"user": [12, 98, 98], "item": [3, 77, 7], "time": [30, 31, 32]})
    grown = with_events(data, more).data
    one = Inverted(attribute="genres", taste="lift").fit_data(data).refresh(data=grown)
    two = Inverted(attribute="genres", taste="lift").fit_data(data).observe(grown)
    asked = histories([2, 3], [77], [7])
    assert answer(one, asked) == answer(two, asked)
    assert one.lookup([["blue"]], 3).scores[0].tolist() == [3.0, 3.0, 1.0]
    assert one.explain(asked, [[3, 77, 7], [], []])["item"].unique().to_list() == [3]
    for options in ({}, {"segment": "team"}, {"half_life": 9.0}):
        users = pl.DataFrame({"user_id": [12, 98], "team": ["a", "b"]})
        popular = Popular(**options).fit_data(small(users=users))
        popular = popular.observe(with_events(popular.data, more).data)
        assert 77 not in popular.recommend([98], 10).ids[0]


def test_what_is_not_allowed_is_in_no_list_and_others_move_up():
    channel = Inverted(attribute="genres").fit_data(small())
    asked = Queries(histories=[[2, 3], []], exclude_seen=False, deny=[2, 1])
    found = channel.recommend(asked, 2)
    assert found.ids[0] == [3, 4]
    assert found.ids[1][0] == 3  # the popular items of the fallback keep to it as well
    segment = Popular(segment="share").fit_data(
        small(users=pl.DataFrame({"user_id": [11, 12], "share": ["a", "b"]}))
    )
    only = Queries([11, 12], exclude_seen=False, allow=[4, 5])
    assert [set(ids) for ids in segment.recommend(only, 5).ids] == [{4, 5}, {4, 5}]
