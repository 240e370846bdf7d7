"""Several folds of one recipe: a report over folds and users, and what cannot make folds."""

import json
import math
import sys

import pytest
from scipy.special import stdtrit

from shortlist.cli import main
from shortlist.config import Recipe
from shortlist.data.synthetic import planted_world
from shortlist.errors import RecipeError
from shortlist.evaluation.combined import spreads
from shortlist.evaluation.significance import Interval
from shortlist.runs.folds import train_folds
from shortlist.runs.whole import train

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[split]
kind = "rolling"
folds = 2

[channels.cf]
kind = "item-cf"

[evaluation]
k = [5]
"""


def call(capsys, *arguments):
    """Run the command line; return its exit code, what it printed and what it complained of."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    said, complaint = capsys.readouterr()
    return code, said, " ".join(complaint.split())


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    planted_world(users=60, items=60, events=600, seed=3).interactions.write_csv(
        tmp_path / "log.csv"
    )
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_the_interval_over_folds_is_what_a_hand_works_out():
    """Means .1 and .3; errors .01 and .03 of other users: (.0001 + .0009) / 2 / 2 and .02 / 2."""
    half = {0.1: 1.96 * 0.01, 0.3: 1.96 * 0.03}
    reports = [{"ndcg@5": Interval(m, m - h, m + h)} for m, h in half.items()]
    spread = spreads(reports, same_users=False)["ndcg@5"]
    wide = stdtrit(0.01025**2 / 0.01**2, 0.975) * math.sqrt(0.00025 + 0.01)
    assert (spread.low, spread.high) == pytest.approx((0.2 - wide, 0.2 + wide))


def test_each_fold_is_trained_and_one_report_speaks_of_all(recipe, tmp_path, capsys):
    out = tmp_path / "runs"
    code, said, _ = call(capsys, "train", recipe, "--out", out, "--quiet", "--json")
    assert code == 0
    trained = json.loads(said)
    assert list(trained["folds"]) == ["1", "2"]
    alone = [json.loads((out / f"fold-{n}/manifest.json").read_text())["metrics"] for n in (1, 2)]
    means = [each["metrics"]["recall@5"]["mean"] for each in alone]
    assert trained["metrics"]["recall@5"]["mean"] == pytest.approx(sum(means) / 2)
    assert trained["users"] == [each["users"] for each in alone]
    assert alone[0]["notes"][0].startswith("fold 1 of 2: its log ends after")
    code, said, _ = call(capsys, "evaluate", out, "--json", "--no-ladder")
    assert code == 0
    assert json.loads(said)["metrics"] == trained["metrics"]
    page = tmp_path / "report.html"
    code, said, _ = call(capsys, "evaluate", out, "--slices", "--html", page)
    assert code == 0
    assert "2 folds" in said
    assert "Each fold" in said
    assert "Comparison with methods without training" in said
    assert "users: trained" in said
    said = " ".join(said.split())
    assert "Each figure is the mean over 2 folds, and its 95 % interval covers other times" in said
    assert "In none of the 2 folds the model finds a larger share than item-cf" in said
    assert "How much do the folds differ?" in page.read_text()
    code, _, complaint = call(capsys, "inspect", out)
    assert code != 0
    assert "is no bundle, but a folder of bundles: fold-1, fold-2. Give one of them" in complaint


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--seeds", "2", "--out", "o"], "--seeds is for one split"),
        (["train", "--checkpoint", "c", "--out", "o"], "--checkpoint is for one split"),
        (["plan"], "a plan needs two"),
        (["job", "prepare", "--work", "w"], 'jobs do not make split.kind = "rolling"'),
    ],
)
def test_what_takes_one_split_says_so(command, message, recipe, capsys, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    name = command[:2] if command[0] == "job" else command[:1]
    code, _, complaint = call(capsys, *name, recipe, *command[len(name) :])
    assert code != 0
    assert message in complaint


def test_the_doctor_looks_at_the_last_fold_and_train_in_python_names_the_other_door(
    recipe, tmp_path, capsys
):
    code, said, _ = call(capsys, "doctor", recipe, "--json")
    assert code == 0, said
    with pytest.raises(RecipeError, match=r"train_folds"):
        train(recipe, tmp_path / "out")
    read = Recipe.from_dict({"data": {"interactions": "log.csv", "time": "timestamp"}})
    with pytest.raises(RecipeError, match=r'folds need split.kind = "rolling"'):
        train_folds(read, tmp_path / "out")
