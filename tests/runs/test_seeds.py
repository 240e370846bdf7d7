"""Several seeds of one recipe: their spread by hand, and a command that continues."""

import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import stdtrit

from shortlist import TwoTower
from shortlist.cli import main
from shortlist.config import Recipe
from shortlist.data.synthetic import planted_world
from shortlist.errors import BundleError, RecipeError
from shortlist.evaluation.combined import spreads
from shortlist.evaluation.significance import Interval
from shortlist.runs.seeds import check_seeds
from shortlist.runs.several import Alike

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[model]
dim = 4

[training]
epochs = 1
batch_size = 64

[evaluation]
k = [5]
"""


def test_the_spread_is_what_a_hand_works_out():
    """Means .1 and .3: deviation .1414; users' errors .01 and .03 each give .0005 on average.

    The variance of the mean of two seeds, .02 / 2, has one degree of freedom.
    """
    half = {0.1: 1.96 * 0.01, 0.3: 1.96 * 0.03}
    reports = [{"ndcg@5": Interval(m, m - h, m + h)} for m, h in half.items()]
    spread = spreads(reports, same_users=True)["ndcg@5"]
    assert spread.mean == pytest.approx(0.2)
    assert spread.deviation == pytest.approx(math.sqrt(0.02))
    freedom = (0.0005 + 0.01) ** 2 / 0.01**2
    wide = stdtrit(freedom, 0.975) * math.sqrt(0.0005 + 0.02 / 2)
    assert (spread.low, spread.high) == pytest.approx((0.2 - wide, 0.2 + wide))


def test_seeds_that_agree_leave_the_interval_over_users():
    reports = [{"ndcg@5": Interval(0.2, 0.1, 0.3)}] * 3
    assert spreads(reports, same_users=True)["ndcg@5"] == pytest.approx((0.2, 0, 0.1, 0.3))


def test_95_of_100_intervals_over_seeds_and_users_hold_the_truth():
    """The truth is the mean over all users and seeds; each seed answers the same 400 users."""
    generator, held = np.random.default_rng(4), 0
    for _ in range(300):
        users, seeds = generator.normal(0.5, 0.2, 400), generator.normal(0, 0.02, (3, 1))
        figures = users + seeds + generator.normal(0, 0.1, (3, 400))
        error = 1.96 * figures.std(axis=1, ddof=1) / 20
        reports = [
            {"x@1": Interval(m, m - e, m + e)} for m, e in zip(figures.mean(1), error, strict=True)
        ]
        spread = spreads(reports, same_users=True)["x@1"]
        held += spread.low <= 0.5 <= spread.high
    assert 0.93 < held / 300 < 0.995


LADDER = ["popular", "popular of late", "transitions", "item-cf"]


def call(capsys, *arguments):
    """Run the command line; return its exit code, what it printed and what it complained of."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    return code, *capsys.readouterr()


def test_each_seed_has_its_bundle_and_the_command_goes_on_after_a_stop(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    world = planted_world(users=60, items=60, events=600, seed=3)
    world.interactions.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    train = ("train", tmp_path / "recipe.toml", "--out", tmp_path / "runs", "--quiet", "--json")
    code, said, _ = call(capsys, *train, "--seeds", 2)
    first = json.loads(said)
    assert code == 0
    assert first["in_short"][-1].startswith("On this machine the fit of a seed took")
    assert list(first["seeds"]) == ["0", "1"]
    alone = [json.loads((tmp_path / f"runs/seed-{s}/manifest.json").read_text()) for s in (0, 1)]
    means = [m["metrics"]["metrics"]["ndcg@5"]["mean"] for m in alone]
    assert first["metrics"]["ndcg@5"]["mean"] == pytest.approx(sum(means) / 2)
    assert means[0] != means[1]
    stamps = [(tmp_path / f"runs/seed-{s}/manifest.json").stat().st_mtime_ns for s in (0, 1)]
    assert [rung["name"] for rung in first["ladder"]] == LADDER
    for rung in first["ladder"]:  # the model minus the method, in the mean over the seeds
        gap = first["metrics"]["ndcg@5"]["mean"] - rung["metrics"]["ndcg@5"]["mean"]
        assert rung["difference"]["ndcg@5"]["mean"] == pytest.approx(gap)
    code, said, noted = call(capsys, *train[:4], "--seeds", 4)
    shown = " ".join((said + noted).split())
    assert "training with seed 1 " not in shown
    assert shown.count("dropout (auto)") == 1  # two trainings have the same
    assert shown.index("training with seed 2") < shown.index("dropout (auto)")
    assert shown.index("dropout (auto)") < shown.index("training with seed 3")
    assert shown.count("too-few-steps") == 1
    code, said, _ = call(capsys, *train, "--seeds", 3)
    assert list(json.loads(said)["seeds"]) == ["0", "1", "2"]
    assert stamps == [
        (tmp_path / f"runs/seed-{s}/manifest.json").stat().st_mtime_ns for s in (0, 1)
    ]
    code, _, complaint = call(capsys, *train, "--seeds", 2, "--set", "model.dim=8")
    assert code != 0
    assert "another recipe" in complaint
    (tmp_path / "plain.toml").write_text(
        RECIPE.split("[model]", maxsplit=1)[0] + '[channels.cf]\nkind = "item-cf"\n'
    )
    code, _, complaint = call(
        capsys, "train", tmp_path / "plain.toml", "--out", tmp_path / "c", "--seeds", 2
    )
    assert code != 0
    assert "uses random numbers" in complaint


def test_bundles_of_other_recipes_or_of_a_log_that_has_changed_are_no_seeds(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    log, runs = (
        planted_world(users=60, items=60, events=600, seed=3).interactions,
        tmp_path / "runs",
    )
    log.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    train = ("train", tmp_path / "recipe.toml", "--quiet", "--out")
    assert call(capsys, *train, runs, "--seeds", 2)[0] == 0
    call(capsys, *train, runs / "seed-2", "--seed", 2, "--set", "evaluation.k=[3]")
    code, _, complaint = call(capsys, "evaluate", runs)
    assert code == 3
    assert f"{runs / 'seed-2'} and {runs / 'seed-0'} are not seeds of one training" in complaint
    assert "evaluation.k is [3] and [5]" in complaint
    shutil.rmtree(runs / "seed-2")
    assert call(capsys, "evaluate", runs)[0] == 0
    log[:-50].write_csv(tmp_path / "log.csv")
    code, _, complaint = call(capsys, *train, runs, "--seeds", 3)
    assert code == 3
    assert "their logs have different" in complaint


def test_folds_whose_logs_choose_other_numbers_are_of_one_recipe():
    def fold(rows, asked=5):
        tower = TwoTower()
        tower.auto = {"batch_size": "for this log"}
        said = {"model": {"dim": 64}, "training": {"batch_size": rows}, "evaluation": {"k": asked}}
        manifest = SimpleNamespace(directory=f"fold of {rows}")
        return SimpleNamespace(recipe=said, retriever=tower, manifest=manifest)

    alike = Alike("fold")
    for rows in (256, 512):
        alike.check(fold(rows))
    with pytest.raises(
        BundleError, match=r"fold of 64 and fold of 256 .* evaluation\.k is 7 and 5"
    ):
        alike.check(fold(64, asked=7))


def test_a_seed_that_the_recipe_holds_still_has_no_spread():
    towers = {"data": {"interactions": "log.csv"}, "channels": {"a": {"kind": "two-tower"}}}
    check_seeds(Recipe.from_dict(towers), 2)
    towers["channels"]["a"]["seed"] = 7
    with pytest.raises(RecipeError, match=r"channels\.a\.seed = 7"):
        check_seeds(Recipe.from_dict(towers), 2)
    drawn = {"data": {"interactions": "log.csv"}, "channels": {"a": {"kind": "als"}}}
    check_seeds(Recipe.from_dict(drawn), 2)
