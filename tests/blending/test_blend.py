"""A blend lists each item once with its channels, answers everybody, and survives a bundle."""

import numpy as np
import polars as pl
import pytest

import shortlist
from shortlist.asking.queries import Queries
from shortlist.blending.blend import POPULAR, Blend
from shortlist.blending.planning import Lists, plan
from shortlist.channels.counting.als import ALS
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, QueryError


def channels(*names):
    made = {
        "ease": lambda: EASE(recency=5.0),
        "als": lambda: ALS(factors=8, iterations=3),
        "tags": lambda: Inverted(attribute="tags"),
        "popular": Popular,
    }
    return {name: made[name]() for name in names}


@pytest.fixture(scope="module")
def blend(split):
    quotas = {"ease": 6, "als": 3, "tags": 1}
    return Blend(channels("ease", "als", "tags"), quotas=quotas).fit(split)


def test_every_item_stands_once_and_comes_from_where_it_says(blend):
    users = blend.data.users.ids[:50]
    found = blend.recommend(users, 10)
    lists = {name: channel.recommend(users, 10) for name, channel in blend.channels.items()}
    for query in range(50):
        rows = found.rows[query].tolist()
        assert len(set(rows)) == 10
        for slot, row in enumerate(rows):
            for number, name in enumerate(blend.channels):
                own = lists[name].rows[query].tolist()
                rank = own.index(row) + 1 if row in own else 0
                assert found.ranks[query, slot, number] == rank
            assert found.ranks[query, slot, found.by[query, slot]] > 0


def test_quotas_are_kept_where_the_lists_are_long_enough(blend):
    found = blend.recommend(blend.data.users.ids[:50], 10)
    assert (np.bincount(found.by.ravel(), minlength=3)[:3] == [300, 150, 50]).all()


def test_a_user_gets_the_same_as_their_history(blend):
    data = blend.data
    user = data.users.ids[3]
    row = data.users.rows([user])[0]
    history = data.items.external(data.log.item[data.log.user == row]).to_list()
    one = blend.recommend([user], 20)
    other = blend.recommend(Queries(histories=[history]), 20)
    assert (one.rows == other.rows).all()
    assert (one.ranks == other.ranks).all()


def test_a_stranger_gets_popular_items_under_the_flag(blend):
    found = blend.recommend(Queries(histories=[[]]), 5)
    popular = Popular().fit_data(blend.data).recommend(Queries(histories=[[]]), 5)
    assert found.fallback.tolist() == [True]
    assert (found.rows == popular.rows).all()
    assert found.to_frame()["channel"].to_list() == [POPULAR] * 5


def test_a_fallback_channel_fills_only_what_is_short(split):
    made = channels("tags", "popular")
    blend = Blend(made, quotas={"tags": 10}, fallback=["popular"]).fit(split)
    k = len(blend.candidate_rows())
    found = blend.recommend(Queries(histories=[[blend.data.items.ids[0]]]), k)
    frame = found.to_frame()
    own = made["tags"].recommend(Queries(histories=[[blend.data.items.ids[0]]]), k)
    listed = int((own.rows >= 0).sum())
    assert 0 < listed < len(frame)
    assert frame["channel"].to_list() == ["tags"] * listed + ["popular"] * (len(frame) - listed)
    assert not found.fallback.any()


def test_segments_get_their_own_quotas(split):
    blend = Blend(
        channels("ease", "als"),
        quotas={"ease": 1, "als": 0},
        segments=[{"history_below": 3, "quotas": {"als": 1}}],
    ).fit(split)
    items = blend.data.items.ids
    found = blend.recommend(Queries(histories=[[items[0]], list(items[:5])]), 4)
    assert found.by.tolist() == [[1] * 4, [0] * 4]


def test_segments_of_a_feature_are_told_by_its_values(split):
    frame = split.dataset.users
    value = frame["region"].drop_nulls()[0]
    blend = Blend(
        channels("ease", "als"),
        quotas={"ease": 1, "als": 0},
        segments=[{"feature": "region", "values": [str(value)], "quotas": {"als": 1}}],
    ).fit(split)
    inside = frame.filter(pl.col("region") == value)["id"][:3]
    outside = frame.filter(pl.col("region") != value)["id"][:3]
    assert (blend.recommend(inside, 4).by == 1).all()
    assert (blend.recommend(outside, 4).by == 0).all()
    unknown = Blend(
        channels("ease", "als"),
        quotas={"ease": 1, "als": 0},
        segments=[{"feature": "regoin", "values": ["a"], "quotas": {"als": 1}}],
    )
    with pytest.raises(ModelError, match=r"a column 'regoin'.*region"):
        unknown.fit(split)


def test_reciprocal_ranks_by_hand(split):
    blend = Blend(channels("ease", "als"), method="reciprocal-rank", rank_constant=10.0).fit(split)
    found = blend.recommend(blend.data.users.ids[:20], 10)
    expected = np.where(found.ranks[:, :, :2] > 0, 1 / (10 + found.ranks[:, :, :2]), 0).sum(axis=2)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


def test_weights_multiply_scores_stretched_to_one(split):
    blend = Blend(channels("ease", "als"), method="weighted", weights={"ease": 2.0}).fit(split)
    found = blend.recommend(blend.data.users.ids[:20], 10)
    first = (found.ranks[:, :, 0] == 1) & (found.ranks[:, :, 1] == 0)
    assert first.any()
    np.testing.assert_allclose(found.scores[first], 2.0, rtol=1e-6)


def test_calibrated_gains_are_the_measured_chances_of_a_hit(split):
    blend = Blend(channels("ease", "als"), method="calibrated").fit(split)
    lists = Lists(blend.channels, 20, "validation")
    for number, name in enumerate(blend.channels):
        curve = blend.chances[name].numpy()
        assert (np.diff(curve) < 0).all()
        hits = (lists.ranks[number] <= 20).sum() / lists.users
        assert curve[:20].sum() == pytest.approx(hits, abs=0.03)
    found = blend.recommend(blend.data.users.ids[:5], 10)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_planned_quotas_are_no_worse_than_any_channel_or_equal_shares(split):
    made = channels("ease", "als", "tags", "popular")
    for channel in made.values():
        channel.fit(split)
    found = plan(made, 20)
    assert sum(found.quotas.values()) == 20
    assert found.expected >= max(*found.alone.values(), found.equal)
    assert np.allclose(np.diag(found.overlap), 1)
    lists = Lists(made, 20, "validation")
    top = lists.ranks <= 20
    for number, name in enumerate(made):
        only = top[number] & ~np.delete(top, number, axis=0).any(axis=0)
        assert found.unique[name] == only.sum()


def test_the_planned_recall_is_that_of_the_blend_that_serves(split):
    blend = Blend(channels("ease", "als"), size=20).fit(split)
    report = shortlist.evaluate(blend, on="validation", k=[20])
    assert report.metrics["recall@20"].mean == pytest.approx(blend.plan.expected, abs=1e-9)


def test_a_latency_budget_leaves_channels_out(split):
    made = channels("ease", "als")
    for channel in made.values():
        channel.fit(split)
    lists = Lists(made, 10, "validation")
    lists.microseconds = [100.0, 1000.0]
    from shortlist.blending.planning import plan_lists

    assert plan_lists(lists, 10, latency=500).quotas["als"] == 0
    with pytest.raises(ModelError, match=r"no channel answers within 50 microseconds.*'ease'"):
        plan_lists(lists, 10, latency=50)
    for latency in (0, -1, float("nan"), float("inf")):
        with pytest.raises(QueryError, match="latency must be > 0"):
            plan(made, 10, latency=latency)


def test_a_plan_outlives_the_bundle_and_an_update(split, tmp_path):
    blend = Blend(channels("ease", "popular"), size=10).fit(split)
    shortlist.save(blend, tmp_path / "bundle")
    kept = shortlist.load(tmp_path / "bundle").retriever
    assert kept.plan.to_dict() == blend.plan.to_dict()
    assert kept.observe(kept.data).state()[0]["plan"] == blend.plan.to_dict()


def test_planning_on_rows_the_channels_know_is_refused(split):
    made = channels("ease", "als")
    for channel in made.values():
        channel.fit(split, "train+validation")
    with pytest.raises(ModelError, match="includes the validation rows"):
        plan(made, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quotas": {"ease": 5, "asl": 5}}, "no channel 'asl'.*'als'"),
        ({"quotas": {"ease": 5}}, "gives the channel 'als' no slot"),
        ({"quotas": {"ease": 5, "als": 4}, "size": 10}, "must sum to size = 10"),
        ({"quotas": {"ease": 0, "als": 0}}, "at least one slot"),
        ({"method": "reciprocal-rank", "quotas": {"ease": 5, "als": 5}}, "quotas does nothing"),
        ({"weights": {"ease": 1.0}}, "weights does nothing with method = 'quotas'"),
        ({"fallback": ["ease", "als"]}, "names every channel"),
        ({"quotas": {"ease": 5, "als": 5}, "fallback": ["als"]}, "fallback, which has no slots"),
        ({"metod": "quotas"}, "no option 'metod'.*'method'"),
        ({"segments": [{"quotas": {"ease": 1}}]}, "needs history_below, or feature"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        Blend(channels("ease", "als"), **options)


def test_a_bundle_gives_the_same_answers_and_origins(blend, tmp_path):
    shortlist.save(blend, tmp_path / "b")
    loaded = shortlist.load(tmp_path / "b").retriever
    users = blend.data.users.ids[:30]
    a, b = blend.recommend(users, 10), loaded.recommend(users, 10)
    for name in ("rows", "scores", "by", "ranks", "fallback"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert a.channels == b.channels


def test_a_calibrated_blend_survives_a_bundle(split, tmp_path):
    blend = Blend(channels("ease", "als"), method="calibrated").fit(split)
    shortlist.save(blend, tmp_path / "b")
    loaded = shortlist.load(tmp_path / "b").retriever
    users = blend.data.users.ids[:30]
    assert (blend.recommend(users, 10).scores == loaded.recommend(users, 10).scores).all()


def test_reasons_carry_their_channel_and_sum_to_its_score(blend):
    user = blend.data.users.ids[4]
    item = blend.recommend([user], 1).ids[0]
    reasons = blend.explain([user], [item])
    for name in ("ease", "als"):
        channel = blend.channels[name]
        scored = channel.recommend([user], len(channel.candidate_rows()))
        score = dict(zip(scored.ids[0], scored.scores[0], strict=False))[item[0]]
        mine = reasons.filter(pl.col("channel") == name)["contribution"].sum()
        assert mine == pytest.approx(score, rel=1e-3, abs=1e-5)


def test_similar_items_come_from_a_channel_that_knows(blend):
    item = blend.data.items.ids[0]
    assert item not in blend.similar([item], 5).ids[0]
    popular = Popular().fit_data(blend.data)
    nobody = Blend({"one": popular, "two": popular}, quotas={"one": 1, "two": 1})
    nobody._adopt()
    with pytest.raises(QueryError, match="none of the channels"):
        nobody.similar([item], 5)


def test_a_plan_for_lists_that_could_hold_every_item_is_that_of_short_ones(split, caplog):
    made = channels("popular", "ease", "als")
    for channel in made.values():
        channel.fit(split)
    items = len(made["popular"].candidate_rows())
    found = plan(made, 2 * items)
    assert f"could hold all {items} items" in caplog.text
    assert sum(found.quotas.values()) == 2 * items
    short = plan(made, max(items // 10, 3))
    share = {name: quota / short.size for name, quota in short.quotas.items()}
    assert short.expected > short.equal  # else they are dealt alike
    assert found.quotas == pytest.approx({n: s * 2 * items for n, s in share.items()}, abs=1)
    twins = {name: Popular().fit(split) for name in "abc"}
    assert sorted(plan(twins, 2 * items).quotas.values())[0] > 0


def test_what_a_question_may_say_follows_from_the_channels_and_not_from_their_slots():
    """A retraining may leave a tower without slots: clients go on as before."""
    log = planted_world(users=40, items=40, events=400, seed=0).interactions
    log = log.with_columns(device=pl.Series(["tv", "phone"] * 200))
    features = (
        EventFeature("device", "categorical", known="before"),
        EventFeature("rating", "numeric", known="after"),
    )
    split = Dataset.load(
        log, schema=Schema(time="timestamp", time_unit="s", event_features=features)
    ).split()
    towers = TwoTower(
        dim=4,
        epochs=1,
        history="mean",
        request_time=True,
        context=["device"],
        history_features=["rating"],
    )
    for options in (
        {"quotas": {"towers": 0, "popular": 10}},
        {"quotas": {"popular": 10}, "fallback": ("towers",)},
    ):
        blend = Blend({"towers": towers, "popular": Popular()}, **options).fit(split)
        assert blend.reads_clock == towers.reads_clock is True
        assert blend.query_context == towers.query_context == {"device"}
        assert blend.history_features == towers.history_features == {"rating"}
        items = blend.data.items.ids.head(2).to_list()
        asked = Queries(
            histories=[items],
            times=[[10**9, 10**9 + 1]],
            time=10**9,
            context={"device": ["tv"]},
            event_features={"rating": [[1.0, 2.0]]},
        )
        assert blend.recommend(asked, 3).rows.shape == (1, 3)
