"""`shortlist doctor` as people use it, and what `train` says and keeps of its findings."""

import json
import sys

import pytest

from shortlist.cli import main
from shortlist.data.synthetic import planted_world

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[model]
dim = 16

[training]
epochs = 6
batch_size = 128
learning_rate = 0.01
"""


@pytest.fixture(scope="module", autouse=True)
def _no_data_folder():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHORTLIST_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    world = planted_world(users=240, items=160, events=4_800, seed=2)
    world.interactions.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    arguments = ("train", folder / "recipe.toml", "--out", folder / "bundle", "--quiet")
    assert call(*arguments) == 0
    return folder / "bundle"


def call(*arguments):
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def examined(capsys, *arguments):
    """Run `doctor --json`; return the exit code and the findings by code."""
    capsys.readouterr()
    code = call("doctor", *arguments, "--json")
    printed = json.loads(capsys.readouterr().out)
    return code, {finding["code"]: finding for finding in printed["findings"]}


def test_a_sound_recipe_and_its_bundle_have_nothing_wrong(capsys, folder, bundle):
    assert examined(capsys, folder / "recipe.toml") == (0, {})
    assert examined(capsys, bundle) == (0, {})
    assert call("doctor", bundle) == 0
    assert "No mistake found" in capsys.readouterr().out


def test_a_cosine_softmax_without_temperature_is_an_error_with_its_floor(capsys, folder):
    code, found = examined(capsys, folder / "recipe.toml", "--set", "training.temperature=1.0")
    assert code == 1
    finding = found["cosine-softmax-unscaled"]
    assert set(finding) == {"code", "severity", "mistake", "evidence", "cure"}
    assert finding["severity"] == "error"
    assert "cannot fall below" in finding["evidence"]


def test_a_warning_alone_exits_with_zero_and_is_printed_with_its_cure(capsys, folder):
    capsys.readouterr()
    assert call("doctor", folder / "recipe.toml", "--set", "training.batch_size=8") == 0
    said = capsys.readouterr().out
    assert "warning: too-few-negatives" in said
    assert "cure: Raise training.batch_size" in said
    assert "1 warning" in said


@pytest.mark.parametrize(
    ("change", "others"),
    [
        (("training.loss=hinge", "training.correct_sampling=true"), set()),
        (
            ("data.interactions=nowhere.csv", "training.temperature=1.0"),
            {"cosine-softmax-unscaled"},
        ),
    ],
)
def test_what_the_program_refuses_is_a_finding_beside_the_others(capsys, folder, change, others):
    options = [part for key in change for part in ("--set", key)]
    code, found = examined(capsys, folder / "recipe.toml", *options)
    assert code == 1
    assert set(found) == {"refused"} | others


def test_training_keeps_its_findings_in_the_bundle(capsys, folder, tmp_path):
    capsys.readouterr()
    arguments = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--json", "--quiet")
    assert call(*arguments, "--set", "training.temperature=1.0") == 0
    printed = json.loads(capsys.readouterr().out)["findings"]
    assert "cosine-softmax-unscaled" in {finding["code"] for finding in printed}
    assert call("inspect", tmp_path / "b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["findings"] == printed
    code, found = examined(capsys, tmp_path / "b")
    assert code == 1
    assert list(found.values()) == printed


def test_training_that_breaks_says_why_and_writes_nothing(capsys, folder, tmp_path):
    capsys.readouterr()
    arguments = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet")
    options = ("training.learning_rate=1e30", "training.similarity=dot", "model.dropout=0.0")
    code = call(*arguments, *(part for key in options for part in ("--set", key)))
    said = capsys.readouterr().err
    assert code == 1
    assert "error: training-stopped" in said
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_not_there_is_an_error_of_the_question(capsys, tmp_path):
    assert call("doctor", tmp_path / "none.toml") == 2
    assert "no recipe" in " ".join(capsys.readouterr().err.split())


def test_an_override_for_a_bundle_is_refused(capsys, bundle):
    assert call("doctor", bundle, "--set", "training.epochs=1") == 2
    assert "leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [("training.positives=i2i", "training.session_gap=90000"), ("training.positives=u2u",)],
)
def test_other_positives_are_examined_as_far_as_they_go(capsys, folder, change):
    options = [part for key in change for part in ("--set", key)]
    assert examined(capsys, folder / "recipe.toml", *options) == (0, {})
    options += ["--set", "training.temperature=1.0"]
    code, found = examined(capsys, folder / "recipe.toml", *options)
    assert code == 1
    assert "cosine-softmax-unscaled" in found


@pytest.mark.parametrize("kind", ["file", "folder", "pattern"])
def test_a_log_is_looked_at_alone(folder, tmp_path, capsys, kind):
    lines = (folder / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "part.csv").write_text("".join([*lines, *lines[1:900]]))
    given = {"file": "part.csv", "folder": ".", "pattern": "p*.csv"}[kind]
    assert call("doctor", tmp_path / given, "--json") == 0
    found = {f["code"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["duplicate-events"]["evidence"].startswith("899 of 5,699 rows")
    assert call("doctor", tmp_path / given, "--set", "data.user=x") == 2
    assert "this is a log" in capsys.readouterr().err


def test_a_log_that_cannot_be_split_is_looked_at_all_the_same(tmp_path, capsys):
    rows = "".join(f"u{n},i{n % 7},{n}\n" for n in range(30)) + "u0,i3,40\n"
    (tmp_path / "log.csv").write_text("user,item,time\n" + rows)
    assert call("doctor", tmp_path / "log.csv", "--json") == 1
    codes = [f["code"] for f in json.loads(capsys.readouterr().out)["findings"]]
    assert "one-event-users" in codes
    assert "refused" in codes
