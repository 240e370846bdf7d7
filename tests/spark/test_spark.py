"""On Spark a job gives what one machine gives, to the float bits: `make spark`."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from jobs.test_features import (
    EVENTS,
    SIDES,
    TOWERS,
    same_sides,
    with_columns_of_events,
    with_columns_of_sides,
    written,
)
from jobs.worlds import recipe_of, same_rows, same_split, same_users, world
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.config import Recipe
from shortlist.errors import DataError, JobError, MissingPackageError, SplitError
from shortlist.jobs.local import Local
from shortlist.jobs.steps import Job
from shortlist.runs import pipeline
from shortlist.runs.whole import train
from shortlist.spark import session as sessions
from shortlist.spark.engine import Spark

needs_spark = pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None,
    reason="needs pyspark and Java: make spark",
)
MASTER = os.environ.get("SHORTLIST_SPARK_MASTER", "local[2,4]")  # a task is tried four times


@pytest.fixture(scope="module")
def engine():
    made = Spark(4, MASTER, {"spark.ui.enabled": "false"})
    yield made
    made.close()


class Unsteady(Spark):
    """Spark, where each task fails on its first try, when all its rows have been given on.

    failed: the folder that hears of it.
    """

    failed: Path

    def _mapped(self, frame, steps, schema):
        failed = self.failed

        def fails_first(batches):
            from pyspark import TaskContext

            yield from batches
            task = TaskContext.get()
            if task.attemptNumber() == 0:
                (failed / f"{task.stageId()}-{task.partitionId()}").touch()
                raise RuntimeError("the first try")

        made = super()._mapped(frame, steps, schema)
        return made.mapInArrow(fails_first, made.schema)


def same_neighbours(job, recipe, **options):
    wanted = ItemCF(**options).fit_data(pipeline.load_split(recipe).training_data()).neighbours
    found = job.neighbours("cf", "train", len(wanted) - 1)
    for name in ("start", "ids", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


CASES = {
    "numbers": ({}, {}, None),
    "texts, weighed, at a moment": (
        {"values": "explicit", "item_weighting": "bm25", "similarity": "dot"},
        {"weight": "w", "min_weight": 1.0},
        {"kind": "global-time", "at": 0.8},
    ),
    "decayed, at random": ({"time_decay": 50.0, "user_weighting": "iuf"}, {}, {"kind": "random"}),
    "texts, the newest items": ({}, {}, {"kind": "cold-items", "items": "newest", "at": 0.7}),
    "some items, weighed": (
        {},
        {"weight": "w", "min_weight": 1.5},
        {"kind": "cold-items", "seed": 4, "at": 0.6},
    ),
}


@needs_spark
@pytest.mark.parametrize("case", CASES)
def test_spark_gives_the_split_and_the_neighbours_of_one_machine(case, engine, tmp_path):
    options, data, split = CASES[case]
    world(tmp_path, 21, text="texts" in case)
    recipe = recipe_of(tmp_path, options, data=data, split=split)
    job = Job(recipe, tmp_path / "work", engine, blocks=3)
    job.item_cf()
    same_split(job, recipe)
    same_neighbours(job, recipe, neighbours=6, **options)


@needs_spark
def test_the_bundle_made_on_spark_is_that_of_train_byte_for_byte(engine, tmp_path):
    world(tmp_path, 22)
    recipe = recipe_of(tmp_path)
    run = Job(recipe, tmp_path / "work", engine).bundle(tmp_path / "ours")
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle


@needs_spark
def test_towers_that_read_columns_of_events_are_those_of_train_byte_for_byte(engine, tmp_path):
    written(tmp_path, with_columns_of_events(world(tmp_path, 25), 25))
    recipe = recipe_of(tmp_path, features={"events": EVENTS}, **TOWERS)
    job = Job(recipe, tmp_path / "work", engine)
    same_split(job, recipe)
    assert job.bundle(tmp_path / "ours").bundle == train(recipe, tmp_path / "theirs").bundle


@needs_spark
def test_what_a_log_says_of_users_and_items_is_what_one_machine_reads(engine, tmp_path):
    written(tmp_path, with_columns_of_sides(world(tmp_path, 27), 27))
    recipe = recipe_of(tmp_path, **SIDES, **TOWERS)
    job = Job(recipe, tmp_path / "work", engine)
    same_split(job, recipe)
    same_sides(job, recipe)


@needs_spark
def test_lines_grouped_by_user_are_found_wherever_the_slices_are_read(
    engine, tmp_path, monkeypatch
):
    monkeypatch.setattr("shortlist.jobs.reading.ROWS", 60)  # many slices, several to a partition
    frame = world(tmp_path, 26).sort("u", "t")
    written(tmp_path, frame)
    keys = {"time": None, "order": "file"}
    recipe = recipe_of(tmp_path, data=keys, split={"kind": "global-time"})
    with pytest.raises(SplitError, match="the lines of the log are grouped by user"):
        Job(recipe, tmp_path / "work", engine).prepare()
    written(tmp_path, pl.concat([frame, frame.head(1)]))
    same_split(Job(recipe, tmp_path / "work", engine), recipe)


@needs_spark
def test_tasks_that_fail_when_all_their_rows_are_written_change_nothing(engine, tmp_path):
    world(tmp_path, 24)
    recipe = recipe_of(tmp_path)
    whole = Job(recipe, tmp_path / "whole", Local(tmp_path / "whole"))
    whole.item_cf()
    unsteady = Unsteady(2, MASTER)  # in the session that is there
    unsteady.failed = tmp_path / "failed"
    unsteady.failed.mkdir()
    job = Job(recipe, tmp_path / "work", unsteady)
    job.item_cf()
    assert [*unsteady.failed.iterdir()]
    same_rows(job, whole, ("log", "counts-train", "item-cf-cf-train"))


@needs_spark
def test_what_a_part_refuses_reaches_the_user_as_that_one_error(engine, tmp_path):
    world(tmp_path, 23)
    path = tmp_path / "log" / "1.parquet"
    late = pl.int_range(pl.len()) == 70
    pl.read_parquet(path).with_columns(i=pl.when(late).then(None).otherwise("i")).write_parquet(
        path
    )
    with pytest.raises(DataError, match=r"1\.parquet: column 'i', row 71: the id is missing"):
        Job(recipe_of(tmp_path), tmp_path / "work", engine).prepare()
    assert not [p for p in (tmp_path / "work").iterdir() if not p.name.startswith("tmp-")]


SETS = {
    "ml-1m": (
        "ml-1m/sasrec_5core_sequences.parquet",
        {"user": "sas_user_id", "item": "sas_item_id", "time": "position"},
        ["item-cf"],
    ),
    "gowalla": (
        "gowalla-lightgcn/interactions.parquet",
        {"user": "user_id", "item": "item_id", "order": "file"},
        ["item-cf", "user-cf"],
    ),
}


@needs_spark
@pytest.mark.parametrize("name", SETS)
def test_a_real_log_on_spark_is_that_of_one_machine(name, engine, tmp_path):
    data = os.environ.get("SHORTLIST_DATA")
    if data is None:
        pytest.skip("SHORTLIST_DATA is not set")
    file, named, kinds = SETS[name]
    log = Path(data) / file
    for kind in kinds:
        recipe = Recipe.from_dict(
            {
                "data": {"interactions": str(log), **named},
                "split": {"column": "split"},
                "channels": {"cf": {"kind": kind, "most_items": 100}},
            }
        )
        job = Job(recipe, tmp_path / "work", engine, blocks=8)
        if kind == "item-cf":
            job.item_cf()
            same_neighbours(job, recipe, most_items=100)
        else:
            job.user_cf()
            same_users(job, recipe)
    rows = job.stages.manifest("log")["told"]["rows"]
    assert sum(rows.values()) == pq.read_metadata(log).num_rows


def test_what_spark_needs_is_asked_before_anything_is_started(monkeypatch, tmp_path):
    versions = {"pyspark": "4.3.0", "pandas": "3.1.0"}
    monkeypatch.setattr(sessions, "version", versions.__getitem__)
    with pytest.raises(JobError, match=r"needs pandas below 3, and 3\.1\.0 is installed"):
        sessions.check_packages()

    def missing(name):
        raise sessions.PackageNotFoundError(name)

    monkeypatch.setattr(sessions, "version", missing)
    with pytest.raises(MissingPackageError, match=r"pip install '"):
        sessions.check_packages()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JobError, match=r"needs Java 17 or newer, and JAVA_HOME = .* holds none"):
        sessions.check_java()
    for said, wanted in (
        ('openjdk version "11.0.2"', "is 11"),
        ('java version "1.8.0_40"', "is 8"),
    ):
        java = tmp_path / "bin" / "java"
        java.parent.mkdir(exist_ok=True)
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
        with pytest.raises(JobError, match=wanted):
            sessions.check_java()
