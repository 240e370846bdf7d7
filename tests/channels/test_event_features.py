"""Features of events: they decide in planted worlds, requests give them, none leaks."""

import numpy as np
import polars as pl
import pytest
import torch

from answers import assert_same_up_to_rounding
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.bundle.bundle import load, save
from shortlist.bundle.data_files import data_files
from shortlist.bundle.formats import dump_frame
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Schema
from shortlist.errors import BundleError, ModelError, QueryError
from shortlist.evaluation.evaluate import evaluate
from shortlist.towers import TOWERS

DEVICE = EventFeature("device", "categorical", known="before")
DWELL = EventFeature("dwell", "numeric", known="after")
KINDS = {"event": "event", "events": {"view": {"seen": False}, "buy": {"target": True}}}
GENRE = 10
"""Items of a genre."""

QUICK = {"dim": 16, "batch_size": 64, "learning_rate": 0.02, "dropout": 0.0, "epochs": 10}


def by_device(users=120, events=6, seed=0):
    """The device of the moment decides the genre, nine times of ten; users have no taste."""
    rng = np.random.default_rng(seed)
    device = rng.integers(3, size=(users, events))
    genre = np.where(rng.random(device.shape) < 0.9, device, rng.integers(3, size=device.shape))
    user, time = np.indices(device.shape)
    return pl.DataFrame(
        {
            "user_id": user.ravel(),
            "item_id": (genre * GENRE + rng.integers(GENRE, size=device.shape)).ravel(),
            "time": time.ravel(),
            "device": np.array(["tv", "phone", "desk"])[device.ravel()],
        }
    )


def by_dwell(users=120, blocks=5, seed=0):
    """Of five views one is long and the others are glances; its genre is that of the purchase."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(users):
        for block in range(blocks):
            long, start = rng.integers(5), 6 * block
            genres = rng.integers(5, size=6)
            genres[5] = genres[long]
            for view in range(6):
                dwell = rng.gamma(9, 20) if view == long else rng.gamma(2, 2)
                item = genres[view] * GENRE + rng.integers(GENRE)
                buys = view == 5
                kind, seconds = ("buy", None) if buys else ("view", dwell)
                rows.append((user, int(item), start + view, seconds, kind))
    names = ["user_id", "item_id", "time", "dwell", "event"]
    return pl.DataFrame(rows, schema=names, orient="row")


def split_of(log, *features, **schema):
    return Dataset.load(log, schema=Schema(time="time", event_features=features, **schema)).split()


@pytest.fixture(scope="module")
def devices():
    return split_of(by_device(), DEVICE)


@pytest.fixture(scope="module")
def trained(devices):
    return TwoTower(history="recency", **QUICK).fit(devices)


def genres(answer):
    return [[item // GENRE for item in items] for items in answer.ids]


def hits(retriever):
    """Recall at 10: a genre has so many items."""
    return evaluate(retriever, k=[10], exclude_seen=False).metrics["recall@10"].mean


def test_the_context_of_the_request_decides_where_it_decides_in_truth(devices, trained):
    blind = TwoTower(history="recency", context=[], history_features=[], **QUICK).fit(devices)
    assert hits(trained) > 0.8
    assert hits(blind) < 0.45  # by chance 1/3
    for device, genre in (("tv", 0), ("phone", 1), ("desk", 2)):
        answer = trained.recommend(Queries([5, 6], context={"device": [device, device]}), 5)
        assert genres(answer) == [[genre] * 5] * 2
        # Nothing else is known of a stranger, and that is enough.
        stranger = trained.recommend(Queries(histories=[[]], context={"device": [device]}), 5)
        assert genres(stranger) == [[genre] * 5]
        assert not stranger.fallback[0]


def test_dwell_time_tells_which_views_mattered():
    split = split_of(by_dwell(), DWELL, **KINDS)
    options = {**QUICK, "history": "recency", "history_length": 5, "epochs": 25}
    assert hits(TwoTower(**options).fit(split)) > 0.65
    assert hits(TwoTower(**options, history_features=[]).fit(split)) < 0.45  # by chance 0.2


@pytest.mark.parametrize("history", sorted(TOWERS))
def test_every_tower_reads_the_columns_of_the_events_it_keeps_and_no_others(history):
    split = split_of(by_dwell(users=6), DWELL, **KINDS)
    model = TwoTower(history=history, history_length=4, dim=8, dropout=0.0)
    model.set_data(split.training_data("train"))
    torch.nn.init.normal_(model.towers.query.past.top[-1].weight)  # as if it had learned something

    def vector(*dwell):
        asked = Queries(histories=[[1, 2, 3, 4, 5]], event_features={"dwell": [dwell]})
        return model.encode_users(asked)

    plain = vector(1.0, 1.0, 1.0, 1.0, 1.0)
    assert not torch.allclose(plain, vector(1.0, 1.0, 1.0, 1.0, 90.0))
    assert not torch.allclose(plain, vector(1.0, None, 1.0, 1.0, 1.0))
    assert torch.equal(plain, vector(None, 1.0, 1.0, 1.0, 1.0))  # four events are kept


def test_an_item_that_is_not_read_takes_its_columns_with_it():
    split = split_of(by_dwell(users=6), DWELL, **KINDS)
    model = TwoTower(history="attention", dim=8)
    model.set_data(split.training_data("train"))
    torch.nn.init.normal_(model.towers.query.past.top[-1].weight)
    whole = Queries(histories=[[3, 5]], event_features={"dwell": [[1.0, 60.0]]})
    more = Queries(histories=[[3, -1, 5]], event_features={"dwell": [[1.0, 9.0, 60.0]]})
    assert torch.equal(model.encode_users(whole), model.encode_users(more))


@pytest.mark.parametrize("history", sorted(TOWERS))
def test_training_begins_from_the_model_that_reads_no_columns(history):
    split = split_of(by_dwell(users=6), DWELL, **KINDS)
    pair = []
    for features in (["dwell"], []):
        model = TwoTower(history=history, history_features=features, dim=8)
        torch.manual_seed(0)
        model.set_data(split.training_data("train"))
        pair.append(model)
    weights = pair[1].towers.state_dict()
    pair[0].towers.load_state_dict(weights, strict=False)
    told, silent = (m.encode_users(Queries(histories=[[1, 2, 3]])) for m in pair)
    torch.testing.assert_close(told, silent)


def test_context_that_is_missing_or_never_seen_is_the_unknown_value(trained):
    users = [1, 2, 3]
    missing = trained.recommend(Queries(users), 5)
    for told in ([None] * 3, ["fridge"] * 3):
        again = trained.recommend(Queries(users, context={"device": told}), 5)
        assert again.ids == missing.ids
        assert (again.scores == missing.scores).all()


def test_an_answer_does_not_depend_on_what_others_tell(trained):
    devices = ["tv", None, "phone", "desk", "tv"]
    together = trained.recommend(Queries([1, 2, 3, 4, 5], context={"device": devices}), 5)
    for place, device in enumerate(devices):
        alone = trained.recommend(Queries([place + 1], context={"device": [device]}), 5)
        assert_same_up_to_rounding(
            (alone.ids, alone.scores), ([together.ids[place]], together.scores[place][None])
        )


def test_evaluation_asks_in_the_context_of_the_event_held_out(devices, trained):
    data = trained.data
    users = data.users.ids.to_list()
    last = by_device().group_by("user_id", maintain_order=True).last()
    device = dict(zip(last["user_id"], last["device"], strict=True))
    told = Queries(users, before="test", context={"device": [device[user] for user in users]})
    said = trained.recommend(told, 5)
    by_itself = trained.recommend(Queries(users, before="test"), 5)
    assert said.ids == by_itself.ids


def test_nothing_of_the_event_that_is_predicted_is_seen_but_what_is_known_before():
    log = by_dwell(users=20)
    last = pl.col("time") == pl.col("time").max().over("user_id")
    poisoned = log.with_columns(dwell=pl.when(last).then(1e6).otherwise("dwell"))
    answers = []
    for each in (log, poisoned):
        split = split_of(each, DWELL, **KINDS)
        model = TwoTower(history="attention", dim=8, epochs=1, seed=1).fit(split)
        answers.append(model.recommend(Queries([1, 2, 3], before="test"), 9))
    assert answers[0].ids == answers[1].ids
    assert (answers[0].scores == answers[1].scores).all()


# --- what is refused ------------------------------------------------------------------------------


def test_columns_of_polars_tell_what_lists_tell(trained):
    known = Queries([1, 2], context={"device": ["tv", None]})
    column = Queries([1, 2], context={"device": pl.Series(["tv", None])})
    assert trained.recommend(known, 5).ids == trained.recommend(column, 5).ids
    lists = [Queries(histories=[[3]], event_features={"device": d}) for d in ([["tv"]],)]
    lists.append(Queries(histories=[[3]], event_features={"device": [pl.Series(["tv"])]}))
    one, two = (trained.recommend(asked, 5) for asked in lists)
    assert one.ids == two.ids


def test_what_is_known_after_the_event_is_no_input_of_a_request(devices):
    split = split_of(by_dwell(users=6), DWELL, **KINDS)
    with pytest.raises(ModelError, match=r"model.context names 'dwell', which is known after"):
        TwoTower(context=["dwell"], epochs=1).fit(split)
    model = TwoTower(dim=8, epochs=1).fit(split)
    with pytest.raises(QueryError, match="context: 'dwell' is known after the event"):
        model.recommend(Queries([1], context={"dwell": [3.0]}))


def test_questions_that_tell_what_nobody_reads_are_refused(devices, trained):
    popular = Popular().fit(devices)
    for model, asked, message in (
        (trained, {"context": {"devise": ["tv"]}}, "no feature of events 'devise'.*device"),
        (trained, {"context": {"device": ["tv", "tv"]}}, "one value a query: 1 queries, 2"),
        (trained, {"context": {"device": "tv"}}, "must be a list"),
        (trained, {"context": ["tv"]}, "context must be a mapping"),
        (
            trained,
            {"context": {"device": [["tv"]]}},
            "context: device: expected one value and not a list",
        ),
        (
            popular,
            {"context": {"device": ["tv"]}},
            "does nothing for this retriever: it reads none",
        ),
        (trained, {"event_features": {"device": [["tv"]]}}, "recent or histories: give these"),
        (
            trained,
            {"recent": [[3]], "event_features": {"device": [["tv", "tv"]]}},
            r"event_features: device\[0\] needs one value for each of 1 events",
        ),
    ):
        with pytest.raises(QueryError, match=message):
            model.recommend(Queries([1], **asked))


def test_a_blend_reads_what_one_of_its_channels_reads(devices):
    blend = Blend({"towers": TwoTower(dim=8, epochs=1), "popular": Popular()}).fit(devices)
    assert blend.query_context == blend.history_features == {"device"}
    assert len(blend.recommend(Queries([1], context={"device": ["tv"]}), 3).ids[0]) == 3
    with pytest.raises(QueryError, match="no feature of events 'page'"):
        blend.recommend(Queries([1], context={"page": ["home"]}))


@pytest.mark.parametrize("option", ["context", "history_features"])
def test_retrievers_without_a_place_for_features_of_events_refuse_them(option, devices):
    for kind in (ItemToItem, UserToUser):
        with pytest.raises(ModelError, match=f"{option} does nothing with positives"):
            kind(**{option: ["device"]})
    with pytest.raises(ModelError, match=f"model.{option}: no feature of events 'page'"):
        TwoTower(**{option: ["page"]}).fit(devices)


def test_user_to_user_trains_on_a_log_with_features_of_events(devices):
    assert UserToUser(dim=8, epochs=1).fit(devices).recommend([1], 3).ids[0]


# --- bundles --------------------------------------------------------------------------------------


def test_a_bundle_keeps_the_columns_and_answers_the_same(trained, tmp_path):
    save(trained, tmp_path / "bundle")
    again = load(tmp_path / "bundle").retriever
    asked = Queries([1, 2], context={"device": ["tv", None]})
    one, two = trained.recommend(asked, 9), again.recommend(asked, 9)
    assert one.ids == two.ids
    assert (one.scores == two.scores).all()
    assert (again.data.log.columns["device"] == trained.data.log.columns["device"]).all()


def test_recent_events_may_tell_their_columns_and_kinds_and_are_unknown_without():
    split = split_of(
        by_dwell(users=6), DWELL, EventFeature("event", "categorical", known="after"), **KINDS
    )
    model = TwoTower(history="attention", dim=8, epochs=1).fit(split)
    torch.nn.init.normal_(model.towers.query.past.top[-1].weight)

    def vector(**told):
        return model.encode_users(Queries([1], recent=[[7]], **told))

    unknown = vector()
    assert torch.equal(unknown, vector(event_features={"dwell": [[None]]}))
    assert not torch.allclose(unknown, vector(event_features={"dwell": [[60.0]]}))
    assert torch.equal(unknown, vector(kinds=[["view"]]))  # what an event without a kind is
    assert not torch.allclose(unknown, vector(kinds=[["buy"]]))
    with pytest.raises(QueryError, match="'event' is the kind of the event: give it as kinds"):
        vector(event_features={"event": [["buy"]]})


def test_a_bundle_whose_columns_do_not_fit_is_refused(trained, tmp_path, monkeypatch):
    def of_another_log(data):
        files = data_files(data)
        column = pl.read_parquet(files["event_columns.parquet"])["device"]
        files["event_columns.parquet"] = dump_frame(pl.DataFrame({"device": column + 9}))
        return files

    monkeypatch.setattr("shortlist.bundle.bundle.data_files", of_another_log)
    save(trained, tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"event_columns.*'device' holds values that no encoder"):
        load(tmp_path / "bundle")
