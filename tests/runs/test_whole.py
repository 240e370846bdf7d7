"""A recipe trained from Python gives the bundle of the command, and checks come first."""

import pytest

import shortlist
from shortlist.cli import main
from shortlist.config import Recipe, load_recipe
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, OutputError, RecipeError

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[model]
dim = 4

[training]
epochs = 1
batch_size = 64
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    world = planted_world(users=60, items=40, events=600, seed=3)
    world.interactions.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_train_in_python_makes_the_bundle_of_the_command(folder, monkeypatch):
    run = shortlist.train(folder / "recipe.toml", folder / "python", overrides=["model.dim=8"])
    arguments = ["train", "recipe.toml", "--out", "command", "--set", "model.dim=8", "--quiet"]
    monkeypatch.setattr("sys.argv", ["shortlist", *arguments])
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match="0"):
        main()
    made, other = (shortlist.load(folder / name) for name in ("python", "command"))
    assert made.manifest.files == other.manifest.files
    assert made.manifest.fields["findings"] == other.manifest.fields["findings"]
    assert (made.manifest.id, made.metrics) == (run.bundle, run.report.to_dict())
    assert run.to_dict()["findings"] == [finding.to_dict() for finding in run.findings]


def test_what_cannot_be_written_or_cannot_work_is_refused_before_the_log_is_read(folder):
    recipe = load_recipe(folder / "recipe.toml")
    (folder / "log.csv").write_text("broken")
    (folder / "taken").mkdir()
    (folder / "taken" / "file").touch()
    with pytest.raises(OutputError, match="taken"):
        shortlist.train(recipe, folder / "taken")
    idle = Recipe.from_dict(
        {"data": {"interactions": "log.csv"}, "channels": {"a": {"kind": "popular", "recency": 2}}},
        folder,
    )
    with pytest.raises(ModelError, match="recency"):
        shortlist.train(idle, folder / "out")
    with pytest.raises(RecipeError, match="a path or a Recipe, got dict"):
        shortlist.train({"data": {}}, folder / "out")
    with pytest.raises(RecipeError, match="overrides"):
        shortlist.train(recipe, folder / "out", overrides=["model.dim=8"])
    assert not (folder / "out").exists()
