"""A job gives what one machine gives, bit for bit, in any parts and any order of rows."""

import json
import os
import shutil
import signal
from contextlib import ExitStack
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.worlds import AnyOrder, close_engines, job_of, recipe_of, same_split, world
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import DataError, JobError, ModelError, QueryError, SplitError
from shortlist.jobs.engine import blocks_of
from shortlist.jobs.local import THREADS, Local, bucket_of, files_in
from shortlist.jobs.neighbours import dealt
from shortlist.jobs.stages import SUCCESS, Stages
from shortlist.jobs.steps import Job
from shortlist.runs import pipeline
from shortlist.runs.whole import train

pytestmark = pytest.mark.usefixtures("slices")


SPLITS = {
    "the last event": {},
    "a quantile of the times": {"split": {"kind": "global-time", "at": 0.83}},
    "a moment": {"split": {"kind": "global-time", "at": 1_600_000_100}},
    "a share of each user": {"split": {"kind": "random", "at": 0.6, "seed": 5}},
    "ties as the file has them": {"data": {"tie": "file"}},
    "the order of the lines": {"data": {"time": None, "order": "file"}},
    "no order": {"data": {"time": None}},
    "met below a weight": {"data": {"weight": "w", "min_weight": 1.5}},
    "met, at random": {
        "data": {"weight": "w", "min_weight": 1.5},
        "split": {"kind": "random", "seed": 2},
    },
    "some items": {"split": {"kind": "cold-items", "at": 0.6, "seed": 4}},
    "the newest items": {"split": {"kind": "cold-items", "items": "newest", "at": 0.7}},
    "met, the newest items": {
        "data": {"weight": "w", "min_weight": 1.5},
        "split": {"kind": "cold-items", "items": "newest"},
    },
    "met, at a moment": {
        "data": {"weight": "w", "min_weight": 1.5},
        "split": {"kind": "global-time", "at": 0.7},
    },
}


@pytest.mark.parametrize("case", SPLITS)
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "texts"])
def test_a_log_prepared_in_parts_is_that_of_one_machine(case, text, tmp_path):
    world(tmp_path, 3, text=text)
    for parts in (1, 7):
        recipe = recipe_of(tmp_path, **SPLITS[case])
        same_split(job_of(recipe, tmp_path / f"work-{parts}", parts, seed=parts), recipe)


@pytest.mark.parametrize("named", [["train", "test"], ["train", "valid", "test"]])
def test_a_split_by_a_column_draws_validation_rows_where_the_whole_log_names_none(named, tmp_path):
    frame = world(tmp_path, 4)
    log = tmp_path / "log"
    shutil.rmtree(log)
    log.mkdir()
    # Only the latest events are validation rows, so most parts cannot tell alone.
    late = [named[0]] * 80 + named[1:] * 20
    rank = (
        (pl.col("t") - pl.col("t").min())
        * (len(late) - 1)
        // (pl.col("t").max() - pl.col("t").min())
    )
    names = frame.select(rank.alias("rank"))["rank"].to_list()
    frame.with_columns(s=pl.Series([late[at] for at in names])).write_parquet(log / "0.parquet")
    recipe = recipe_of(tmp_path, split={"column": "s", "seed": 3})
    same_split(job_of(recipe, tmp_path / "work", 60), recipe)


def test_rows_that_differ_only_in_split_or_session_stand_as_in_the_file(tmp_path):
    frame = pl.concat([world(tmp_path, 57, files=1)] * 2)
    rng = np.random.default_rng(57)
    frame = frame.with_columns(
        split=pl.Series(rng.choice(["train", "valid", "test"], frame.height)),
        s=pl.Series(rng.integers(0, 3, frame.height)),
    )
    frame.write_parquet(tmp_path / "log" / "0.parquet", row_group_size=50)
    near = {"channels": {"near": {"kind": "item-to-item"}}}
    for name, recipe in {
        "split": recipe_of(tmp_path, split={"column": "split"}),
        "session": recipe_of(tmp_path, data={"session": "s"}, **near),
    }.items():
        folder = tmp_path / name
        same_split(Job(recipe, folder, AnyOrder(folder, 3, seed=1)), recipe)


def test_a_text_log_and_a_table_whose_ids_are_text_are_joined_as_by_one_machine(tmp_path):
    frame = world(tmp_path, 5)
    frame.write_csv(tmp_path / "log.csv")
    items = pl.DataFrame({"i": ["1", "4", "x9"], "title": ["a", "b", "c"]})
    items.write_parquet(tmp_path / "items.parquet")
    keys = {"interactions": "log.csv", "items": "items.parquet"}
    recipe = recipe_of(tmp_path, data=keys, features={"title": "title"})
    same_split(job_of(recipe, tmp_path / "work"), recipe)


CHANNELS = [
    {},
    {"most_items": 4},
    {"similarity": "jaccard", "user_weighting": "iuf"},
    {"similarity": "conditional", "alpha": 0.3, "shrinkage": 2.0},
    {"similarity": "dot", "user_weighting": "inverse", "time_decay": 40.0},
    {"values": "explicit", "most_items": 5},
    {"item_weighting": "tf-idf"},
    {"item_weighting": "bm25", "similarity": "dot", "values": "explicit"},
    {"similarity": "swing", "swing_users": 4},
]


@pytest.mark.parametrize("options", CHANNELS, ids=lambda options: "-".join(options) or "cosine")
def test_neighbours_in_blocks_are_those_of_one_machine_to_the_float_bits(options, tmp_path):
    explicit = options.get("values") == "explicit"
    world(tmp_path, 6, text=explicit)
    recipe = recipe_of(tmp_path, options, data={"weight": "w"} if explicit else None)
    data = pipeline.load_split(recipe).training_data()
    wanted = ItemCF(neighbours=6, **options).fit_data(data).neighbours
    for parts, blocks in ((1, 1), (4, 3), (7, 12)):
        job = job_of(recipe, tmp_path / f"work-{parts}", parts, seed=parts, blocks=blocks)
        job.item_cf()
        found = job.neighbours("cf", "train", data.items.trained)
        for name in ("start", "ids", "scores"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(wanted.ids)


@pytest.mark.parametrize("liked", [2, 0], ids=["most parts", "all parts"])
def test_parts_in_which_every_weight_is_0_are_refused_only_where_all_are(liked, tmp_path):
    frame = world(tmp_path, 6, users=6)
    for file in (tmp_path / "log").iterdir():
        zero = pl.when(pl.col("u") < liked).then("w").otherwise(0.0)
        pl.read_parquet(file).with_columns(w=zero).write_parquet(file)
    assert frame["u"].n_unique() == 8
    options = {"values": "explicit"}
    recipe = recipe_of(tmp_path, options, data={"weight": "w"})
    data = pipeline.load_split(recipe).training_data()
    job = job_of(recipe, tmp_path / "work", 7)
    channels = {"uf": {"kind": "user-cf", **options}}
    users = job_of(
        recipe_of(tmp_path, channels=channels, data={"weight": "w"}), tmp_path / "users", 7
    )
    if not liked:
        for refused in (lambda: ItemCF(**options).fit_data(data), job.item_cf, users.user_cf):
            with pytest.raises(ModelError, match=r"data\.weight, which is 0 in all"):
                refused()
        return
    users.user_cf()
    wanted = ItemCF(neighbours=6, **options).fit_data(data).neighbours
    job.item_cf()
    found = job.neighbours("cf", "train", data.items.trained)
    assert len(wanted.ids)
    for name in ("start", "ids", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@given(
    seed=st.integers(0, 2**20),
    parts=st.sampled_from([1, 4, 7]),
    blocks=st.integers(1, 9),
    kind=st.sampled_from(["leave-last-out", "global-time", "random"]),
    events=st.integers(60, 200),
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_world_in_any_parts_gives_the_same_neighbours(
    seed, parts, blocks, kind, events, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("world")
    world(folder, seed, users=12, items=9, events=events, weights=False)
    recipe = recipe_of(folder, split={"kind": kind})
    wanted = ItemCF(neighbours=6).fit_data(pipeline.load_split(recipe).training_data()).neighbours
    job = job_of(recipe, folder / "work", parts, seed, blocks=blocks)
    job.item_cf()
    found = job.neighbours("cf", "train", len(wanted) - 1)
    for name in ("start", "ids", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("refit", ["none", "all"])
def test_the_bundle_of_a_job_is_that_of_train_byte_for_byte(refit, tmp_path):
    world(tmp_path, 7, text=True)
    recipe = recipe_of(tmp_path, training={"refit": refit})
    run = job_of(recipe, tmp_path / "work").bundle(tmp_path / "ours")
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle
    assert load(tmp_path / "ours").id == run.bundle


def test_a_blend_takes_the_neighbours_of_its_channels_from_the_stages(tmp_path):
    world(tmp_path, 8)
    near = {"kind": "item-cf", "neighbours": 4, "similarity": "jaccard"}
    channels = {"cf": {"kind": "item-cf"}, "near": near, "top": {"kind": "popular"}}
    recipe = recipe_of(tmp_path, channels=channels, blend={"method": "reciprocal-rank"})
    job = job_of(recipe, tmp_path / "work")
    run = job.bundle(tmp_path / "ours")
    assert {"item-cf-cf-train", "item-cf-near-train"} <= set(job.stages.made)
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle


def test_a_stage_that_is_there_is_not_made_again_and_one_of_other_settings_is_refused(tmp_path):
    world(tmp_path, 9)
    recipe, told = recipe_of(tmp_path), []
    job_of(recipe, tmp_path / "work").item_cf()
    before = (tmp_path / "work" / "item-cf-cf-train" / "manifest.json").stat().st_mtime_ns
    job_of(recipe, tmp_path / "work", told=told.append).item_cf()
    stages = ("log", "counts-train", "item-cf-cf-train")
    assert told == [f"{stage} is there already" for stage in stages]
    assert (tmp_path / "work" / "item-cf-cf-train" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(
        JobError,
        match=r"train was made with other settings: options\.neighbours was 6, now 3: remove",
    ):
        job_of(recipe_of(tmp_path, {"neighbours": 3}), tmp_path / "work").item_cf()
    with pytest.raises(JobError, match=r"log was made with other settings: split\.kind was"):
        job_of(recipe_of(tmp_path, split={"kind": "random"}), tmp_path / "work").prepare()
    world(tmp_path / "other", 10)
    shutil.copy(tmp_path / "other" / "log" / "0.parquet", tmp_path / "log" / "0.parquet")
    with pytest.raises(JobError, match=r"other settings: files\[0\] was .*0\.parquet', "):
        job_of(recipe, tmp_path / "work").prepare()


def test_a_job_that_fails_leaves_no_stage_and_goes_on_where_it_was(tmp_path, monkeypatch):
    world(tmp_path, 11)
    recipe = recipe_of(tmp_path)
    with monkeypatch.context() as broken:

        def fail(*given, **options):
            raise KeyboardInterrupt

        broken.setattr("shortlist.jobs.neighbours.found_neighbours", fail)
        with pytest.raises(KeyboardInterrupt):
            job_of(recipe, tmp_path / "work").item_cf()
    close_engines()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["counts-train", "log"]
    (tmp_path / "work" / "counts-train" / SUCCESS).unlink()  # as if its maker had been killed
    job = job_of(recipe, tmp_path / "work")
    job.item_cf()
    assert job.stages.made == ["log", "counts-train", "item-cf-cf-train"]


BAD = {
    "a null in a later file": (
        lambda frame: frame.with_columns(
            i=pl.when(pl.int_range(pl.len()) == 70).then(None).otherwise("i")
        ),
        r"1\.parquet: column 'i', row 71: the id is missing",
    ),
    "ids of two types": (
        lambda frame: frame.with_columns(pl.col("i").cast(pl.String)),
        r"1\.parquet.*column 'i' is String here and Int64 in the first file",
    ),
    "a time that is missing": (
        lambda frame: frame.with_columns(
            t=pl.when(pl.int_range(pl.len()) == 9).then(None).otherwise("t")
        ),
        r"1\.parquet: column 't', row 10: the time is missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_in_a_later_file_is_told_with_file_and_row(case, tmp_path):
    world(tmp_path, 12)
    change, message = BAD[case]
    path = tmp_path / "log" / "1.parquet"
    change(pl.read_parquet(path)).write_parquet(path, row_group_size=50)
    with pytest.raises(DataError, match=message):
        job_of(recipe_of(tmp_path), tmp_path / "work").prepare()
    close_engines()
    assert not list((tmp_path / "work").iterdir())


def test_what_only_the_whole_log_can_lack_is_refused_as_by_one_machine(tmp_path):
    world(tmp_path, 13)
    heavy = recipe_of(tmp_path, data={"weight": "w", "min_weight": 99.0})
    with pytest.raises(DataError, match="no row has a weight of at least 99; lower min_weight"):
        job_of(heavy, tmp_path / "work").prepare()
    late = recipe_of(tmp_path, split={"kind": "global-time", "at": 1})
    with pytest.raises(SplitError, match=r"split\.at = 1 leaves 0 of \d+ rows before the cut"):
        job_of(late, tmp_path / "work").prepare()
    keys = {"impressions": "log", "click": "clicked"}
    ctr = {"a": {"kind": "inverted", "attribute": "x", "metric": "ctr"}}
    shown = recipe_of(tmp_path, data=keys, channels=ctr)
    with pytest.raises(DataError, match="no column 'clicked'"):  # before the log is prepared
        job_of(shown, tmp_path / "work")


def test_an_item_too_heavy_for_any_block_is_refused_by_its_id(tmp_path, monkeypatch):
    world(tmp_path, 14)
    monkeypatch.setattr("shortlist.jobs.neighbours.MOST_WORK", 100)
    with pytest.raises(JobError, match=r"item 1: the lists of its users hold .* set most_items"):
        job_of(recipe_of(tmp_path), tmp_path / "work").item_cf()


def test_blocks_get_about_equal_work():
    work = np.random.default_rng(0).zipf(1.6, 5_000).clip(max=2_000)
    load = np.bincount(dealt(work, 8), work, 8)
    assert load.max() / load.mean() < 1.01
    assert dealt(np.array([5, 1, 4]), 2).tolist() == [0, 1, 1]


def test_several_processes_give_what_one_gives(tmp_path):
    world(tmp_path, 15, text=True)
    recipe, engine = recipe_of(tmp_path), Local(tmp_path / "work", processes=2, parts=3)
    try:
        job = Job(recipe, tmp_path / "work", engine)
        job.item_cf()
    finally:
        engine.close()
    wanted = ItemCF(neighbours=6).fit_data(pipeline.load_split(recipe).training_data()).neighbours
    found = job.neighbours("cf", "train", len(wanted) - 1)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.ids, wanted.ids)


def test_a_step_that_breaks_its_promise_is_told(tmp_path):
    engine = Local(tmp_path)
    frame = engine.each(engine.rows(pa.table({"a": [1]})), same, pa.schema({"b": pa.int64()}))
    with pytest.raises(JobError, match="returned the columns a instead of b"):
        engine.collected(frame)
    engine.close()


def same(table):
    return table


def test_all_rows_of_a_key_are_in_one_part(tmp_path):
    engine = Local(tmp_path, parts=5)
    keys = pa.table({"key": [str(n % 17) for n in range(400)], "n": list(range(400))})
    schema = pa.schema({"key": pa.string(), "n": pa.int64()})
    counted = engine.whole(engine.rows(keys.slice(0, 60)), "key", partial(count_keys), schema)
    assert (
        engine.collected(counted).group_by("key").aggregate([("n", "count")])["n_count"].to_pylist()
        == [1] * 17
    )
    engine.close()
    assert set(bucket_of(keys["key"], 5).tolist()) <= set(range(5))


def count_keys(table):
    return table.group_by("key").aggregate([("n", "sum")]).rename_columns(["key", "n"])


def test_only_columns_that_shrink_are_compressed_in_the_files_of_a_stage(tmp_path):
    draw = np.random.default_rng(0).integers(0, 2**62, 5000)
    table = pa.table({"row": np.repeat(np.arange(50), 100), "time": draw, "id": draw.astype(str)})
    engine = Local(tmp_path)
    engine.write(
        engine.each(engine.rows(table.slice(0, 1)), partial(instead, table), table.schema), tmp_path
    )
    [path] = files_in(tmp_path)
    group = pq.read_metadata(path).row_group(0)
    packed = {group.column(at).path_in_schema: group.column(at).compression for at in range(3)}
    assert packed == {"row": "LZ4", "time": "UNCOMPRESSED", "id": "LZ4"}
    assert pq.read_table(path).equals(table)
    engine.close()


def instead(table, _):
    return table


def test_blocks_of_a_table_come_in_order_each_once():
    table = pa.table({"block": [3, 1, 3, 2], "n": [0, 1, 2, 3]})
    assert [part["n"].to_pylist() for part in blocks_of(table, "block")] == [[1], [3], [0, 2]]


def test_the_manifest_of_a_stage_says_what_made_it(tmp_path):
    frame = world(tmp_path, 16)
    job = job_of(recipe_of(tmp_path), tmp_path / "work")
    job.counts()
    said = json.loads((tmp_path / "work" / "log" / "manifest.json").read_text())
    assert said["told"]["rows_read"] == frame.height
    assert sum(said["told"]["rows"].values()) == frame.n_unique(["u", "i", "t"])
    counts = json.loads((tmp_path / "work" / "counts-train" / "manifest.json").read_text())
    assert counts["parents"].keys() == {"log"}


def test_of_two_commands_that_make_a_stage_the_first_keeps_it_and_the_other_says_so(tmp_path):
    first, second = Stages(tmp_path), Stages(tmp_path)
    with ExitStack() as stack:
        late, _ = stack.enter_context(second.making("log", {}))
        (late / "part-00001.parquet").touch()
        with first.making("log", {}) as (folder, _):
            (folder / "part-00000.parquet").touch()
        with pytest.raises(JobError, match=r"another command made .*log meanwhile: run this one"):
            stack.close()
    names = {path.name for path in (tmp_path / "log").iterdir()}
    assert names == {"part-00000.parquet", "manifest.json", SUCCESS}
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert second.is_made("log", {}, ())


def test_candidates_of_all_users_are_what_the_bundle_answers(tmp_path):
    frame = world(tmp_path, 17)
    recipe = recipe_of(tmp_path)
    train(recipe, tmp_path / "bundle")
    retriever = load(tmp_path / "bundle").retriever
    users = frame["u"].unique().sort()
    answer = retriever.recommend(Queries(users), 4).to_frame()
    wanted = answer.select(users.gather(answer["query"]).alias("user"), "rank", "item", "score")
    for parts in (1, 4):
        job = job_of(recipe, tmp_path / f"work-{parts}", parts)
        folder = job.recommend(tmp_path / "bundle", 4)
        found = pl.concat([pl.read_parquet(path) for path in files_in(folder)]).sort("user", "rank")
        assert found.drop("fallback").equals(wanted)
    other = recipe_of(tmp_path, {"neighbours": 2})
    train(other, tmp_path / "bundle", overwrite=True)
    with pytest.raises(JobError, match="recommended-4 was made with other settings: bundle was"):
        job_of(recipe, tmp_path / "work-1").recommend(tmp_path / "bundle", 4)


def test_a_bundle_that_reads_the_clock_is_asked_at_a_time_or_not_at_all(tmp_path):
    frame = world(tmp_path, 18)
    recipe = recipe_of(tmp_path)
    schema = Schema(user="u", item="i", time="t", time_unit="s")
    towers = TwoTower(dim=4, epochs=1, request_time=True, history="mean")
    save(towers.fit(Dataset.load(frame, schema=schema).split()), tmp_path / "clocked")
    train(recipe, tmp_path / "plain")
    users, asked = frame["u"].unique().sort(), "2020-09-20T10:00:00"
    for bundle, time, message in (
        ("clocked", None, "depend on the time of the request"),
        ("clocked", "soon", "'soon'"),
        ("plain", asked, "does nothing"),
    ):
        with pytest.raises(QueryError, match=message):
            job_of(recipe, tmp_path / "work").recommend(tmp_path / bundle, 4, time)
        assert not (tmp_path / "work" / "log").exists()
    folder = job_of(recipe, tmp_path / "work").recommend(tmp_path / "clocked", 4, asked)
    found = pl.concat([pl.read_parquet(path) for path in files_in(folder)]).sort("user", "rank")
    wanted = load(tmp_path / "clocked").retriever.recommend(Queries(users, time=asked), 4)
    assert found["item"].to_list() == [item for ids in wanted.ids for item in ids]
    with pytest.raises(
        JobError, match=r"recommended-4 was made with other settings: time was .*, now 16"
    ):
        job_of(recipe, tmp_path / "work").recommend(tmp_path / "clocked", 4, 1_600_000_000)


def of_days(frame):
    day = pl.date(2024, 1, 1) + pl.duration(days=(pl.col("t") - 1_600_000_000) // 20)
    return frame.with_columns(day.alias("t"))


FORMS = {
    "dates": (of_days, {}),
    "dates with a time": (lambda f: f.with_columns(pl.from_epoch("t", time_unit="s")), {}),
    "ISO text": (lambda f: of_days(f).with_columns(pl.col("t").cast(pl.String)), {}),
    "dates as numbers": (
        lambda f: of_days(f).with_columns(pl.col("t").dt.strftime("%Y%m%d").cast(pl.Int32)),
        {},
    ),
    "fractions of seconds": (lambda f: f.with_columns(pl.col("t") / 2 + 8e8), {}),
    "small counts": (lambda f: f.with_columns((pl.col("t") - 1_600_000_000).cast(pl.UInt16)), {}),
    "a unit that is said": (lambda f: f, {"time_unit": "number"}),
    "sessions": (
        lambda f: f.with_columns(s=pl.col("t") // 7 * 1000 + pl.col("u")),
        {"session": "s"},
    ),
    "missing ids, dropped": (
        lambda f: f.with_columns(i=pl.when(pl.int_range(pl.len()) % 9 > 0).then("i")),
        {"null_ids": "drop", "tie": "file"},
    ),
    "missing ids, and lines": (
        lambda f: f.with_columns(u=pl.when(pl.int_range(pl.len()) % 7 > 0).then("u")),
        {"null_ids": "drop", "order": "file", "time": None},
    ),
    "negative weights below the least": (
        lambda f: f.with_columns(pl.col("w") - 1),
        {"weight": "w", "min_weight": 0.5},
    ),
    "categories": (lambda f: f.with_columns(pl.col("i").cast(pl.String).cast(pl.Categorical)), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_every_form_are_read_as_by_one_machine(form, tmp_path):
    world(tmp_path, 18)
    change, data = FORMS[form]
    frame = pl.concat([pl.read_parquet(tmp_path / "log" / f"{n}.parquet") for n in range(3)])
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").mkdir()
    changed = change(frame)
    for number, rows in enumerate((changed[:150], changed[150:])):
        rows.write_parquet(tmp_path / "log" / f"{number}.parquet", row_group_size=40)
    reader = {"channels": {"near": {"kind": "item-to-item"}}} if "session" in data else {}
    recipe = recipe_of(tmp_path, data=data, **reader)
    same_split(job_of(recipe, tmp_path / "work", 4, 18), recipe)


@pytest.mark.parametrize("write", ["csv", "ndjson", "hive"])
def test_files_that_only_one_process_can_type_are_read_whole(write, tmp_path):
    frame = world(tmp_path, 19)
    (tmp_path / "other").mkdir()
    if write == "csv":
        frame[:200].write_csv(tmp_path / "other" / "0.csv")
        frame[200:].write_csv(tmp_path / "other" / "1.csv")
    elif write == "ndjson":
        frame.write_ndjson(tmp_path / "other" / "0.jsonl")
    else:
        for day in ("a", "b"):
            (tmp_path / "other" / f"day={day}").mkdir()
            part = frame[:200] if day == "a" else frame[200:]
            part.write_parquet(tmp_path / "other" / f"day={day}" / "0.parquet")
    recipe = recipe_of(tmp_path, data={"interactions": "other"})
    same_split(job_of(recipe, tmp_path / "work"), recipe)


def test_times_that_do_not_tell_one_unit_in_parts_must_be_said(tmp_path):
    frame = world(tmp_path, 20)
    odd = pl.when(pl.int_range(pl.len()) % 2 == 0).then("t").otherwise(pl.int_range(pl.len()))
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").mkdir()
    frame.with_columns(t=odd).write_parquet(tmp_path / "log" / "0.parquet")
    with pytest.raises(DataError, match=r"column 't': the sizes of the times, .*data\.time_unit"):
        job_of(recipe_of(tmp_path), tmp_path / "work").prepare()
    said = recipe_of(tmp_path, data={"time_unit": "number"})
    same_split(job_of(said, tmp_path / "work"), said)


@pytest.mark.parametrize("text", [False, True], ids=["Parquet", "CSV"])
def test_a_unit_that_puts_all_times_beyond_2100_is_refused(text, tmp_path):
    frame = world(tmp_path, 23).with_columns(pl.col("t") * 1000)
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").mkdir()
    path = tmp_path / "log" / ("0.csv" if text else "0.parquet")
    (frame.write_csv if text else frame.write_parquet)(path)
    recipe = recipe_of(tmp_path, data={"time_unit": "s"})
    with pytest.raises(DataError, match="lies after 2100"):
        pipeline.load_split(recipe)
    with pytest.raises(DataError, match="lies after 2100"):
        job_of(recipe, tmp_path / "work").prepare()


@pytest.mark.parametrize("session", [False, True])
def test_parts_of_users_without_any_positive_are_parts_like_others(session, tmp_path):
    frame = world(tmp_path, 24).with_columns(s=pl.col("t") // 9)
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").mkdir()
    low = pl.when(pl.col("u") % 3 == 0).then(0.5).otherwise("w")
    frame.with_columns(w=low).write_parquet(tmp_path / "log" / "0.parquet")
    data = {"weight": "w", "min_weight": 1.5}
    near = {"channels": {"near": {"kind": "item-to-item"}}}
    with_session = {"data": data | {"session": "s"}, **near}
    recipe = recipe_of(tmp_path, **(with_session if session else {"data": data}))
    same_split(job_of(recipe, tmp_path / "work", 60), recipe)  # some parts hold a user or none


def test_a_process_that_is_killed_is_one_error_and_leaves_no_stage(tmp_path):
    engine = Local(tmp_path / "work", processes=2)
    frame = engine.each(engine.rows(pa.table({"a": [1]})), killed, pa.schema({"a": pa.int64()}))
    with pytest.raises(JobError, match="a process of the job was ended from outside"):
        engine.collected(frame)
    engine.close()


def killed(table):
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_processes_of_a_job_have_one_thread_each_and_this_one_keeps_its_own(tmp_path):
    before = {name: os.environ.get(name) for name in THREADS}
    engine = Local(tmp_path, processes=2)
    try:
        assert engine._all(os.getenv, [(name,) for name in THREADS]) == ["1"] * len(THREADS)
    finally:
        engine.close()
    assert {name: os.environ.get(name) for name in THREADS} == before
