"""Hard negatives end to end: effect, repeatability, no look into the future, bundles."""

import hashlib
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.config import load_recipe
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.runs.pipeline import check, load_split, train

ROOT = Path(__file__).parents[2]
SMALL = {"dim": 8, "epochs": 1, "batch_size": 512, "seed": 4, "learning_rate": 0.01}
CASES = {
    "hardest": {},
    "semi_hard": {"hard_margin": 0.05},
    "mined": {"hard_ranks": (5, 50)},
    "exposed": {},
    "dropped": {},
}


def digest(retriever):
    return hashlib.sha256(retriever.item_vectors.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def impressions(world):
    """For each event, two more items shown at its time; one in six was clicked."""
    log = world.interactions.select("user_id", "item_id", "timestamp")
    others = pl.concat(
        log.with_columns(pl.col("item_id").shuffle(seed=seed), clicked=pl.lit(seed % 2))
        for seed in (2, 4)
    )
    return pl.concat([others, log.head(len(log) // 6).with_columns(clicked=pl.lit(1))])


def split_with(world, impressions, moment):
    return Dataset.load(
        world.interactions,
        impressions=impressions,
        dropped=impressions.drop("clicked"),
        schema=Schema(time="timestamp", click="clicked"),
    ).split("global-time", at=moment, validation_at=moment - 8_000_000)


@pytest.fixture(scope="module")
def moment(world):
    return int(world.interactions["timestamp"].quantile(0.8))


@pytest.fixture(scope="module")
def logged(world, impressions, moment):
    return split_with(world, impressions, moment)


@pytest.fixture(scope="module")
def plain(logged):
    return digest(TwoTower(**SMALL).fit(logged))


@pytest.mark.parametrize("name", CASES)
def test_each_source_changes_what_is_learned_and_a_seed_repeats_it(logged, plain, name):
    one, two = (digest(TwoTower(**SMALL, hard=name, **CASES[name]).fit(logged)) for _ in range(2))
    assert one == two != plain


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("hardest", {"hard_weight": 0.5}),
        ("hardest", {"hard_share": 0.1}),
        ("hardest", {"hard_known": True}),
        ("semi_hard", {"hard_margin": 0.3}),
        ("mined", {"hard_ranks": (20, 30)}),
        ("mined", {"hard_ranks": (5, 50), "hard_ceiling": 0.2}),
        ("exposed", {"hard_share": 0.1}),
    ],
)
def test_each_option_acts(logged, name, changed):
    options = {**SMALL, "hard": name, **CASES[name]}
    assert digest(TwoTower(**options).fit(logged)) != digest(
        TwoTower(**options | changed).fit(logged)
    )


@pytest.mark.parametrize("name", ["exposed", "dropped"])
def test_what_was_shown_after_the_cut_changes_no_trained_byte(world, impressions, moment, name):
    cut = moment - 8_000_000
    future = pl.col("timestamp") >= cut
    shuffled = impressions.with_columns(
        pl.when(future).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
        pl.when(future).then(1 - pl.col("clicked")).otherwise("clicked").alias("clicked"),
    )
    gone = impressions.filter(~future)
    past = impressions.with_columns(pl.col("item_id").shuffle(seed=1))
    original, *same, other = (
        digest(TwoTower(**SMALL, hard=name).fit(split_with(world, shown, moment)))
        for shown in (impressions, shuffled, gone, impressions.reverse(), past)
    )
    assert [original] * 3 == same
    assert other != original


def test_a_bundle_answers_alike_and_holds_no_impression(logged, tmp_path):
    retriever = TwoTower(**SMALL, hard="exposed").fit(logged)
    save(retriever, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert loaded.training_section.hard == "exposed"
    assert not loaded.data.logged
    users = retriever.data.users.ids.head(20)
    assert loaded.recommend(users, 10).ids == retriever.recommend(users, 10).ids
    mined = TwoTower(**SMALL, hard="mined", hard_ranks=(5, 50)).fit(logged)
    save(mined, tmp_path / "mined")
    assert load(tmp_path / "mined").retriever.training_section.hard_ranks == (5, 50)


def test_a_refit_uses_the_impressions_up_to_its_own_cut(logged):
    few, more = (logged.training_data(fit).logged["exposed"] for fit in ("train", "all"))
    assert 0 < few.lengths.sum() < more.lengths.sum()
    TwoTower(**SMALL, hard="exposed", refit="train+validation").fit(logged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "exposed"}, "sample selection bias"),
        ({"sampler": "mined"}, "sample selection bias"),
        ({"hard_ranks": (1, 5)}, "does nothing without hard"),
        ({"hard": "exposd"}, "Did you mean 'exposed'"),
        ({"hard": "hardest", "hard_margin": 0.1}, "see 'semi_hard'"),
        ({"hard": "hardest", "loss": "nce"}, "no known sampling probability"),
    ],
)
def test_what_cannot_work_is_refused_before_any_data_is_read(options, message):
    with pytest.raises(ModelError, match=message):
        TwoTower(**options)


@pytest.mark.parametrize("retriever", [ItemToItem, UserToUser])
def test_pairs_without_a_user_and_an_item_refuse_hard_negatives(retriever):
    with pytest.raises(ModelError, match=r"hard does nothing .*positives = 'u2i'"):
        retriever(hard="mined")


def test_a_log_that_the_data_lack_is_refused(split):
    with pytest.raises(ModelError, match=r"needs data\.impressions"):
        TwoTower(**SMALL, hard="exposed").fit(split)
    with pytest.raises(ModelError, match="only 199 items are left"):
        TwoTower(**SMALL, hard="mined", hard_ranks=(201, 500)).fit(split)


@pytest.mark.skipif(
    not (Path(os.environ.get("SHORTLIST_DATA", "/-")) / "open-bandit-small").is_dir(),
    reason="SHORTLIST_DATA names no folder that holds open-bandit-small",
)
def test_open_bandit_trains_from_its_impressions():
    recipe = load_recipe(ROOT / "recipes/open-bandit.toml")
    check(recipe)
    split = load_split(recipe)
    shown = split.dataset.shown["exposed"]
    assert len(shown) + shown.unknown == 60_000
    trained = train(recipe, split)
    data = trained.retriever.data
    assert np.isfinite([epoch.loss for epoch in trained.retriever.epochs_run]).all()
    assert data.logged["exposed"].lengths.sum() > 100
    assert any(note.startswith("impressions: ") for note in trained.report.notes)
    with pytest.raises(ModelError, match="sample selection bias"):
        check(load_recipe(ROOT / "recipes/open-bandit.toml", ["training.sampler=exposed"]))
