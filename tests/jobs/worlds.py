"""Small worlds for the jobs, and an engine that deals rows in any order."""

import numpy as np
import polars as pl
import pyarrow as pa

from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.config import Recipe
from shortlist.jobs.local import Local, files_in
from shortlist.jobs.prepared import prepared_split
from shortlist.jobs.steps import Job
from shortlist.runs import pipeline

OPEN = []
"""Engines that are to be closed when a test ends."""


class AnyOrder(Local):
    """An engine that hands each part its rows in an order drawn from a seed."""

    def __init__(self, scratch, parts, seed=0):
        super().__init__(scratch, 1, parts)
        self.seed = seed
        OPEN.append(self)

    def whole(self, frame, key, part, schema, *, dense=False):
        return super().whole(frame, key, Shaken(part, self.seed), schema, dense=dense)


class Shaken:
    """A step that gets its rows in another order."""

    def __init__(self, part, seed):
        self.part, self.seed = part, seed

    def __call__(self, table):
        order = np.random.default_rng(self.seed).permutation(table.num_rows)
        return self.part(table.take(pa.array(order)))


def world(folder, seed=0, *, users=40, items=25, events=400, text=False, files=3, weights=True):
    """Write a log as Parquet files: equal times, repeats, a user of one event, one of all items."""
    rng = np.random.default_rng(seed)
    user = np.concatenate([rng.integers(0, users, events), np.full(items, users), [users + 1]])
    item = np.concatenate(
        [np.minimum(rng.zipf(1.5, events), items) - 1, np.arange(items), [0]]
    ).astype(np.int64)
    time = rng.integers(1_600_000_000, 1_600_000_000 + events // 3, len(user))
    frame = pl.DataFrame({"u": user, "i": 3 * item + 1, "t": time})
    if weights:
        frame = frame.with_columns(w=pl.Series(rng.integers(1, 6, len(user)) / 2))
    frame = pl.concat([frame, frame.sample(20, seed=seed)]).sample(
        fraction=1, shuffle=True, seed=seed
    )
    if text:
        frame = frame.with_columns(
            pl.format("ü{}", "u").alias("u"), pl.format("{}", "i").alias("i")
        )
    log = folder / "log"
    log.mkdir(parents=True)
    size = -(-frame.height // files)
    for number in range(files):
        part = frame[number * size : (number + 1) * size]
        part.write_parquet(log / f"{number}.parquet", row_group_size=50)
    return frame


def recipe_of(folder, channel=None, *, data=None, split=None, **sections):
    """A recipe over `world`."""
    content = {
        "data": {"interactions": "log", "user": "u", "item": "i", "time": "t", **(data or {})},
        "channels": {"cf": {"kind": "item-cf", "neighbours": 6, **(channel or {})}},
        "evaluation": {"k": [5]},
        **sections,
    }
    if split is not None:
        content["split"] = split
    return Recipe.from_dict(content, base=folder)


def close_engines():
    while OPEN:
        OPEN.pop().close()


def job_of(recipe, folder, parts=4, seed=0, **options):
    return Job(recipe, folder, AnyOrder(folder, parts, seed), **options)


def small_slices(monkeypatch):
    """Let every few rows be a part of their own when a log is read."""
    monkeypatch.setattr("shortlist.jobs.reading.ROWS", 60)


def same_events(found, wanted):
    for name in ("user", "item", "role", "time", "weight", "session", "kind"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def read(job, stage):
    """All rows of a stage."""
    return pl.concat([pl.read_parquet(path) for path in files_in(job.stages.path(stage))])


def same_rows(one, other, stages):
    """The stages of two jobs hold the same rows, whatever parts they were made in."""
    for stage in stages:
        found, wanted = read(one, stage), read(other, stage)
        order = [name for name in ("user", "row", "rank", "place") if name in wanted.columns]
        assert len(wanted)
        assert found.sort(order).equals(wanted.sort(order)), stage


def same_users(job, recipe, fit="train"):
    """The stage holds what the channel finds when all users ask with what they have met."""
    channel = pipeline.build(recipe).fit(pipeline.load_split(recipe), fit)
    data = channel.data
    users = data.users.ids[: data.users.trained]
    before = {"train": "validation", "all": "end"}[fit]
    found = []
    for block in row_blocks(Queries(users, before=before), data):
        near = channel.neighbours_of(block).tocoo()
        found.append(
            pl.DataFrame(
                {
                    "user": data.users.external(block.users.numpy()[near.row]),
                    "near": data.users.external(near.col),
                    "similarity": near.data.astype(np.float32),
                }
            )
        )
    wanted = pl.concat(found).sort("user", "near")
    stage = read(job, f"user-cf-cf-{fit}")
    assert stage.columns == ["user", "rank", "near", "similarity"]
    assert stage.select(wanted.columns).sort("user", "near").equals(wanted)
    ranked = stage.sort("user", "rank")
    counted = ranked.select(rank=pl.int_range(1, pl.len() + 1).over("user"))["rank"]
    assert (ranked["rank"] == counted).all()
    assert ranked.filter((pl.col("similarity").diff() > 0) & (pl.col("rank") > 1)).is_empty()
    assert len(wanted)


def same_split(job, recipe):
    """The split of the prepared log is that of the files, and its stored roles are those."""
    job.prepare()
    told = job.stages.manifest("log")["told"]
    found = prepared_split(recipe, job.stages.path("log"), told)  # compares the roles of the parts
    wanted = pipeline.load_split(recipe)
    same_events(found.log, wanted.log)
    assert (found.met is None) == (wanted.met is None)
    if wanted.met is not None:
        same_events(found.met, wanted.met)
    assert found.log.kinds == wanted.log.kinds
    assert (found.kind, found.notes) == (wanted.kind, wanted.notes)
    data, expected = found.training_data(), wanted.training_data()
    assert data.items.ids.equals(expected.items.ids)
    assert data.users.ids.equals(expected.users.ids)
    assert (data.time_unit, data.text) == (expected.time_unit, expected.text)
    assert data.logged.keys() == expected.logged.keys()
    for name, lists in expected.logged.items():
        for found, wanted in zip(data.logged[name], lists, strict=True):
            assert found.equal(wanted), name
    assert str(data.shows) == str(expected.shows)
    assert data.event_features == expected.event_features
    assert data.log.columns.keys() == expected.log.columns.keys()
    for name, column in expected.log.columns.items():
        assert data.log.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(data.log.columns[name], column, err_msg=name)
