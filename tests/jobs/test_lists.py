"""User-cf, popularity and inverted lists in parts are those of one machine, to the float bits."""

import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.worlds import (
    job_of,
    read,
    recipe_of,
    same_split,
    same_users,
    world,
)
from shortlist.bundle.bundle import load
from shortlist.errors import JobError, ModelError
from shortlist.runs import pipeline
from shortlist.runs.whole import train

pytestmark = pytest.mark.usefixtures("slices")


def side_tables(folder, *, text=False):
    """Write tables of users and items: values, several values, rows that nobody has met."""
    ids = pl.col("id").cast(pl.String) if text else pl.col("id")
    users = pl.DataFrame({"id": range(0, 44, 1)}).with_columns(
        town=pl.when(pl.col("id") % 5 > 0).then(pl.format("t{}", pl.col("id") % 3))
    )
    users.with_columns(pl.format("ü{}", "id").alias("id") if text else ids).rename(
        {"id": "u"}
    ).write_parquet(folder / "users.parquet")
    items = pl.DataFrame({"id": range(1, 100, 3)}).with_columns(
        kind=pl.format("k{}", pl.col("id") % 4),
        tags=pl.concat_list(pl.format("a{}", pl.col("id") % 2), pl.format("b{}", pl.col("id") % 5)),
    )
    items.with_columns(ids).rename({"id": "i"}).write_parquet(folder / "items.parquet")
    return {"users": "users.parquet", "items": "items.parquet"}


USER_CF = [
    {},
    {"similarity": "jaccard", "item_weighting": "iuf"},
    {"most_items": 4, "item_weighting": "iuf"},
    {"values": "explicit", "recency": 3.0, "latest_items": 5},
]


@pytest.mark.parametrize("options", USER_CF, ids=lambda options: "-".join(options) or "cosine")
def test_the_nearest_users_in_blocks_are_those_of_one_machine_to_the_float_bits(options, tmp_path):
    explicit = options.get("values") == "explicit"
    world(tmp_path, 40, text=explicit)
    own = {"kind": "user-cf", "neighbours": 7, **options}
    data = {"weight": "w"} if explicit else None
    recipe = recipe_of(tmp_path, channels={"cf": own}, data=data, training={"refit": "all"})
    for parts, blocks in ((1, 1), (7, 12)):
        job = job_of(recipe, tmp_path / f"work-{parts}", parts, parts, blocks=blocks)
        job.user_cf()
        same_users(job, recipe)
    same_users(job, recipe, "all")


@given(
    seed=st.integers(0, 2**20),
    parts=st.sampled_from([1, 4, 7]),
    blocks=st.integers(1, 9),
    similarity=st.sampled_from(["cosine", "jaccard"]),
    most=st.sampled_from([None, 2, 5]),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_world_in_any_parts_gives_the_same_users(
    seed, parts, blocks, similarity, most, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("world")
    world(folder, seed, users=12, items=9, events=90, weights=False)
    own = {"kind": "user-cf", "neighbours": 4, "similarity": similarity, "most_items": most}
    own = {key: value for key, value in own.items() if value is not None}
    recipe = recipe_of(folder, channels={"cf": own})
    job = job_of(recipe, folder / "work", parts, seed, blocks=blocks)
    job.user_cf()
    same_users(job, recipe)


LISTS = {
    "everybody": {"kind": "popular"},
    "of late": {"kind": "popular", "half_life": 20.0},
    "segments": {"kind": "popular", "segment": "town", "strength": 9.0},
    "segments of late": {"kind": "popular", "segment": "town", "half_life": 20.0},
    "a value": {"kind": "inverted", "attribute": "kind", "list_length": 3},
    "several values, of late": {
        "kind": "inverted",
        "attribute": "tags",
        "metric": "recent",
        "half_life": 15.0,
    },
}


def same_lists(job, recipe, stage):
    wanted = pipeline.build(recipe).fit(pipeline.load_split(recipe)).listed()
    keys = [*({"segment", "value"} & {*wanted.columns}), "rank"]
    found = read(job, stage)
    assert found.schema == wanted.schema
    assert found.sort(keys).equals(wanted.sort(keys))
    assert len(found)


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_items_in_parts_are_those_of_one_machine_to_the_float_bits(case, tmp_path):
    text = "late" in case
    world(tmp_path, 41, text=text)
    options = LISTS[case]
    recipe = recipe_of(
        tmp_path,
        data=side_tables(tmp_path, text=text),
        channels={"cf": options},
        features={"items": {"kind": "categorical"}},
    )
    kind = options["kind"]
    for parts in (1, 7):
        job = job_of(recipe, tmp_path / f"work-{parts}", parts, parts)
        getattr(job, kind)()
        same_lists(job, recipe, f"{kind}-cf-train")


@given(
    seed=st.integers(0, 2**20),
    parts=st.sampled_from([1, 4, 7]),
    case=st.sampled_from(["of late", "segments of late", "several values, of late"]),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_world_in_any_parts_gives_the_same_lists(seed, parts, case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world(folder, seed, users=12, items=9, events=90, weights=False)
    recipe = recipe_of(folder, data=side_tables(folder), channels={"cf": LISTS[case]})
    job = job_of(recipe, folder / "work", parts, seed)
    kind = LISTS[case]["kind"]
    getattr(job, kind)()
    same_lists(job, recipe, f"{kind}-cf-train")


def test_a_bundle_of_all_channels_that_count_is_that_of_train_byte_for_byte(tmp_path):
    world(tmp_path, 42)
    channels = {
        "cf": {"kind": "item-cf", "similarity": "swing"},
        "users": {"kind": "user-cf"},
        "late": LISTS["of late"],
        "tags": LISTS["several values, of late"],
    }
    recipe = recipe_of(
        tmp_path,
        data=side_tables(tmp_path),
        channels=channels,
        blend={"method": "reciprocal-rank"},
        training={"refit": "all"},
    )
    job = job_of(recipe, tmp_path / "work", 4, 1)
    run = job.bundle(tmp_path / "ours")
    assert {"item-cf-cf-train", "inverted-tags-train", "inverted-tags-all"} <= set(job.stages.made)
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle
    assert load(tmp_path / "ours").id == run.bundle
    job.swing()
    assert job.stages.made.count("item-cf-cf-train") == 1


def test_a_stage_without_a_channel_of_its_kind_says_so(tmp_path):
    world(tmp_path, 43)
    job = job_of(recipe_of(tmp_path), tmp_path / "work", 2, 0)
    for stage, kind in (("user_cf", "user-cf"), ("popular", "popular"), ("inverted", "inverted")):
        with pytest.raises(JobError, match=f"the recipe has no channel of kind '{kind}'"):
            getattr(job, stage)()
    with pytest.raises(JobError, match="no channel of kind 'item-cf' with similarity = \"swing\""):
        job.swing()


def test_what_lists_need_and_the_log_lacks_is_said_as_by_one_machine(tmp_path):
    world(tmp_path, 44)
    split = {"kind": "random"}
    for options, said in (
        ({"kind": "user-cf", "most_items": 3}, "most_items needs data.time"),
        ({"kind": "popular", "half_life": 9.0}, "half_life needs data.time"),
        ({"kind": "popular", "segment": "town"}, "column 'town' is one of the users table"),
        ({"kind": "inverted", "attribute": "x"}, "column 'x' is one of the items table"),
    ):
        recipe = recipe_of(tmp_path, channels={"cf": options}, data={"time": None}, split=split)
        job = job_of(recipe, tmp_path / options["kind"] / str(len(said)), 2, 0)
        with pytest.raises(ModelError, match=said):
            getattr(job, options["kind"].replace("-", "_"))()


def test_lists_of_more_entries_than_a_table_can_have_are_refused_by_the_longest(
    tmp_path, monkeypatch
):
    world(tmp_path, 45)
    monkeypatch.setattr("shortlist.jobs.engine.MOST_ENTRIES", 50)
    channels = {"near": {"kind": "user-cf"}, "cf": {"kind": "item-cf"}}
    job = job_of(recipe_of(tmp_path, channels=channels), tmp_path / "work", 2, 0)
    with pytest.raises(JobError, match=r"the longest that of item \d+ with \d+ users: give more"):
        job.user_cf()
    with pytest.raises(JobError, match=r"the longest that of user 40 with 23 items: give more"):
        job.item_cf()


KINDS = {
    "buy": {"target": True, "weight": 3.0},
    "view": {},
    "skip": {"history": False},
    "hide": {"history": False},
    "log": {"drop": True},
}


def kinds_world(folder, seed, *, text=False, users=40):
    """A world, each event of a kind: a third are targets."""
    frame = world(folder, seed, text=text, users=users)
    kind = pl.Series("what", np.random.default_rng(seed).choice([*KINDS, "buy"], len(frame)))
    rows = frame.with_columns(kind)
    # An event again as one of another kind that is not read: both are met, and both stay.
    again = rows.filter(pl.col("what") == "skip").with_columns(what=pl.lit("hide"))
    shutil.rmtree(folder / "log")
    (folder / "log").mkdir()
    every = pl.concat([rows, again])
    for number, part in enumerate((every[:200], every[200:])):
        part.write_parquet(folder / "log" / f"{number}.parquet", row_group_size=50)
    return every


SPLITS_OF_KINDS = {
    "the last target": None,
    "a moment": {"kind": "global-time", "at": 0.8},
    "at random": {"kind": "random", "seed": 3},
    "some items": {"kind": "cold-items", "seed": 3},
    "the newest items": {"kind": "cold-items", "items": "newest", "at": 0.7},
    "a column": {"column": "s"},
}


@pytest.mark.parametrize("case", SPLITS_OF_KINDS)
def test_kinds_of_events_are_carried_through_every_split(case, tmp_path):
    users = 12 if case == "a column" else 40  # a tenth of a user's targets must be one
    every = kinds_world(tmp_path, 46, text=case == "at random", users=users)
    if case == "a column":
        names = pl.when(pl.col("t") % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
        (tmp_path / "log" / "1.parquet").unlink()
        every.with_columns(s=names).write_parquet(tmp_path / "log" / "0.parquet")
    if case == "at random":
        every.write_csv(tmp_path / "log.csv")
    data = {"event": "what", "events": KINDS}
    data |= {"interactions": "log.csv"} if case == "at random" else {}
    recipe = recipe_of(tmp_path, data=data, split=SPLITS_OF_KINDS[case])
    for parts in (1, 60):
        same_split(job_of(recipe, tmp_path / f"work-{parts}", parts, parts), recipe)


OF_KINDS = [
    {"kind": "item-cf"},
    {"kind": "item-cf", "similarity": "dot", "item_weighting": "bm25"},
    {"kind": "item-cf", "similarity": "jaccard", "user_weighting": "iuf"},
    {"kind": "item-cf", "similarity": "conditional", "time_decay": 30.0},
    {"kind": "item-cf", "similarity": "swing"},
    {"kind": "user-cf", "most_items": 5},
    {"kind": "popular", "half_life": 20.0},
    {"kind": "popular"},
    {"kind": "inverted", "attribute": "tags"},
]


@pytest.mark.parametrize(
    "options", OF_KINDS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_what_kinds_of_events_count_is_counted_in_parts_to_the_float_bits(options, tmp_path):
    kinds_world(tmp_path, 47)
    data = {"event": "what", "events": KINDS, **side_tables(tmp_path)}
    recipe = recipe_of(tmp_path, data=data, channels={"cf": options})
    job, kind = job_of(recipe, tmp_path / "work", 7, 5, blocks=5), options["kind"]
    getattr(job, kind.replace("-", "_"))()
    if kind == "user-cf":
        same_users(job, recipe)
    elif kind == "item-cf":
        wanted = pipeline.build(recipe).fit(pipeline.load_split(recipe)).neighbours
        found = job.neighbours("cf", "train", len(wanted) - 1)
        for name in ("start", "ids", "scores"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert len(wanted.ids)
    else:
        same_lists(job, recipe, f"{kind}-cf-train")


def test_the_bundle_of_a_log_with_kinds_of_events_is_that_of_train_byte_for_byte(tmp_path):
    kinds_world(tmp_path, 48)
    channels = {"cf": {"kind": "item-cf"}, "top": {"kind": "popular"}}
    recipe = recipe_of(
        tmp_path,
        data={"event": "what", "events": KINDS},
        channels=channels,
        blend={"method": "reciprocal-rank"},
    )
    run = job_of(recipe, tmp_path / "work", 4, 1).bundle(tmp_path / "ours")
    assert run.bundle == train(recipe, tmp_path / "theirs").bundle
