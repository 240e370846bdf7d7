"""Tuning: trials continue after a stop, weak ones end early, and the best recipe trains."""

import json
import sys
import tomllib

import pytest

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.cli import main
from shortlist.config import Recipe, load_recipe, to_toml
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, OutputError, RecipeError, TrainingError
from shortlist.runs import tuning
from shortlist.runs.pipeline import load_split
from shortlist.runs.pipeline import train as carry_out

SPACE = {
    "training.learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
    "model.dim": [4, 8],
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    world = planted_world(users=90, items=40, events=850, seed=5)
    world.interactions.write_csv(folder / "log.csv")
    return folder


def recipe_of(folder, **changes):
    content = {
        "data": {"interactions": "log.csv", "time": "timestamp"},
        "model": {"history_length": 8},
        "training": {"epochs": 3, "batch_size": 128},
        "tune": {"space": SPACE, "trials": 3, "seed": 1},
    }
    return Recipe.from_dict(content | changes, folder)


def values(found):
    return [(dict(trial.values), trial.state, trial.scores) for trial in found.trials]


def test_values_land_in_the_sections_they_are_named_after(log):
    changed = tuning.with_values(
        recipe_of(log), {"training.learning_rate": 0.5, "training.loss": "bpr", "model.dim": 4}
    )
    assert (changed.training.learning_rate, changed.training.loss) == (0.5, "bpr")
    assert changed.model.dim == 4


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.dim": [0]}, "model.dim must be >= 1"),
        ({"model.width": [4]}, "model.width is not a key"),
        ({"training.loss": ["nothing"]}, "nothing"),
        ({"training.learning_rate": {"low": -1.0, "high": 1.0}}, "learning_rate must be > 0"),
    ],
)
def test_a_value_the_recipe_would_refuse_is_refused_before_any_trial(log, space, message):
    with pytest.raises((RecipeError, ModelError), match=message):
        tuning.check_space(recipe_of(log, tune={"space": space}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "at least one key"),
        ({"split.at": [0.5]}, "cannot try 'split.at'"),
        ({"training.monitor": ["ndcg@5"]}, "cannot try"),
        ({"model.dim": []}, "a list of values, or a range"),
        ({"model.dim": {"low": 8, "high": 4}}, "a list of values, or a range"),
        ({"model.dim": {"low": 0, "high": 4, "log": True}}, "above 0"),
        ({"model.dim": {"low": 1, "high": 4, "step": 2}}, "a list of values, or a range"),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused_with_the_recipe(log, space, message):
    with pytest.raises(RecipeError, match=message):
        recipe_of(log, tune={"space": space})


def test_a_recipe_without_towers_or_without_a_space_cannot_be_tuned(log):
    pytest.importorskip("optuna")
    counting = recipe_of(
        log, channels={"cf": {"kind": "item-cf"}}, model={}, training={},
        tune={"space": {"channels.cf.neighbours": [5, 10]}},
    )  # fmt: skip
    with pytest.raises(ModelError, match="towers"):
        tuning.check_space(counting)
    with pytest.raises(RecipeError, match="names no values to try"):
        tuning.tune(recipe_of(log, tune=None), log / "none")


def test_without_the_extra_it_says_what_to_install(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModelError, match=r"pip install '"):
        tuning.tune(recipe_of(log), log / "none")


def test_a_recipe_written_as_toml_is_read_as_the_same_recipe(log, tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    recipe = recipe_of(
        log,
        channels={"a": {"kind": "popular"}, "towers": {"kind": "two-tower", "dim": 4}},
        blend={"quotas": {"a": 3, "towers": 5}},
        training={"loss": "bpr", "sampler": "mixture", "mixture": {"uniform": 1e-05}},
        evaluation={"k": [5, 10]},
        tune=None,
    )
    (tmp_path / "copy.toml").write_text(to_toml(recipe), encoding="utf-8")
    read = load_recipe(tmp_path / "copy.toml")
    assert read.interactions_path == recipe.interactions_path
    left, right = read.to_dict(), recipe.to_dict()
    left["data"].pop("root")
    assert left == right


def test_a_tuning_taken_up_again_after_a_kill_tries_what_an_unbroken_one_does(log, tmp_path):
    pytest.importorskip("optuna")
    recipe = recipe_of(log)
    unbroken = tuning.tune(recipe, tmp_path / "unbroken")

    class Killed(BaseException):
        pass

    class Killer:
        starts = 0

        def start(self, *_):
            self.starts += 1
            if self.starts == 5:  # in the second trial
                raise Killed

        def advance(self, *_):
            pass

        report = advance

    with pytest.raises(Killed):
        tuning.tune(recipe, tmp_path / "broken", progress=Killer())
    resumed = tuning.tune(recipe, tmp_path / "broken")
    assert values(resumed) == values(unbroken)
    more = tuning.tune(recipe, tmp_path / "broken", trials=4)
    assert values(more)[:3] == values(unbroken)
    assert len(more.trials) == 4
    with pytest.raises(RecipeError, match="another recipe"):
        tuning.tune(recipe_of(log, model={"history_length": 9}), tmp_path / "broken")


def test_values_that_work_alone_and_not_together_are_a_trial_that_failed(log, tmp_path):
    pytest.importorskip("optuna")
    space = {"training.batch_size": [64, 128], "training.encode_rows": [32, 100]}
    recipe = recipe_of(
        log,
        model={"history": "gru", "dim": 4},
        training={"epochs": 1, "batch_size": 128},
        tune={"space": space, "trials": 8, "seed": 1},
    )
    found = tuning.tune(recipe, tmp_path)
    assert len(found.trials) == 8
    for trial in found.trials:
        clash = (trial.values["training.batch_size"], trial.values["training.encode_rows"])
        assert (trial.state == "failed") == (clash == (64, 100))
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert "must be below batch_size" in failed[0].line()


def test_a_first_trial_that_fails_does_not_end_the_tuning(log, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    figures = iter([None, 0.5, 0.5, 0.5])

    def measured(_):
        if (figure := next(figures)) is None:
            raise TrainingError("the loss is nan")
        return figure

    monkeypatch.setattr(TwoTower, "_measured", measured)
    found = tuning.tune(recipe_of(log), tmp_path, trials=2)
    assert [trial.state for trial in found.trials] == ["failed", "complete"]


def test_a_disk_that_refuses_in_the_middle_is_one_error(log, tmp_path, monkeypatch):
    pytest.importorskip("optuna")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuning, "to_toml", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        tuning.tune(recipe_of(log), tmp_path, trials=1)


def test_a_tuning_goes_on_from_a_journal_that_a_full_disk_cut_off_in_a_line(log, tmp_path):
    pytest.importorskip("optuna")
    whole = tuning.tune(recipe_of(log), tmp_path / "whole")
    tuning.tune(recipe_of(log), tmp_path / "torn", trials=1)
    with (tmp_path / "torn" / tuning.JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"work')
    second = tuning.tune(recipe_of(log), tmp_path / "torn", trials=2)
    assert values(second) == values(whole)[:2]
    assert values(tuning.tune(recipe_of(log), tmp_path / "torn")) == values(whole)


def test_the_best_recipe_trains_as_it_is_and_gives_the_figure_of_its_trial(
    log, tmp_path, monkeypatch
):
    pytest.importorskip("optuna")
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    found = tuning.tune(recipe_of(log), tmp_path)
    best = load_recipe(tmp_path / tuning.BEST)
    assert best.tune is None
    assert best.model.dim == found.best.values["model.dim"]
    retriever = carry_out(best, load_split(best)).retriever
    assert max(epoch.score for epoch in retriever.epochs_run) == found.best.score
    assert found.best.score == max(trial.score for trial in found.trials)
    assert "tune" not in tomllib.loads((tmp_path / tuning.BEST).read_text())
    tuning.plot_trials(found, tmp_path / "trials.svg")
    assert (tmp_path / "trials.svg").read_text().count("<svg") == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_command_prints_the_trials_and_names_the_best_recipe(
    log, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("optuna")
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    recipe = recipe_of(log)
    space = '"model.dim" = [4, 8]'
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe) + f"[tune]\ntrials = 2\n[tune.space]\n{space}\n")
    asked = ["tune", str(path), "--out", str(tmp_path / "out"), "--json", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["shortlist", *asked, "--set", "training.epochs=1"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    said = json.loads(capsys.readouterr().out)
    assert len(said["trials"]) == 2
    assert load_recipe(said["recipe"]).model.dim == said["values"]["model.dim"]
    asked.remove("--json")  # the same command continues, here with nothing left to train
    monkeypatch.setattr(sys, "argv", ["shortlist", *asked, "--set", "training.epochs=1"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("Best by validation ndcg@10: trial ")


def test_a_trial_below_the_median_of_the_others_ends_early(log, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    figures = iter([0.5, 0.6, 0.7] * 6 + [0.1, 0.1, 0.1])
    monkeypatch.setattr(TwoTower, "_measured", lambda self: next(figures))
    found = tuning.tune(recipe_of(log), tmp_path, trials=7)
    assert [trial.state for trial in found.trials] == ["complete"] * 6 + ["pruned"]
    assert len(found.trials[-1].scores) < 3
