"""A refresh: what it learns, what stays as it was, and what it refuses to publish."""

from collections import Counter
from threading import Event as Stop

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.answering import Answering
from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.bundle.bundle import load
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.renewal import renewed
from shortlist.data.schema import EventFeature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.data.updates import read_events
from shortlist.errors import DataError, ModelError, QueryError
from shortlist.histories.events import Event, Watermark, written_features
from shortlist.histories.sqlite import SQLiteEvents
from shortlist.runs.guard import judged
from shortlist.runs.refreshing import Plan, follow, newest, next_name, refresh
from shortlist.runs.whole import train
from shortlist.training.lesson import Lesson

TOWERS = "[model]\ndim = 8\n[training]\nepochs = 3\nbatch_size = 128\nlearning_rate = 0.01\n"
NEAR = "[channels.near]\nkind = 'item-cf'\n[training]\n"
SOON = Plan(least_users=20)


@pytest.fixture(scope="module")
def world():
    return planted_world(users=120, items=80, events=2_400, seed=3)


def parts_of(log, share=0.7):
    cut = int(len(log) * share)
    return log.head(cut), log.tail(len(log) - cut)


def recipe(folder, log, text, refit="all", data=""):
    folder.mkdir(exist_ok=True)
    log.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(
        f"[data]\ninteractions = '{folder}/log.csv'\ntime = 'timestamp'\n{data}\n{text}"
        f"refit = '{refit}'\n[evaluation]\nladder = false\n"
    )
    return folder / "recipe.toml"


def stored(path, events):
    """A store that holds these events."""
    store = SQLiteEvents(path)
    store.append(
        [[Event(user, item, None, time * 10**6)] for user, item, time in events.iter_rows()]
    )
    store.close()
    return path


def bare(events):
    return events.select("user_id", "item_id", "timestamp")


@pytest.fixture(scope="module")
def begun(world, tmp_path_factory):
    """Bundles from the first part of the log, by name; and a store of the rest."""
    folder = tmp_path_factory.mktemp("begun")
    old, new = parts_of(world.interactions)
    for name, text, refit in (
        ("near", NEAR, "all"),
        ("towers", TOWERS, "all"),
        ("measured", TOWERS, "none"),
    ):
        train(recipe(folder / name, old, text, refit), folder / name / "v1")
    stored(folder / "events.sqlite", bare(new))
    return folder


def test_a_refreshed_counting_bundle_is_what_a_whole_fit_gives(begun, world, tmp_path):
    made = refresh(begun / "near" / "v1", begun / "events.sqlite", tmp_path / "v2", plan=SOON)
    assert made.decision == "published", made.reason
    train(recipe(tmp_path / "whole", bare(world.interactions), NEAR), tmp_path / "whole" / "v1")
    ours, whole = (load(path).retriever for path in (tmp_path / "v2", tmp_path / "whole" / "v1"))
    users = whole.data.users.ids
    assert ours.data.users.ids.equals(users)
    found, wanted = ours.recommend(users, 10), whole.recommend(users, 10)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize(("name", "learned"), [("towers", True), ("measured", False)])
def test_what_was_held_out_is_learned_where_the_bundle_learns_all(begun, tmp_path, name, learned):
    made = refresh(begun / name / "v1", begun / "events.sqlite", tmp_path / "v2", plan=SOON)
    bundle = load(tmp_path / "v2")
    data = bundle.retriever.data
    assert (made.decision, made.learned_held_out) == ("published", learned)
    assert data.fit == ("all" if learned else "train")
    held = int((data.log.role == 2).sum())
    assert held == made.held_out == round(0.2 * made.events)
    assert len(data.training_log) == len(data.log) - (0 if learned else held)
    assert bundle.metrics["split"]["fit"] == "train"
    assert bundle.watermark == made.watermark == Watermark(made.watermark.store, 720)
    again = refresh(tmp_path / "v2", begun / "events.sqlite", tmp_path / "v3", plan=SOON)
    assert (again.decision, again.events) == ("nothing new", 0)
    assert not (tmp_path / "v3").exists()


def test_a_new_item_is_answered_and_unknown_to_the_old_bundle(begun, world, tmp_path):
    fan = world.interactions["user_id"].unique().sort().head(60)
    last = int(world.interactions["timestamp"].max())
    near = world.interactions.filter(pl.col("item_id") == 500_001)["user_id"].unique()
    fans = pl.concat([near, fan]).unique(maintain_order=True)
    came = pl.DataFrame(
        {"user_id": fans, "item_id": [777] * len(fans), "timestamp": np.arange(len(fans)) + last}
    )
    store = stored(tmp_path / "e.sqlite", came)
    for name in ("near", "towers"):
        made = refresh(begun / name / "v1", store, tmp_path / name, plan=Plan(least_users=5))
        assert made.decision == "published", made.reason
        assert made.vocabulary["items"]["came"] == 1
        assert made.drift.unknown["items"] == 1.0
        found = load(tmp_path / name).retriever
        row = found.data.items.rows([777])[0]
        others = found.data.users.ids.filter(~found.data.users.ids.is_in(fans.implode()))
        lists = found.recommend(others, 20).rows
        assert (lists == row).any(), name
        assert load(begun / name / "v1").retriever.data.items.rows([777])[0] == 0


def test_a_refresh_that_is_worse_is_refused_and_nothing_is_published(begun, world, tmp_path):
    """Bots that click at random for a day: neighbours of items become noise."""
    random = np.random.default_rng(0)
    _, new = parts_of(bare(world.interactions), 0.9)
    last = int(world.interactions["timestamp"].max())
    items = world.interactions["item_id"].unique().sort().to_numpy()
    bots = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(1, 301), 20),
            "item_id": random.choice(items, 6_000),
            "timestamp": last + random.integers(0, 1_000, 6_000),
        }
    )
    later = new.with_columns(pl.col("timestamp") - int(new["timestamp"].min()) + last + 1_000)
    store = stored(tmp_path / "e.sqlite", pl.concat([bots, later]))
    plan = Plan(hold_out=len(later) / (len(bots) + len(later)), least_users=20)
    made = refresh(begun / "near" / "v1", store, tmp_path / "v2", plan=plan)
    assert made.decision == "refused", made.comparison
    assert made.comparison.difference.high < 0
    assert not (tmp_path / "v2").exists()
    assert made.bundle is None


def test_with_too_few_users_nothing_is_decided(begun, tmp_path):
    many = Plan(least_users=10_000)
    made = refresh(begun / "near" / "v1", begun / "events.sqlite", tmp_path / "v2", plan=many)
    assert (made.decision, made.bundle) == ("not decided", None)
    assert "a comparison needs 10,000" in made.reason
    assert not (tmp_path / "v2").exists()


def test_towers_go_on_from_what_the_optimiser_remembers_of_this_very_bundle(begun, tmp_path):
    events = begun / "events.sqlite"
    first = refresh(begun / "towers" / "v1", events, tmp_path / "v2", plan=SOON)
    assert "started without its earlier state" in first.optimiser
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v2", "v2.training"]
    log = load(tmp_path / "v2").retriever.data
    more = pl.DataFrame(
        {
            "user_id": log.users.ids.head(60),
            "item_id": log.items.ids.gather(np.arange(60)),
            "timestamp": np.arange(60) + int(log.newest_time) + 1,
        }
    )
    later = stored(tmp_path / "later.sqlite", more)
    second = refresh(tmp_path / "v2", later, tmp_path / "v3", plan=Plan(least_users=5))
    assert second.optimiser.startswith("continued with its state in")
    # Of another bundle it is not used.
    other = refresh(
        *(begun / "towers" / "v1", events, tmp_path / "v4"),
        plan=SOON,
        training=tmp_path / "v2.training",
    )
    assert "started without its earlier state" in other.optimiser


def test_a_deleted_user_is_forgotten_and_their_later_events_are_their_first(begun, tmp_path):
    old = load(begun / "near" / "v1").retriever.data
    user, other = old.users.ids[0], old.users.ids[1]
    store = SQLiteEvents(tmp_path / "e.sqlite")
    moment = (int(old.newest_time) + 1) * 10**6
    store.append([[Event(u, old.items.ids[7], None, moment)] for u in old.users.ids[1:]])
    store.forget(user)
    store.forget(other)
    store.append([[Event(other, old.items.ids[5], None, moment)]])
    store.close()
    for name, before in (("v2", begun / "near" / "v1"), ("v3", tmp_path / "v2")):
        if name == "v3":  # more to learn, and the same users deleted
            store = SQLiteEvents(tmp_path / "e.sqlite")
            store.append(
                [[Event(u, old.items.ids[9], None, moment + 1)] for u in old.users.ids[9:]]
            )
            store.close()
        made = refresh(before, tmp_path / "e.sqlite", tmp_path / name, plan=Plan(least_users=5))
        assert made.decision == "published", made.reason
        data = load(tmp_path / name).retriever.data
        assert data.users.rows([user])[0] == 0
        mine = data.log.user == data.users.rows([other])[0]
        assert data.items.external(data.log.item[mine].astype(np.int64)).to_list() == [
            old.items.ids[5]
        ]


def test_who_wants_to_be_forgotten_does_not_wait_for_new_events(begun, tmp_path):
    for name in ("near", "measured"):
        first = load(begun / name / "v1")
        old = first.retriever.data
        user = old.users.ids[3]
        store = SQLiteEvents(tmp_path / f"{name}.sqlite")
        store.forget(user)
        store.close()
        made = refresh(begun / name / "v1", tmp_path / f"{name}.sqlite", tmp_path / name)
        assert (made.decision, made.deleted, made.events) == ("published", 1, 0)
        bundle = load(tmp_path / name)
        data = bundle.retriever.data
        assert (data.users.rows([user])[0], len(data.users)) == (0, len(old.users) - 1)
        assert (data.fit, bundle.metrics) == (old.fit, first.metrics)
        mine = old.log.user == old.users.rows([user])[0]
        roles = [np.bincount(log.role, minlength=3) for log in (old.log, data.log)]
        gone = np.bincount(old.log.role[mine], minlength=3)
        np.testing.assert_array_equal(roles[1], roles[0] - gone)
        again = refresh(tmp_path / name, tmp_path / f"{name}.sqlite", tmp_path / "no")
        assert again.decision == "nothing new"


def test_newer_tables_tell_the_features_of_new_items(world, tmp_path):
    old, new = parts_of(bare(world.interactions))
    late = [500_001, 500_002, 500_003]
    items = world.items.select("item_id", "studio", "title")
    items.filter(~pl.col("item_id").is_in(late)).write_csv(tmp_path / "items.csv")
    items.with_columns(studio=pl.lit("Another")).head(3).write_csv(tmp_path / "newer.csv")
    features = f"items = '{tmp_path}/items.csv'\n[features]\ntitle = 'title'\n"
    features += "[features.items]\nstudio = 'categorical'"
    log = old.filter(~pl.col("item_id").is_in(late))
    train(recipe(tmp_path / "r", log, TOWERS, data=features), tmp_path / "v1")
    store = stored(tmp_path / "e.sqlite", new)
    place = tmp_path / "v2"
    plan = Plan(least_users=10, items=tmp_path / "newer.csv")
    made = refresh(tmp_path / "v1", store, place, plan=plan)
    assert made.decision == "published", made.reason
    assert made.drift.unknown["values"] == {"item.studio": 1}
    data = load(place).retriever.data
    encoder = data.item_features.encoders["studio"]
    assert encoder.values[-1] == "Another"
    codes = data.item_features.columns["studio"][data.items.rows(late)]
    assert codes.tolist() == [len(encoder.values)] * 3
    assert data.titles(data.items.rows(late)) == items["title"].head(3).to_list()
    (tmp_path / "bad.csv").write_text("item_id,title\n1,x\n")
    with pytest.raises(DataError, match="studio"):
        refresh(tmp_path / "v1", store, tmp_path / "v3", plan=Plan(items=tmp_path / "bad.csv"))
    with pytest.raises(DataError, match="without a table of users"):
        refresh(tmp_path / "v1", store, tmp_path / "v3", plan=Plan(users=tmp_path / "newer.csv"))


def test_the_window_forgets_events_and_ids_and_files_stay_small(world, tmp_path):
    """Twenty days of a moving catalogue: what a bundle holds does not grow."""
    random = np.random.default_rng(1)
    day, users = 86_400, 60

    def events(number):
        count = 240
        return pl.DataFrame(
            {
                "user_id": random.integers(1, users, count) + 10 * number,
                "item_id": random.integers(1, 50, count) + 5 * number,
                "timestamp": number * day + np.sort(random.integers(0, day, count)),
            }
        )

    start = pl.concat([events(number) for number in range(4)]).unique(maintain_order=True)
    train(recipe(tmp_path / "r", start, TOWERS, data="time_unit = 's'"), tmp_path / "v0")
    rows, sizes = [], []
    for number in range(4, 24):
        new = events(number)
        new.write_parquet(tmp_path / "new.parquet")
        made = refresh(
            *(tmp_path / f"v{number - 4}", tmp_path / "new.parquet", tmp_path / f"v{number - 3}"),
            plan=Plan(least_users=5, window="4d", epochs=1, hold_out=0.1),
            training=tmp_path / "kept",
        )
        assert made.decision == "published", (number, made.comparison)
        folder = tmp_path / f"v{number - 3}"
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
        kept = [path for path in (tmp_path / "kept").iterdir()]
        sizes[-1] += sum(path.stat().st_size for path in kept)
        assert len(kept) == 2
        data = load(folder).retriever.data
        rows.append((len(data.log), len(data.users), len(data.items)))
        assert data.log.time.max() - data.log.time.min() <= 4 * day
    first, last = np.array(rows[3:8]).mean(axis=0), np.array(rows[-5:]).mean(axis=0)
    assert (last <= first * 1.05).all(), (first, last)
    assert max(sizes[3:]) <= 1.1 * min(sizes[3:])


def test_an_item_is_learned_from_so_many_events_on(begun, world, tmp_path):
    last = int(world.interactions["timestamp"].max())
    users = world.interactions["user_id"].unique().sort()
    rare = pl.DataFrame(
        {"user_id": users[:2], "item_id": [888, 888], "timestamp": [last - 5, last - 4]}
    ).cast(bare(world.interactions).schema)
    _, new = parts_of(bare(world.interactions))
    store = stored(tmp_path / "e.sqlite", pl.concat([new, rare]))
    for admit, learned in ((3, False), (2, True)):
        place = tmp_path / f"admit-{admit}"
        plan = Plan(least_users=20, admit=admit)
        assert refresh(begun / "towers" / "v1", store, place, plan=plan).decision == "published"
        retriever = load(place).retriever
        row = retriever.data.items.rows([888])[0]
        assert row > 0
        assert (row <= retriever.data.items.trained) == learned
        assert (row in retriever.candidate_rows()) == learned
        history = Queries(histories=[[888], retriever.data.items.ids[:3].to_list()])
        assert retriever.recommend(history, 5).fallback.tolist() == [not learned, False]


SORTS = {
    "min_weight": ("weight = 'rating'\nmin_weight = 3", NEAR),
    "kinds": ("event = 'what'\n[data.events.buy]\ntarget = true\n[data.events.view]", NEAR),
    "lines": ("order = 'file'", NEAR),
    "no order": ("", NEAR),
    "columns of events": (
        "time = 'timestamp'\n[features.events.device]\nkind = 'categorical'\nknown = 'before'",
        TOWERS.replace("epochs = 3", "epochs = 1"),
    ),
}


@pytest.mark.parametrize("sort", SORTS)
def test_a_store_is_learned_into_a_log_of_any_sort_once(world, tmp_path, sort):
    random, log = np.random.default_rng(0), world.interactions
    log = log.with_columns(
        what=pl.Series(random.choice(["view", "buy"], len(log))),
        device=pl.Series(random.choice(["tv", "phone"], len(log))),
    )
    old, new = parts_of(log)
    old.write_csv(tmp_path / "log.csv")
    data, text = SORTS[sort]
    if sort in ("min_weight", "kinds"):
        data = f"time = 'timestamp'\n{data}"
    split = "[split]\nkind = 'random'\n" if sort == "no order" else ""
    (tmp_path / "recipe.toml").write_text(
        f"[data]\ninteractions = '{tmp_path}/log.csv'\n{data}\n{split}"
        f"[evaluation]\nladder = false\n{text}"
    )
    train(tmp_path / "recipe.toml", tmp_path / "v1")
    before = load(tmp_path / "v1").retriever.data
    store = SQLiteEvents(tmp_path / "e.sqlite")
    columns = new.select("user_id", "item_id", "what", "timestamp", "rating", "device")
    for user, item, kind, time, weight, device in columns.iter_rows():
        features = written_features({"device": device})
        store.append([[Event(user, item, kind, time * 10**6, float(weight), features)]])
    store.close()
    made = refresh(tmp_path / "v1", tmp_path / "e.sqlite", tmp_path / "v2", plan=SOON)
    assert made.decision == "published", made.reason
    after = load(tmp_path / "v2").retriever.data
    met = 0 if before.met is None else len(after.met) - len(before.met)
    assert (made.events + met, len(after.log) - len(before.log)) == (len(new), made.events)
    if sort == "columns of events":
        devices = after.event_features.told("device", after.log.columns["device"])
        assert Counter(devices) == Counter(log["device"])
    again = refresh(tmp_path / "v2", tmp_path / "e.sqlite", tmp_path / "v3", plan=SOON)
    assert again.decision == "nothing new"


def test_a_log_with_sessions_takes_events_that_have_none(world, tmp_path):
    """They join the session of their user that is running, or begin another."""
    old, new = parts_of(bare(world.interactions), 0.95)
    named = old.with_columns(session=pl.col("timestamp") // 10**6)
    text = TOWERS.replace("[training]", "[training]\npositives = 'i2i'")
    made = recipe(tmp_path / "r", named, text, data="session = 'session'\ntime_unit = 's'")
    train(made, tmp_path / "v1")
    before = load(tmp_path / "v1").retriever.data
    user, last = new["user_id"][0], before.log.time
    mine = before.log.user == before.users.rows([user])[0]
    soon = pl.DataFrame(
        {
            "user_id": [user, user],
            "item_id": new["item_id"][:2],
            "timestamp": [int(last[mine].max()) + 60, int(last[mine].max()) + 10_000],
        }
    )
    store = stored(tmp_path / "e.sqlite", pl.concat([new.tail(100), soon]))
    plan = Plan(least_users=5, hold_out=0.5)
    assert refresh(tmp_path / "v1", store, tmp_path / "v2", plan=plan).decision == "published"
    after = load(tmp_path / "v2").retriever.data
    mine = np.flatnonzero(after.log.user == after.users.rows([user])[0])
    session = dict(
        zip(after.log.time[mine].tolist(), after.log.session[mine].tolist(), strict=True)
    )
    begins = int(soon["timestamp"][0]) - 60
    assert session[begins] == session[begins + 60] != session[begins + 10_000]
    assert session[begins + 10_000] > before.log.session.max()


def test_what_cannot_be_asked_for_is_said(begun, tmp_path):
    near, events = begun / "near" / "v1", begun / "events.sqlite"
    with pytest.raises(QueryError, match="neither a store of events nor a file"):
        refresh(near, tmp_path / "none", tmp_path / "v2")
    with pytest.raises(QueryError, match="hold_out must be a share"):
        refresh(near, events, tmp_path / "v2", plan=Plan(hold_out=1.0))
    with pytest.raises(ModelError, match="take a longer window"):
        refresh(near, events, tmp_path / "v2", plan=Plan(window=0.5, hold_out=0.99))
    (tmp_path / "e.csv").write_text("user_id,thing\n1,2\n")
    with pytest.raises(DataError, match="item_id"):
        refresh(near, tmp_path / "e.csv", tmp_path / "v2")


def test_a_process_publishes_into_a_folder_until_it_is_stopped(begun, world, tmp_path):
    folder = tmp_path / "live"
    folder.mkdir()
    stop, told, failed = Stop(), [], []

    def after(made):
        told.append((made.decision, made.path and made.path.name))
        if len(told) == 2:
            stop.set()

    follow(
        *(begun / "near" / "v1", begun / "events.sqlite", folder, 0.01),
        told=after,
        failed=failed.append,
        stop=stop,
        plan=SOON,
    )
    assert told == [("published", "v1-r1"), ("nothing new", None)]
    assert not failed
    assert newest(folder).name == "v1-r1"
    assert [path.name for path in folder.iterdir()] == ["v1-r1"]
    assert [next_name(name) for name in ("v1-r9", "v2")] == ["v1-r10", "v2-r1"]


def test_a_process_goes_on_after_what_cannot_be_done(begun, tmp_path):
    stop, failed = Stop(), []

    def after(error):
        failed.append(error)
        if len(failed) == 2:
            stop.set()

    follow(
        *(begun / "near" / "v1", tmp_path / "not yet", tmp_path, 0.01),
        told=lambda made: None,
        failed=after,
        stop=stop,
    )
    assert "neither a store of events" in str(failed[0])


def test_the_guard_asks_both_models_with_the_same_events_in_the_same_moment(world, monkeypatch):
    """One is told them, the other finds them in its log; then both read the same numbers."""
    random = np.random.default_rng(0)
    log = world.interactions.with_columns(
        what=pl.Series(random.choice(["view", "buy"], 2_400)),
        device=pl.Series(random.choice(["tv", "phone", None], 2_400)),
        dwell=pl.Series(random.gamma(2, 30, 2_400)),
    )
    features = (
        EventFeature("device", "categorical", known="before"),
        EventFeature("dwell", "numeric", known="after"),
    )
    schema = Schema(
        **{"event": "what", "events": {"view": {}, "buy": {"target": True}}},
        **{"time": "timestamp", "time_unit": "s", "weight": "rating"},
        event_features=(*features, EventFeature("what", "categorical", known="before")),
    )
    old, new = parts_of(log)
    tiny = {"dim": 4, "epochs": 1, "history": "recency", "request_time": True}
    split = Dataset.load(old, schema=schema).split()
    asked = {}

    def kept(self, queries, k):
        (asked[self],) = row_blocks(queries, self.data, timed=True)
        return recommend(self, queries, k)

    recommend = Answering.recommend
    monkeypatch.setattr(Answering, "recommend", kept)
    lists = ItemCF(values="explicit").fit(split, "all")
    towers = TwoTower(**tiny).fit(split, "all")
    read = {lists: ("weight", "kind"), towers: ("time", "kind", "asked")}
    for running, names in read.items():
        told = read_events(running.data, new, schema, learns=True)
        came = renewed(running.data, told, held_out=0.2)
        refreshed = running.refreshed(came.data, Lesson(np.zeros(len(came.data.log), dtype=bool)))
        judged(running, refreshed, came, depths=[5])
        theirs, ours = asked[running], asked[refreshed]
        items = [a.data.items.external(asked[a].history.values) for a in (running, refreshed)]
        assert items[0].equals(items[1])
        for name in names:
            torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), msg=name)
    assert set(theirs.context) == {"device", "what"}
    assert set(theirs.columns) == {"device", "what", "dwell"}
    for found, wanted in ((theirs.context, ours.context), (theirs.columns, ours.columns)):
        torch.testing.assert_close(found, wanted, equal_nan=True)
