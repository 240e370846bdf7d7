"""Features that are columns of the log, in jobs: the same bundle as on one machine."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from jobs.worlds import job_of, recipe_of, same_split, world
from shortlist.errors import DataError, JobError, SplitError
from shortlist.jobs.prepared import prepared_split
from shortlist.runs import pipeline
from shortlist.runs.whole import train

pytestmark = pytest.mark.usefixtures("slices")


def written(folder, frame, files=3):
    """Write the log of a world anew."""
    size = -(-frame.height // files)
    for number in range(files):
        part = frame[number * size : (number + 1) * size]
        part.write_parquet(folder / "log" / f"{number}.parquet", row_group_size=50)


def with_columns_of_events(frame, seed=0):
    """Add a device (text), a page (number), a dwell time and a flag, and repeat rows with others.

    The names are those that a prepared log gives its own columns.
    """
    rng = np.random.default_rng(seed)
    both = pl.concat([frame, frame.sample(fraction=0.3, seed=seed)])
    rows = both.height
    page = pl.Series(rng.integers(0, 4, rows).astype(np.int16))
    dwell = pl.Series(rng.normal(size=rows))
    seen = pl.Series(rng.random(rows) < 0.8)
    return both.with_columns(
        user=pl.when(seen).then(pl.format("d{}", page)),
        place=page,
        time=pl.when(seen).then(dwell),
        met=dwell > 0,
    )


EVENTS = {
    "user": {"kind": "categorical", "known": "before"},
    "place": {"kind": "categorical", "known": "before"},
    "time": {"kind": "numeric", "known": "after"},
    "met": {"kind": "numeric", "known": "after"},
}
OF_EVENTS = {
    "the last event": {},
    "a moment": {"split": {"kind": "global-time", "at": 0.8}},
    "met, and the weight": {
        "data": {"weight": "w", "min_weight": 1.5},
        "features": {"events": {**EVENTS, "w": {"kind": "numeric", "known": "after"}}},
    },
    "kinds and weights of one column": {
        "data": {
            "event": "w",
            "weight": "w",
            "events": {"..1": {}, "1..2": {"history": False}, "2..": {"target": True}},
        },
        "features": {"events": {**EVENTS, "w": {"kind": "categorical", "known": "after"}}},
    },
    "ties as the file has them": {"data": {"tie": "file"}},
    "the order of the lines": {"data": {"time": None, "order": "file"}},
    "no order": {"data": {"time": None}},
}
TOWERS = {
    "channels": {},
    "model": {"dim": 4, "history": "mean", "history_length": 5},
    "training": {"epochs": 1},
}


@pytest.mark.parametrize("case", OF_EVENTS)
def test_columns_of_events_in_parts_are_those_of_one_machine(case, tmp_path):
    written(tmp_path, with_columns_of_events(world(tmp_path, 50), 50))
    recipe = recipe_of(tmp_path, **{"features": {"events": EVENTS}, **TOWERS, **OF_EVENTS[case]})
    for parts in (1, 7):
        same_split(job_of(recipe, tmp_path / f"work-{parts}", parts, seed=parts), recipe)


def test_columns_of_events_in_a_text_file_have_the_types_of_the_whole_file(tmp_path):
    frame = with_columns_of_events(world(tmp_path, 52), 52).with_columns(
        pl.col("met").cast(pl.Int8)
    )
    comma = pl.col("time").cast(pl.String).str.replace(".", ",", literal=True)
    frame.with_columns(comma).write_csv(tmp_path / "log.csv", separator=";")
    keys = {"interactions": "log.csv", "separator": ";", "decimal": ","}
    recipe = recipe_of(tmp_path, data=keys, features={"events": EVENTS}, **TOWERS)
    same_split(job_of(recipe, tmp_path / "work", 4), recipe)


def test_a_category_whose_type_differs_between_files_is_read_as_by_one_machine(tmp_path):
    frame = with_columns_of_events(world(tmp_path, 53), 53)
    written(tmp_path, frame)
    path = tmp_path / "log" / "2.parquet"
    pl.read_parquet(path).with_columns(pl.col("place").cast(pl.Float64)).write_parquet(path)
    recipe = recipe_of(tmp_path, features={"events": EVENTS}, **TOWERS)
    same_split(job_of(recipe, tmp_path / "work", 4), recipe)


def test_towers_that_read_columns_of_events_are_those_of_train_byte_for_byte(tmp_path):
    written(tmp_path, with_columns_of_events(world(tmp_path, 51), 51))
    recipe = recipe_of(tmp_path, features={"events": EVENTS}, **TOWERS)
    run = job_of(recipe, tmp_path / "work", 4).bundle(tmp_path / "ours")
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle


def logs_of_negatives(folder, frame, seed):
    """Write a log of what was shown, with clicks, and one of what a later stage dropped."""
    rng = np.random.default_rng(seed)
    shown = frame.select("u", "i", pl.col("t") - 1).sample(fraction=0.8, seed=seed)
    shown = shown.with_columns(clicked=pl.Series(rng.integers(0, 2, shown.height)))
    shown.write_parquet(folder / "impressions.parquet")
    shown.drop("clicked").head(90).write_parquet(folder / "dropped.parquet")
    items = pl.DataFrame({"i": frame["i"].unique().sort()})
    items.with_columns(x=pl.format("x{}", pl.col("i") % 4)).write_parquet(folder / "items.parquet")
    return {
        **{"impressions": "impressions.parquet", "click": "clicked"},
        **{"dropped": "dropped.parquet", "items": "items.parquet"},
    }


def test_impressions_and_dropped_items_are_read_when_the_bundle_is_made(tmp_path):
    keys = logs_of_negatives(tmp_path, world(tmp_path, 54), 54)
    rates = {"kind": "inverted", "attribute": "x", "metric": "ctr"}
    recipe = recipe_of(
        tmp_path,
        data=keys,
        channels={"cf": {"kind": "item-cf"}, "rates": rates, "towers": {"kind": "two-tower"}},
        blend={"method": "reciprocal-rank"},
        **{"model": {"dim": 4}, "training": {"epochs": 1, "hard": "dropped"}},
    )
    job = job_of(recipe, tmp_path / "work", 4)
    same_split(job, recipe)
    assert job.bundle(tmp_path / "ours").bundle == train(recipe, tmp_path / "theirs").bundle
    fresh = job_of(recipe, tmp_path / "fresh", 4)
    with pytest.raises(JobError, match=r"\"ctr\".*shortlist job bundle fits this channel"):
        fresh.inverted()
    assert not (tmp_path / "fresh").exists()


GROUPED = {
    "a moment": ({"kind": "global-time"}, "split.kind 'global-time'", "kind 'leave-last-out'"),
    "newest items": (
        {"kind": "cold-items", "items": "newest"},
        "split.items = 'newest'",
        "items = 'random'",
    ),
}


@pytest.mark.parametrize("case", GROUPED)
def test_lines_grouped_by_user_are_refused_before_the_log_is_written(case, tmp_path):
    split, what, instead = GROUPED[case]
    frame = world(tmp_path, 55)
    recipe = recipe_of(
        tmp_path,
        split=split,
        data={"time": None, "order": "file", "weight": "w", "min_weight": 1.5},
    )
    written(tmp_path, frame.sort("u", "t"))
    for parts in (1, 4):
        with pytest.raises(SplitError, match=f"{what} needs an order across.*{instead}"):
            job_of(recipe, tmp_path / f"work-{parts}", parts).prepare()
    # One user who comes back, in the first line of another slice, is an order across users.
    first = frame["u"].min()
    back = frame.filter(pl.col("u") == first).head(1).with_columns(w=2.0)
    written(tmp_path, pl.concat([frame.sort("u", "t"), back]))
    same_split(job_of(recipe, tmp_path / "work", 4), recipe)
    # Lines that are no positives do not come between those of a user.
    light = back.with_columns(w=0.5)
    written(tmp_path, pl.concat([frame.sort("u", "t"), *[light] * 90]), files=8)
    with pytest.raises(SplitError, match="grouped by user"):
        job_of(recipe, tmp_path / "other", 4).prepare()


def test_fewer_users_than_parts_do_not_look_like_lines_without_rows(tmp_path):
    written(tmp_path, world(tmp_path, 56, users=2).with_columns(pl.col("u").clip(upper_bound=2)))
    recipe = recipe_of(
        tmp_path, data={"time": None, "order": "file"}, split={"kind": "global-time", "at": 0.8}
    )
    same_split(job_of(recipe, tmp_path / "work", 7), recipe)


SIDES = {
    "features": {
        "users": {"town": "categorical", "user": "numeric"},
        "items": {"time": "multi-valued", "line": "vector", "place": "numeric"},
        "title": "role",
    }
}


def with_columns_of_sides(frame, seed=0):
    """Add what a joined log says of its users and items: it contradicts itself, and leaves out.

    The names are those that a prepared log gives its own columns.
    """
    rng = np.random.default_rng(seed)
    both = pl.concat([frame, frame.sample(fraction=0.3, seed=seed)])
    rows = both.height
    said, late = (pl.Series(rng.random(rows) < share) for share in (0.7, 0.2))
    number = pl.when(late).then(pl.lit(9)).otherwise(pl.col("i"))
    return both.with_columns(
        town=pl.when(said).then(pl.format("t{}", (pl.col("u") + late.cast(pl.Int64)) % 3)),
        user=pl.when(~late).then((pl.col("u") % 5).cast(pl.UInt8)),
        time=pl.when(said).then(pl.concat_list(number % 3, number % 7)),
        line=pl.when(said)
        .then(pl.concat_list(number / 7, number % 2 + 0.5).list.to_array(2))
        .otherwise(None),
        place=number.cast(pl.Float32) / 3,
        role=pl.when(said).then(pl.format("title {}", number)),
    )


OF_SIDES = {
    "the last event": {},
    "a moment": {"split": {"kind": "global-time", "at": 0.8}},
    "met, cold items": {
        "data": {"weight": "w", "min_weight": 1.5},
        "split": {"kind": "cold-items", "at": 0.6},
    },
    "kinds": {
        "data": {
            "event": "w",
            "events": {"..1": {}, "1..2": {"history": False}, "2..": {"target": True}},
        },
    },
    "ties as the file has them": {"data": {"tie": "file"}},
    "no order, with columns of events": {
        "data": {"time": None},
        "features": SIDES["features"] | {"events": {"w": {"kind": "numeric", "known": "after"}}},
    },
}


def same_sides(job, recipe):
    """What a cut knows of users and items is what one machine knows, with the same types."""
    job.prepare()
    told = job.stages.manifest("log")["told"]
    found = prepared_split(recipe, job.stages.path("log"), told)
    wanted = pipeline.load_split(recipe)
    for fit in ("train", "all"):
        ours, theirs = (split.training_data(fit) for split in (found, wanted))
        assert ours.follows == theirs.follows
        for side in ("user_frame", "item_frame"):
            assert_frame_equal(getattr(ours, side), getattr(theirs, side))


@pytest.mark.parametrize("case", OF_SIDES)
def test_what_a_log_says_of_users_and_items_is_what_one_machine_reads(case, tmp_path):
    written(tmp_path, with_columns_of_sides(world(tmp_path, 60), 60))
    recipe = recipe_of(tmp_path, **{**SIDES, **TOWERS, **OF_SIDES[case]})
    for parts in (1, 7):
        job = job_of(recipe, tmp_path / f"work-{parts}", parts, seed=parts)
        same_split(job, recipe)
        same_sides(job, recipe)


def test_features_of_users_and_items_in_a_text_log_have_the_types_of_the_whole_log(tmp_path):
    frame = with_columns_of_sides(world(tmp_path, 61), 61)
    lists = [pl.col(name).cast(pl.List(pl.String)).list.join("|") for name in ("time",)]
    vector = pl.col("line").arr.to_list().cast(pl.List(pl.String)).list.join("|")
    frame.with_columns(*lists, vector).write_csv(tmp_path / "log.csv")
    recipe = recipe_of(tmp_path, data={"interactions": "log.csv"}, **SIDES, **TOWERS)
    job = job_of(recipe, tmp_path / "work", 4)
    same_split(job, recipe)
    same_sides(job, recipe)


def test_channels_that_read_what_a_log_says_of_items_are_those_of_train(tmp_path):
    written(tmp_path, with_columns_of_sides(world(tmp_path, 62), 62))
    tags = {"kind": "inverted", "attribute": "time"}
    recipe = recipe_of(
        tmp_path,
        **{**SIDES, **TOWERS},
    )
    mixed = recipe_of(
        tmp_path,
        features={"items": SIDES["features"]["items"], "users": {"town": "categorical"}},
        channels={
            "cf": {"kind": "item-cf"},
            "tags": tags,
            "top": {"kind": "popular", "segment": "town"},
            "towers": {"kind": "two-tower"},
        },
        blend={"method": "reciprocal-rank"},
        **{"model": {"dim": 4}, "training": {"epochs": 1, "refit": "all"}},
    )
    for name, one in (("towers", recipe), ("mixed", mixed)):
        job = job_of(one, tmp_path / name, 4)
        ours = job.bundle(tmp_path / f"{name}-ours").bundle
        assert ours == train(one, tmp_path / f"{name}-theirs").bundle
    fresh = job_of(mixed, tmp_path / "fresh", 4)
    for stage in (fresh.inverted, fresh.popular):
        with pytest.raises(JobError, match=r"features of (items|users) are columns of the log"):
            stage()
    assert not (tmp_path / "fresh").exists()


BAD = {
    "a vector of another length": (
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit([1.0])).otherwise(pl.lit([1.0, 2.0])),
        r"1\.parquet: column 'v', row 8: vectors must be equally long",
    ),
    "a list in a list": (pl.lit([[1.0]]), r"column 'v'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_feature_that_cannot_be_read_is_told_with_file_and_row(case, tmp_path):
    frame = world(tmp_path, 63).with_columns(v=pl.lit([1.0, 2.0]))
    written(tmp_path, frame)
    path, (value, said) = tmp_path / "log" / "1.parquet", BAD[case]
    pl.read_parquet(path).with_columns(v=value).write_parquet(path, row_group_size=50)
    recipe = recipe_of(tmp_path, features={"items": {"v": "vector"}}, **TOWERS)
    with pytest.raises(DataError, match=said):
        job_of(recipe, tmp_path / "work", 4).prepare()


def test_ids_of_two_types_are_told_where_a_log_says_more_of_its_items(tmp_path):
    written(tmp_path, world(tmp_path, 64).with_columns(c=pl.col("i") % 3))
    path = tmp_path / "log" / "1.parquet"
    pl.read_parquet(path).with_columns(pl.format("x{}", "i").alias("i")).write_parquet(path)
    recipe = recipe_of(tmp_path, features={"items": {"c": "categorical"}}, **TOWERS)
    with pytest.raises(DataError, match="column 'i' is String here and Int64 in the first file"):
        job_of(recipe, tmp_path / "work", 4).prepare()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "numeric",
            ["8", "old", "9"],
            r"users\.parquet: column 'age', row 2: .* must be a number, got 'old'",
        ),
        ("multi-valued", [8, 9, 10], "'age'"),
        ("vector", ["a", "b", "c"], "'age'"),
    ],
)
def test_a_feature_of_a_wrong_kind_is_refused_before_the_log_is_written(
    kind, values, message, tmp_path
):
    world(tmp_path, 3)
    # The ids of the table have a name of their own.
    pl.DataFrame({"who": [1, 2, 3], "age": values}).write_parquet(tmp_path / "users.parquet")
    data = {"users": "users.parquet", "users_id": "who"}
    recipe = recipe_of(tmp_path, data=data, features={"users": {"age": kind}}, **TOWERS)
    with pytest.raises(DataError) as wanted:
        pipeline.load_dataset(recipe)
    job = job_of(recipe, tmp_path / "work")
    with pytest.raises(DataError, match=message) as refused:
        job.prepare()
    assert str(refused.value) == str(wanted.value)
    assert not (tmp_path / "work" / "log").exists()


def test_a_table_whose_ids_have_a_name_of_their_own_is_read_by_jobs(tmp_path):
    world(tmp_path, 3)
    pl.DataFrame({"who": [1, 2, 3], "age": [8, 9, 10]}).write_parquet(tmp_path / "users.parquet")
    data = {"users": "users.parquet", "users_id": "who"}
    job = job_of(recipe_of(tmp_path, data=data), tmp_path / "work")
    job.prepare()
    assert (tmp_path / "work" / "log").exists()
