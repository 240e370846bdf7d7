"""Popularity: counts of the training rows, ties by the hash, seen items out."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.explaining import REASONS
from shortlist.asking.queries import Queries
from shortlist.channels.counting.popular import Popular, PopularOptions
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.errors import ModelError, QueryError


def test_items_come_by_training_count_then_by_hash(split):
    popular = Popular().fit(split)
    data = popular.data
    everything = popular.recommend(Queries(histories=[[]], exclude_seen=False), 10**6)
    rows = everything.rows[0]
    counts = np.append(data.item_counts, np.zeros(len(data.items) - data.items.trained))[rows]
    assert (np.diff(counts) <= 0).all()
    keys = data.items.tie_keys[rows]
    tied = np.diff(counts) == 0
    assert (np.diff(keys.astype(float))[tied] > 0).all()
    assert (everything.scores[0] == counts).all()
    assert len(rows) == len(data.candidates(with_features=True))


def test_only_training_rows_count(split):
    data = Popular().fit(split).data
    assert data.item_counts.sum() == (data.log.role == 0).sum()


def test_a_user_who_met_the_top_items_gets_the_next(split):
    popular = Popular().fit(split)
    top = popular.recommend(Queries(histories=[[]]), 8).ids[0]
    assert popular.recommend(Queries(histories=[top[:3]]), 5).ids[0] == top[3:]


LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3, 3, 3, 4, 4, 5],
        "item_id": [10, 20, 10, 20, 30, 20, 40, 30, 20, 10],
        "time": [0, 90, 10, 100, 80, 100, 70, 90, 60, 100],
    }
)
USERS = pl.DataFrame(
    {"user_id": [1, 2, 3, 4, 5, 6], "team": ["a", "a", "b", "b", None, "b"], "age": [1.0] * 6}
)
TEAMS = (Feature("team", "categorical"), Feature("age", "numeric"))


def small(log=LOG, users=USERS, features=TEAMS, time="time"):
    """Everything is training: counts 10: 3, 20: 4, 30: 2, 40: 1; team a has 4 events, b 5."""
    roles = ["train"] * (len(log) - 2) + ["validation", "test"]
    schema = Schema(time=time, split="role", user_features=features)
    log = log.with_columns(role=pl.Series(roles))
    return Dataset.load(log, users=users, schema=schema).split().training_data("all")


def answer(popular, queries, k=10, **options):
    found = popular.recommend(Queries(queries, **options), k)
    return [
        dict(zip(ids, scores.tolist(), strict=False))
        for ids, scores in zip(found.ids, found.scores, strict=True)
    ]


def test_a_half_life_makes_recent_events_count_more():
    popular = Popular(half_life=10.0).fit_data(small())
    (scores,) = answer(popular, [6])
    expected = {
        10: 2.0**-10 + 2.0**-9 + 1,
        20: 2.0**-1 + 1 + 1 + 2.0**-4,
        30: 2.0**-2 + 2.0**-1,
        40: 2.0**-3,
    }
    assert scores == pytest.approx(expected)
    assert list(scores) == [20, 10, 30, 40]


def test_a_segment_adds_its_counts_to_the_shares_of_all():
    popular = Popular(segment="team", strength=5.0).fit_data(small())
    of_a, of_b, of_none = answer(popular, [1, 6, 5], exclude_seen=False)
    shares = {10: 1.5, 20: 2.0, 30: 1.0, 40: 0.5}
    assert of_a == pytest.approx({20: 4.0, 10: 3.5, 30: 1.0, 40: 0.5})
    assert of_b == pytest.approx({20: 4.0, 30: 3.0, 10: 1.5, 40: 1.5})
    assert of_none == pytest.approx(shares)
    # 40 has one event of team b and 0.5 of all, 10 has 1.5 of all: a tie across the two lists.
    row_of = dict(zip(shares, popular.data.items.rows(list(shares)), strict=True))
    keys = popular.data.items.tie_keys
    assert list(of_b)[2:] == sorted([10, 40], key=lambda item: keys[row_of[item]])
    others = small(LOG.with_columns(item_id=pl.col("item_id").replace({10: 40, 40: 10})))
    (swapped,) = answer(Popular(segment="team", strength=5.0).fit_data(others), [6])
    assert list(swapped)[2:] == list(of_b)[2:]
    assert popular.recommend([1, 6, 5, 99], 2).fallback.tolist() == [False, False, True, True]


def test_a_segment_with_a_half_life_decays_both_parts():
    popular = Popular(segment="team", strength=2.0, half_life=10.0).fit_data(small())
    weights = np.exp2(-(100 - LOG["time"].to_numpy()) / 10)
    whole = {i: weights[LOG["item_id"] == i].sum() / weights.sum() for i in (10, 20, 30, 40)}
    own = weights[(LOG["item_id"] == 30).to_numpy() & LOG["user_id"].is_in([3, 4]).to_numpy()].sum()
    (scores,) = answer(popular, [6])
    assert scores[30] == pytest.approx(own + 2 * whole[30])


@pytest.mark.parametrize("strength", [0.5, 50.0, 5000.0])
def test_segments_answer_as_a_dense_table_would(world, world_schema, strength):
    data = (
        Dataset.load(world.interactions, users=world.users, items=world.items, schema=world_schema)
        .split()
        .training_data()
    )
    popular = Popular(segment="region", strength=strength).fit_data(data)
    encoder, code = data.user_features.encoders["region"], data.user_features.columns["region"]
    log, rows = data.training_log, popular.candidate_rows()
    table = np.zeros((len(encoder.values) + 1, len(data.items) + 1))
    np.add.at(table, (code.numpy()[log.user], log.item), 1.0)
    share = np.bincount(log.item, minlength=len(data.items) + 1) / len(log)
    dense = (table + strength * share).astype(np.float32)
    dense[0] = (strength * share).astype(np.float32)
    ids = data.users.ids.to_list()[:60]
    for exclude in (True, False):
        found = popular.recommend(Queries(ids, before="validation", exclude_seen=exclude), 50)
        for place, row in enumerate(data.users.rows(ids)):
            scores = dense[code[row]].copy()
            if exclude:
                scores[log.item[log.user == row]] = -np.inf
            left = rows[np.isfinite(scores[rows])]
            order = np.lexsort((data.items.tie_keys[left], -scores[left]))[:50]
            assert found.rows[place].tolist() == left[order].tolist()
            assert found.scores[place].tolist() == scores[left[order]].tolist()


def test_a_list_is_shorter_where_nothing_is_left():
    popular = Popular(segment="team").fit_data(small())
    found = popular.recommend([3], 100)
    assert found.ids == [[10]]
    assert found.rows[0, 1:].tolist() == [-1] * (found.rows.shape[1] - 1)
    assert np.isneginf(found.scores[0, 1:]).all()


def test_a_history_alone_tells_no_segment():
    popular = Popular(segment="team").fit_data(small())
    found = popular.recommend(Queries(histories=[[20], []]), 3)
    assert found.ids == [[10, 30, 40], [20, 10, 30]]
    assert found.fallback.tolist() == [True, True]


@pytest.mark.parametrize("options", [{}, {"half_life": 10.0}, {"segment": "team"}])
def test_an_explanation_sums_to_the_score(options):
    popular = Popular(**options).fit_data(small())
    asked = [1, 6, 5]
    scores = answer(popular, asked, exclude_seen=False)
    why = popular.explain(asked, [[40, 10, 77], [10, 20, 30], [20]])
    assert {"kind", "because", "contribution"} < set(why.columns)
    assert list(why.columns) == list(REASONS)
    sums = why.group_by("query", "item").agg(pl.col("contribution").sum())
    assert {(q, i): c for q, i, c in sums.iter_rows()} == pytest.approx(
        {(q, i): scores[q][i] for q, i in [(0, 40), (0, 10), (1, 10), (1, 20), (1, 30), (2, 20)]}
    )
    assert set(why["kind"]) == {"popularity"}


def test_an_explanation_names_the_segment_and_the_strongest_reason_first():
    popular = Popular(segment="team", strength=5.0).fit_data(small())
    why = popular.explain([1, 6], [[40, 20], [10]]).select("item", "because", "contribution")
    assert why.rows() == [
        (40, "global", 0.5),
        (20, "global", 2.0),
        (20, "team=a", 2.0),
        (10, "global", 1.5),
    ]
    assert popular.explain([1], [[]]).height == 0
    with pytest.raises(QueryError, match="one list of items a query"):
        popular.explain([1], [])


@pytest.mark.parametrize("options", [{}, {"half_life": 7.0}, {"segment": "team", "strength": 3.0}])
def test_what_was_saved_answers_alike(options):
    popular = Popular(**options).fit_data(small())
    settings, states = popular.state()
    again = Popular.from_state(popular.data, settings, states)
    assert again.options == popular.options
    one, two = (p.recommend([1, 2, 3, 99], 4) for p in (popular, again))
    assert one.rows.tolist() == two.rows.tolist()
    assert torch.equal(torch.from_numpy(one.scores), torch.from_numpy(two.scores))
    assert Popular.from_state(popular.data, {}, {}).options == PopularOptions()


def test_new_events_are_taken_by_observing_them():
    popular = Popular(segment="team").fit_data(small())
    more = [LOG.tail(1).with_columns(user_id=pl.lit(user, pl.Int64)) for user in (2, 6)]
    newer = small(pl.concat([LOG, *more]))
    fresh = Popular(segment="team").fit_data(newer)
    assert answer(popular.observe(newer), [1, 6]) == answer(fresh, [1, 6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.0}, "strength does nothing without segment"),
        ({"half_life": 0.0}, "half_life must be > 0"),
        ({"segments": "team"}, "no option 'segments'. Did you mean 'segment'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        Popular(**options)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"segment": "tem"}, {}, "no column 'tem'. Did you mean 'team'"),
        ({"segment": "age"}, {}, "declared as numeric"),
        ({"segment": "age"}, {"features": ()}, "holds Float64: declare it as categorical"),
        ({"segment": "team"}, {"users": None, "features": ()}, "no such table"),
        ({"segment": "team"}, {"features": (Feature("team", "multi-valued"),)}, "several values"),
        ({"segment": "team"}, {"users": USERS.with_columns(team=pl.lit(None))}, "is empty for"),
        ({"half_life": 5.0}, {"time": None, "log": LOG.drop("time")}, r"needs data\.time"),
    ],
)
def test_data_without_what_an_option_needs_is_refused(options, change, message):
    with pytest.raises(ModelError, match=message):
        Popular(**options).fit_data(small(**change))


def test_a_column_of_words_needs_no_declaration():
    declared, plain = (
        Popular(segment="team").fit_data(small(features=features)) for features in (TEAMS, ())
    )
    assert answer(declared, [1, 6, 5]) == answer(plain, [1, 6, 5])
