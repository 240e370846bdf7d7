"""Refreshes with nothing to learn, of other indexes, without a log, with sessions, new items."""

import numpy as np
import polars as pl
import pytest

from shortlist.bundle.bundle import load, save
from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.data.updates import SESSION_GAP
from shortlist.durations import in_units
from shortlist.errors import DataError, ModelError, QueryError
from shortlist.histories.events import Event, Row, Watermark
from shortlist.histories.export import MARK, LogWriter
from shortlist.histories.sqlite import SQLiteEvents
from shortlist.index import build_index
from shortlist.runs.refreshing import Plan, refresh
from shortlist.runs.whole import train

TOWERS = "[model]\ndim = 8\n[training]\nepochs = 1\nbatch_size = 128\nrefit = 'all'\n"
NEAR = "[channels.near]\nkind = 'item-cf'\n[training]\nrefit = 'all'\n"
SOON = Plan(least_users=5)


@pytest.fixture(scope="module")
def world():
    return planted_world(users=60, items=80, events=1_200, seed=3)


def trained(folder, log, text, data=""):
    folder.mkdir(parents=True, exist_ok=True)
    log.write_parquet(folder / "log.parquet")
    (folder / "recipe.toml").write_text(
        f"[data]\ninteractions = '{folder}/log.parquet'\ntime = 'timestamp'\n"
        f"time_unit = 's'\n{data}\n{text}[evaluation]\nladder = false\n"
    )
    train(folder / "recipe.toml", folder / "v1")
    return folder / "v1"


def written(path, events):
    events.write_parquet(path)
    return path


def bare(world):
    return world.interactions.select("user_id", "item_id", "timestamp")


def after(log, count, apart=86_400 * 40):
    """One event of each of some users, long after the log."""
    users = log["user_id"].unique().sort().head(count)
    last = int(log["timestamp"].max())
    items = log["item_id"].unique().sort().gather(np.arange(count) % 7)
    times = [last + apart + number for number in range(count)]
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times})


def test_pairs_of_items_that_do_not_come_are_no_error_and_wait(world, tmp_path):
    log = bare(world)
    pairs = TOWERS + "positives = 'i2i'\nsession_gap = '30d'\n"
    bundle = trained(tmp_path / "alone", log, pairs)
    file = written(tmp_path / "new.parquet", after(log, 30))
    plan = Plan(least_users=5, replay=0)
    made = refresh(bundle, file, tmp_path / "v2", plan=plan)
    assert made.decision == "not decided"
    assert "no session of the training rows holds two items" in made.reason
    assert "wait for the next refresh" in made.reason
    assert not (tmp_path / "v2").exists()
    both = "[channels.near]\nkind = 'item-cf'\n[channels.pairs]\nkind = 'item-to-item'\n"
    both += "[blend]\nmethod = 'reciprocal-rank'\n" + TOWERS
    log = log.with_columns(visit=pl.col("timestamp") // (30 * 86_400))
    bundle = trained(tmp_path / "blend", log, both, "session = 'visit'")
    alone = after(log, 30).with_columns(visit=pl.col("timestamp"))
    made = refresh(*(bundle, written(tmp_path / "more.parquet", alone), tmp_path / "v3"), plan=plan)
    assert made.decision == "published"
    assert any("the channel pairs has learned nothing" in line for line in made.warnings)
    weights = [load(path).retriever.channels["pairs"].towers for path in (bundle, made.path)]
    old, new = (towers.state_dict()["id.weight"] for towers in weights)
    assert (old == new).all()


def test_events_of_which_none_is_a_target_say_so(world, tmp_path):
    log = bare(world).with_columns(what=pl.Series(["buy", "view"] * 600))
    kinds = "event = 'what'\n[data.events.buy]\ntarget = true\n[data.events.view]\n"
    bundle = trained(tmp_path / "kinds", log, NEAR, kinds)
    views = after(log, 20).with_columns(what=pl.lit("view"))
    made = refresh(bundle, written(tmp_path / "new.parquet", views), tmp_path / "v2", plan=SOON)
    assert made.decision == "not decided"
    assert "none of the 20 new events is of a kind that is a target (buy)" in made.reason
    one = views.head(1).with_columns(what=pl.lit("buy"))
    made = refresh(bundle, written(tmp_path / "one.parquet", one), tmp_path / "v2", plan=SOON)
    assert "1 new events can be learned, and a comparison needs at least two" in made.reason


@pytest.mark.parametrize(
    ("kind", "settings"), [("faiss-hnsw", {"m": 8}), ("faiss-ivf", {"nlist": 4}), ("exact", {})]
)
def test_a_bundle_with_another_index_keeps_its_kind_and_settings(world, tmp_path, kind, settings):
    log = bare(world)
    bundle = trained(tmp_path / "exact", log, TOWERS)
    retriever = load(bundle).retriever
    if kind != "exact":
        index = build_index(kind, retriever.similarity, **settings)
        retriever.use_index(index.build(*retriever.placed_vectors()))
    save(retriever, tmp_path / "v1", recipe=load(bundle).recipe)
    new = after(log, 40).with_columns(pl.lit(999_999).alias("item_id"))
    made = refresh(
        *(tmp_path / "v1", written(tmp_path / "new.parquet", new), tmp_path / "v2"),
        plan=Plan(least_users=2, hold_out=0.1),
    )
    assert made.decision == "published", made.reason
    found = load(tmp_path / "v2").retriever
    assert type(found.index) is type(load(tmp_path / "v1").retriever.index)
    assert len(found.index) == len(retriever.index) + 1
    if settings:
        assert settings.items() <= dict(found.index.settings()).items()
    asked = found.recommend(found.data.users.ids, 10)
    exact = found.use_exact_index().recommend(found.data.users.ids, 10)
    same = [len(set(a) & set(b)) for a, b in zip(asked.ids, exact.ids, strict=True)]
    assert sum(same) > 0.7 * 10 * len(same)


def test_a_bundle_without_its_log_is_refused_before_any_event_is_read(world, tmp_path):
    bundle = trained(tmp_path / "whole", bare(world), TOWERS)
    loaded = load(bundle)
    save(loaded.retriever, tmp_path / "bare", recipe=loaded.recipe, log=False)
    with pytest.raises(ModelError, match="needs the log, and this bundle was saved without it"):
        refresh(tmp_path / "bare", tmp_path / "never read", tmp_path / "v2")


def test_an_export_has_sessions_and_train_reads_it_beside_the_log(world, tmp_path):
    log = bare(world).with_columns(visit=pl.col("timestamp") // 86_400)
    schema = Schema(time="timestamp", time_unit="s", session="visit")
    data = Dataset.load(log, schema=schema).split().training_data("all")
    gap = int(in_units(SESSION_GAP, "us"))
    moment = (int(log["timestamp"].max()) + 9_000) * 10**6
    moments = [0, gap, 2 * gap + 10**6, 5 * gap]
    rows = [
        Row(10_001, n + 1, 500_001 + n, None, None, None, moment + m, 0)
        for n, m in enumerate(moments)
    ]
    rows.insert(2, Row(10_002, 9, 500_004, None, None, None, moment + gap + 1, 0))
    writer = LogWriter(schema, data, kinds=False)
    frame = pl.concat([writer.frame(rows[:2]), writer.frame(rows[2:])])
    assert frame["visit"].to_list() == [-1, -1, -9, -3, -4]
    frame.write_parquet(tmp_path / "export.parquet")
    for name, write in (("log.csv", log.write_csv), ("log.parquet", log.write_parquet)):
        write(tmp_path / name)
        both = Dataset.load([tmp_path / name, tmp_path / "export.parquet"], schema=schema)
        assert len(both.log) == len(log) + len(frame)
        assert len(np.unique(both.log.session)) == log["visit"].n_unique() + 4


def test_an_old_log_whose_kinds_are_ranges_learns_what_is_stored_today(world, tmp_path):
    log = bare(world).with_columns(
        pl.col("timestamp") - 25 * 365 * 86_400,
        rating=pl.Series(np.arange(len(world.interactions)) % 5 + 1, dtype=pl.Int8),
        more=pl.lit("which no recipe names"),
    )
    kinds = "event = 'rating'\n[data.events.'4..']\ntarget = true\n[data.events.'..4']\n"
    bundle = trained(tmp_path, log, NEAR, kinds)
    users = log["user_id"].unique().sort().to_list()
    kind_of = {user: "4.." if n % 2 else "..4" for n, user in enumerate(users)}
    store = SQLiteEvents(tmp_path / "e.sqlite")
    items = log["item_id"].unique().sort().to_list()
    store.append(
        [[Event(u, i, kind_of[u]) for i in items[n % 9 :][:3]] for n, u in enumerate(users)]
    )
    store.close()
    made = refresh(bundle, tmp_path / "e.sqlite", tmp_path / "v2", plan=SOON)
    assert made.decision == "published", made.reason

    from typer.testing import CliRunner

    from shortlist.cli.app import app

    run = ("events", "export", str(tmp_path / "e.sqlite"), "--bundle", str(bundle))
    said = CliRunner().invoke(app, [*run, "--out", str(tmp_path / "new.parquet")])
    assert said.exit_code == 0, said.output
    written = pl.read_parquet(tmp_path / "new.parquet")
    assert written.filter(rating=4)["user_id"].to_list() == [
        user for user in written["user_id"] if kind_of[user] == "4.."
    ]
    new, v3 = str(tmp_path / "new.parquet"), str(tmp_path / "v3")
    said = CliRunner().invoke(app, ["update", str(bundle), "--events", new, "--out", v3])
    assert said.exit_code == 0, said.output
    # Beside the log, which has a column more.
    recipe = (tmp_path / "recipe.toml").read_text()
    files = f"['{tmp_path}/log.parquet', '{new}']"
    (tmp_path / "both.toml").write_text(recipe.replace(f"'{tmp_path}/log.parquet'", files))
    train(tmp_path / "both.toml", tmp_path / "v4")
    ends = [load(tmp_path / name).retriever.data.log for name in ("v2", "v3", "v4")]
    assert [len(one) for one in ends] == [len(ends[0])] * 3
    assert len(ends[0]) > len(load(bundle).retriever.data.log)


def test_whole_numbers_that_a_log_has_as_categories_and_kinds_come_beside_an_export(
    world, tmp_path
):
    random = np.random.default_rng(0)
    log = bare(world).with_columns(
        slot=pl.Series(random.integers(0, 3, len(world.interactions)), dtype=pl.Int8),
        what=pl.Series(random.integers(0, 2, len(world.interactions))),
    )
    schema = Schema(
        time="timestamp",
        time_unit="s",
        event="what",
        events={"0": {"target": True}, "1": {}},
        event_features=(EventFeature("slot", "categorical", known="before"),),
    )
    log.write_parquet(tmp_path / "log.parquet")
    alone = Dataset.load(tmp_path / "log.parquet", schema=schema)
    data = alone.split().training_data("all")
    moment = (int(log["timestamp"].max()) + 9_000) * 10**6
    row = Row(10_001, 1, 500_001, "1", None, None, moment, 0, '{"slot":"2"}')
    frame = LogWriter(schema, data, kinds=False).frame([row])
    frame.write_parquet(tmp_path / "new.parquet", metadata={MARK: "00c0ffee00c0ffee:1 since 0"})
    both = Dataset.load([tmp_path / "log.parquet", tmp_path / "new.parquet"], schema=schema)
    slots = both.log.columns["slot"]
    assert len(both.log) == len(alone.log) + 1
    assert slots[both.log.time.argmax()] in slots[: len(alone.log)]


def test_an_export_tells_kinds_by_the_weight_where_one_column_is_both(world):
    log = bare(world).with_columns(rating=pl.Series(np.arange(len(world.interactions)) % 5 + 1))
    events = {"4..": {"target": True}, "..4": {}}
    schema = Schema(time="timestamp", weight="rating", event="rating", events=events)
    data = Dataset.load(log, schema=schema).split().training_data("all")
    rows = [
        Row(10_001, n, 500_001 + n, kind, None, weight, 10**15, 0)
        for n, (kind, weight) in enumerate([("4..", None), ("..4", None), (None, None), ("4..", 5)])
    ]
    frame = LogWriter(schema, data, kinds=False).frame(rows)
    assert frame["rating"].to_list() == [4.0, 3.0, 3.0, 5.0]


def table_of(world, price):
    return world.items.select("item_id", "title").with_columns(price=pl.lit(price))


def test_a_newer_table_of_items_says_which_changes_it_has_or_gets_all_again(world, tmp_path):
    table_of(world, 1.0).write_csv(tmp_path / "items.csv")
    bundle = trained(
        *(tmp_path / "priced", bare(world), NEAR),
        f"items = '{tmp_path}/items.csv'\n[features]\ntitle = 'title'",
    )
    loaded, first, later = load(bundle), Watermark("ab" * 8, 3), Watermark("ab" * 8, 7)
    save(loaded.retriever, tmp_path / "v1", recipe=loaded.recipe, items_watermark=first)
    events = written(tmp_path / "new.parquet", after(bare(world), 30))
    table_of(world, 2.0).write_csv(tmp_path / "newer.csv")
    table_of(world, 2.0).head(10).write_csv(tmp_path / "part.csv")

    def made(name, items=None, mark=None):
        plan = Plan(least_users=5, items=None if items is None else tmp_path / items)
        return refresh(*(tmp_path / "v1", events, tmp_path / name), plan=plan, items_watermark=mark)

    assert made("same").decision == "published"
    assert load(tmp_path / "same").items_watermark == first
    assert made("known", "newer.csv", later).decision == "published"
    assert load(tmp_path / "known").items_watermark == later
    unsaid = made("unsaid", "part.csv")
    assert load(tmp_path / "unsaid").items_watermark is None  # a service makes all of them again
    assert any("--items-watermark" in line for line in unsaid.warnings)
    with pytest.raises(DataError, match="70 of 80 items of the bundle's table are not in it"):
        made("lost", "part.csv", later)
    with pytest.raises(QueryError, match="give the table as well"):
        made("lost", None, later)
    assert not (tmp_path / "lost").exists()
    store = SQLiteEvents(tmp_path / "none.sqlite")
    store.close()
    nothing = refresh(
        *(tmp_path / "v1", tmp_path / "none.sqlite", tmp_path / "lost"),
        plan=Plan(items=tmp_path / "newer.csv"),
    )
    assert nothing.decision == "nothing new"
    assert "newer tables will be read with the next events" in nothing.reason
