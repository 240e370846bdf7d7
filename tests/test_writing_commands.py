"""Every command that writes: what it refuses before it works, and what a failing disk leaves."""

import errno
import io
import os
import resource
import shutil
import sys
from importlib.util import find_spec

import pytest

from shortlist import outputs
from shortlist.bundle import bundle as bundles
from shortlist.bundle import store
from shortlist.bundle.bundle import load
from shortlist.bundle.store import verify
from shortlist.cli import demo, main
from shortlist.config import load_recipe
from shortlist.data import obtaining
from shortlist.data.known_sets import KNOWN_SETS
from shortlist.data.synthetic import planted_world
from shortlist.evaluation.compare import Comparison, Difference
from shortlist.runs import pipeline, tuning

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"
[model]
dim = 4
[training]
epochs = 1
refit = "all"
[evaluation]
k = [5]
[tune]
trials = 1
[tune.space]
"model.dim" = [4]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    world = planted_world(users=60, items=40, events=600, seed=2)
    world.interactions.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """The one training of this file: the commands below only write what came of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHORTLIST_DATA", raising=False)
        recipe = load_recipe(folder / "recipe.toml", [])
    return pipeline.train(recipe, pipeline.load_split(recipe))


@pytest.fixture(scope="module")
def bundle(folder, trained):
    recipe = load_recipe(folder / "recipe.toml", [])
    bundles.save(trained.retriever, folder / "bundle", recipe=recipe.to_dict())
    return folder / "bundle"


@pytest.fixture(autouse=True)
def _made_already(monkeypatch, trained, folder):
    """Commands write what `trained` holds, instead of training it each time."""
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: trained)
    monkeypatch.setattr("shortlist.doctor.examine", lambda _: [])
    recipe = load_recipe(folder / "recipe.toml", [])
    monkeypatch.setattr(demo, "world", lambda *_, **__: demo.World(None, recipe, ()))
    monkeypatch.setattr(demo, "run", lambda *_, **__: trained)
    trial = tuning.Trial(0, {"model.dim": 4}, "complete", 0.5, (0.5,))
    tuned = tuning.Tuned("recall@5", (trial,), trial, recipe)
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: tuned)
    # The bundle knows all rows, and could not be measured: its report was made before.
    measure = "shortlist.evaluation.evaluate.evaluate_beside"
    monkeypatch.setattr(measure, lambda *_, **__: trained.report)
    figures = trained.report.metrics
    others = {"b": {name: Difference(0.0, 0.0, 0.0, 1.0, 1.0) for name in figures}}
    compared = Comparison(1, {"a": figures, "b": figures}, others, {})
    monkeypatch.setattr("shortlist.evaluation.compare.compare", lambda *_, **__: compared)
    known = obtaining.Obtained(folder, KNOWN_SETS["ml-1m"].forms[0], "From here.")
    monkeypatch.setattr(obtaining, "taken", lambda *_: known)


@pytest.fixture
def _no_work(monkeypatch):
    """Whoever reads data, loads a bundle or trains has begun to work."""

    def works(*_, **__):
        raise AssertionError("the command worked before it refused")

    for module, name in (
        *((bundles, "load"), (pipeline, "load_dataset"), (pipeline, "train")),
        *((demo, "world"), (tuning, "tune"), (tuning, "load_split"), (obtaining, "taken")),
    ):
        monkeypatch.setattr(module, name, works)


# Each takes the folder of the inputs and the path to write, and returns the arguments.
FILES = {
    "init": lambda at, to: ("init", to.with_suffix(".toml")),
    "data": lambda at, to: ("data", "ml-1m", "--from", at, "--out", to.with_suffix(".toml")),
    "recommend": lambda at, to: (
        *("recommend", at / "bundle", "--all-users", "--out", to.with_suffix(".parquet")),
    ),
    "encode-items": lambda at, to: (
        *("encode", at / "bundle", "--items", to.with_suffix(".parquet")),
    ),
    "encode-users": lambda at, to: (
        *("encode", at / "bundle", "--users", to.with_suffix(".parquet")),
    ),
    "evaluate-page": lambda at, to: (
        *("evaluate", at / "bundle", "--no-ladder", "--html", to.with_suffix(".html")),
    ),
    "compare-page": lambda at, to: (
        *("compare", at / "bundle", f"again={at / 'bundle'}", "--html", to.with_suffix(".html")),
    ),
    "index-plot": lambda at, to: (
        *("index", at / "bundle", "--kind", "exact", "--out", at / "unused"),
        *("--plot", to.with_suffix(".svg")),
    ),
    "tune-plot": lambda at, to: (
        *("tune", at / "recipe.toml", "--out", at / "tuning", "--plot", to.with_suffix(".png")),
    ),
}
BUNDLES = {
    "train": lambda at, to: ("train", at / "recipe.toml", "--quiet", "--out", to),
    "demo": lambda at, to: ("demo", "--quiet", "--synthetic", "--out", to),
    "update": lambda at, to: (*("update", at / "bundle", "--events", at / "log.csv", "--out", to),),
    "index": lambda at, to: ("index", at / "bundle", "--kind", "exact", "--out", to),
}
FOLDERS = {
    "refresh": lambda at, to: (
        *("refresh", at / "bundle", "--events", at / "log.csv", "--out", to),
    ),
    "tune": lambda at, to: ("tune", at / "recipe.toml", "--out", to),
    "train-checkpoint": lambda at, to: (
        *("train", at / "recipe.toml", "--out", at / "unused", "--checkpoint", to),
    ),
}

NEW_FOLDERS = {"export": lambda at, to: ("export", at / "bundle", "--onnx", to)}
WRITTEN = [
    *(*FILES, *BUNDLES),
    pytest.param(
        "export", marks=pytest.mark.skipif(not find_spec("onnx"), reason="needs the extra onnx")
    ),
]


@pytest.fixture
def project(folder, bundle, tmp_path):
    """A copy of the project in which a command may write."""
    at = tmp_path / "project"
    shutil.copytree(folder, at)
    return at


def call(*arguments) -> int:
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def refusal(capsys, *arguments):
    """Run a command that must be refused with the code of outputs; return its one sentence."""
    capsys.readouterr()
    code = call(*arguments)
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert (code, len(errors)) == (3, 1), captured.err
    assert "Traceback" not in captured.err + captured.out
    return errors[0]


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize("command", [*FILES, *BUNDLES, *FOLDERS, *NEW_FOLDERS])
def test_a_place_that_cannot_be_is_refused_before_any_work(
    capsys, project, command, tmp_path, monkeypatch, snapshot
):
    asked = (FILES | BUNDLES | FOLDERS | NEW_FOLDERS)[command]
    (tmp_path / "link").symlink_to(project / "bundle")
    written = asked(project, tmp_path / "new")[-1]
    (tmp_path / "there").mkdir()
    there = tmp_path / "there" / written.name
    (there.mkdir if command in BUNDLES else there.touch)()
    before = snapshot(tmp_path)
    for place in (project / "bundle", tmp_path / "link"):
        assert "would lie in the bundle" in refusal(capsys, *asked(project, place / "new"))
    assert "is not a folder" in refusal(capsys, *asked(project, project / "log.csv" / "new"))
    said = refusal(capsys, *asked(project, tmp_path / "there" / "new"))
    assert "exists already" in said or "is not a folder" in said
    if command in FILES:
        assert "there is no folder" in refusal(capsys, *asked(project, tmp_path / "no" / "new"))
    monkeypatch.setattr(outputs, "os", Disk(errno.EROFS, {"mkdir", "open"}))
    assert "Read-only file system" in refusal(capsys, *asked(project, tmp_path / "new"))
    monkeypatch.undo()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [*FILES, *BUNDLES])
def test_what_is_there_is_replaced_when_asked_and_a_link_without_its_target(
    project, command, tmp_path, snapshot
):
    asked = (FILES | BUNDLES)[command](project, tmp_path / "new")
    target, real = asked[-1], tmp_path / "real"
    if command in BUNDLES:
        shutil.copytree(project / "bundle", real)
    else:
        real.write_text("mine")
    target.symlink_to(real)
    before = snapshot(real) if real.is_dir() else real.read_bytes()
    for turn in range(2):
        if "--plot" in asked:
            shutil.rmtree(project / "unused", ignore_errors=True)
        assert call(*asked, "--overwrite") == 0, turn
        assert not target.is_symlink()
        assert (snapshot(real) if real.is_dir() else real.read_bytes()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"project", "real", target.name}


class Disk:
    """The `os` module, of which some calls fail."""

    def __init__(self, code, calls):
        self.code, self.calls = code, calls

    def __getattr__(self, name):
        return self.refuse if name in self.calls else getattr(os, name)

    def refuse(self, *_, **__):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("command", WRITTEN)
def test_a_disk_that_is_full_leaves_nothing_and_says_so(
    capsys, project, command, tmp_path, monkeypatch, snapshot
):
    asked = (FILES | BUNDLES | NEW_FOLDERS)[command](project, tmp_path / "new")
    monkeypatch.setattr(outputs.tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = snapshot(tmp_path)
    if command == "index-plot":  # the bundle would not fit either
        monkeypatch.setattr(bundles, "save_or_keep", lambda *_, **__: "0" * 12)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        said = refusal(capsys, *asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in said
    assert str(tmp_path) in said
    assert ("could not be kept elsewhere" in said) == (command in BUNDLES)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", WRITTEN)
def test_ctrl_c_while_it_is_written_leaves_nothing(
    capsys, project, command, tmp_path, monkeypatch, snapshot
):
    asked = (FILES | BUNDLES | NEW_FOLDERS)[command](project, tmp_path / "new")

    def interrupted(path):
        raise KeyboardInterrupt

    before = snapshot(tmp_path)
    monkeypatch.setattr(store, "_sync", interrupted)
    monkeypatch.setattr(outputs, "sync", interrupted)
    assert call(*asked) == 130
    assert "no file is left half written" in capsys.readouterr().err
    monkeypatch.undo()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [*BUNDLES])
def test_a_bundle_that_cannot_be_published_is_kept_and_its_place_named(
    capsys, project, command, tmp_path, monkeypatch
):
    asked = BUNDLES[command](project, tmp_path / "new")
    real = store._move_into_place

    def in_the_way(temporary, directory, overwrite):
        if directory == tmp_path / "new":
            directory.mkdir()
            (directory / "file").write_text("mine")
        return real(temporary, directory, overwrite)

    monkeypatch.setattr(store, "_move_into_place", in_the_way)
    said = refusal(capsys, *asked)
    kept = next(tmp_path.glob("new.kept-*"))
    assert f"It is kept as {kept}" in said
    load(kept)
    assert (tmp_path / "new" / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"project", "new", kept.name}


def test_a_bundle_that_its_own_disk_does_not_take_is_kept_on_another(
    capsys, project, tmp_path, monkeypatch
):
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(outputs.tempfile, "tempdir", str(tmp_path / "system"))
    real = store._write

    def full(path, data):
        if path.parent.parent == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(store, "_write", full)
    said = refusal(capsys, *BUNDLES["train"](project, tmp_path / "new"))
    assert "No space left" in said
    kept = next((tmp_path / "system").iterdir())
    assert f"It is kept as {kept}" in said
    verify(kept)


# Paths that must differ from one another.


@pytest.mark.usefixtures("_no_work")
def test_no_command_replaces_what_it_reads(capsys, project, snapshot):
    (project / "users.parquet").write_text("mine")
    (project / "link.parquet").symlink_to("users.parquet")
    log, bundle, recipe = project / "log.csv", project / "bundle", project / "recipe.toml"
    before = snapshot(project)
    for asked in (
        *(
            ("recommend", bundle, "--users-file", project / one, "--out", project / other)
            for one in ("users.parquet", "link.parquet")
            for other in ("users.parquet", "link.parquet")
        ),
        ("update", bundle, "--events", log, "--out", bundle),
        ("update", bundle, "--events", bundle / "log.parquet", "--out", bundle),
        ("index", bundle, "--out", bundle),
        ("train", bundle / "manifest.json", "--out", bundle),
        ("tune", project / "tuned" / "best.toml", "--out", project / "tuned"),
    ):
        if asked[0] == "tune":
            (project / "tuned").mkdir()
            shutil.copy(recipe, project / "tuned" / "best.toml")
            before = snapshot(project)
        options = () if asked[0] == "tune" else ("--overwrite",)
        if asked[0] == "train":
            continue  # a manifest is no recipe
        assert "would replace an input" in refusal(capsys, *asked, *options)
    changed = ("--set", f'data.interactions="{bundle / "log.parquet"}"', "--overwrite")
    said = refusal(capsys, "train", recipe, "--out", bundle, *changed)
    assert "would replace an input, data.interactions" in said
    assert snapshot(project) == before


@pytest.mark.usefixtures("_no_work")
def test_two_outputs_of_a_command_are_two_places(capsys, project, tmp_path):
    x = tmp_path / "x.parquet"
    said = refusal(capsys, "encode", project / "bundle", "--items", x, "--users", x)
    assert "--items and --users are the same path" in said
    new = tmp_path / "new"
    for checkpoint, message in (
        (new, "are the same path"),
        (new / "ck", "would lie in the bundle"),
    ):
        asked = BUNDLES["train"](project, new)
        assert message in refusal(capsys, *asked, "--checkpoint", checkpoint)
    asked = BUNDLES["index"](project, new)
    assert "there is no folder" in refusal(capsys, *asked, "--plot", new / "x.svg")
    assert {path.name for path in tmp_path.iterdir()} == {"project"}


@pytest.mark.usefixtures("_no_work")
def test_a_plot_is_refused_before_the_work_for_its_format_and_without_matplotlib(
    capsys, project, tmp_path, monkeypatch
):
    for command in ("index-plot", "tune-plot"):
        asked = FILES[command](project, tmp_path / "new")
        said = refusal(capsys, *asked[:-1], tmp_path / "new.xyz")
        assert "must end in .png or .svg or .pdf" in said
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "matplotlib.figure", None)
            assert call(*asked) == 2
            assert "plots need matplotlib" in capsys.readouterr().err


def test_an_option_to_overwrite_nothing_is_refused(capsys, project):
    for asked, needed in (
        (("recommend", project / "bundle", "--user", "10001"), "--out"),
        (("tune", project / "recipe.toml", "--out", project / "tuned"), "--plot"),
        (("evaluate", project / "bundle"), "--html"),
        (("compare", project / "bundle", f"b={project / 'bundle'}"), "--html"),
    ):
        assert call(*asked, "--overwrite") == 2
        assert f"--overwrite does nothing without {needed}" in capsys.readouterr().err


def test_the_demo_replaces_its_own_bundle_at_its_own_place_and_nothing_else(
    capsys, project, tmp_path, monkeypatch, snapshot
):
    monkeypatch.chdir(tmp_path)
    asked = ("demo", "--quiet", "--synthetic")
    own = load_recipe(project / "recipe.toml", []).to_dict()
    own["data"]["interactions"] = demo.RECIPE["data"]["interactions"]
    monkeypatch.setattr(demo.Recipe, "to_dict", lambda self: own)
    assert call(*asked) == 0
    assert call(*asked) == 0
    assert "exists already" in refusal(capsys, *asked, "--out", "runs/demo")
    shutil.rmtree("runs/demo")
    shutil.copytree(project / "bundle", "runs/demo")
    before = snapshot(tmp_path / "runs")
    assert "exists already" in refusal(capsys, *asked)
    assert snapshot(tmp_path / "runs") == before
    assert call(*asked, "--overwrite") == 0


def test_a_bundle_is_never_saved_into_another(bundle, trained, snapshot):
    before = snapshot(bundle)
    with pytest.raises(outputs.OutputError, match="would lie in the bundle"):
        bundles.save(trained.retriever, bundle / "inner")
    with pytest.raises(outputs.OutputError, match="would lie in the bundle"):
        bundles.save(trained.retriever, bundle / "inner", overwrite=True)
    assert snapshot(bundle) == before


def test_a_tuning_in_a_folder_of_somebody_else_is_refused(project, tmp_path):
    (tmp_path / tuning.BEST).write_text("mine")
    with pytest.raises(outputs.OutputError, match=r"no trials\.jsonl beside it"):
        tuning.check_directory(tmp_path)


# What is printed is written, too.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
@pytest.mark.parametrize("way", ["at once", "at the end"])
def test_an_answer_that_stdout_does_not_take_is_one_sentence(capsys, project, monkeypatch, way):
    # The system's buffer takes a short answer, and refuses it when it is flushed.
    asked = ("inspect", project / "bundle", "--json")
    for command in (asked, ("--version",), ("--help",), asked[:-1]):
        with open("/dev/full", "w", buffering=1 if way == "at once" else 10**6) as full:
            monkeypatch.setattr(sys, "stdout", full)
            said = refusal(capsys, *command)
            monkeypatch.undo()
        assert said == "error: cannot write to standard output: No space left on device"


class FullLog(io.StringIO):
    """A text file on a disk that is full."""

    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        self.write(None)


def test_notes_that_stderr_does_not_take_end_nothing(project, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", FullLog())
    asked = ("train", project / "recipe.toml", "--out", tmp_path / "new")
    assert call(*asked) == 0
    assert call(*asked) == 3
    monkeypatch.undo()
    verify(tmp_path / "new")
