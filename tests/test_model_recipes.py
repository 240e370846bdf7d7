"""Each named model is a valid recipe that runs, and its page describes it truly."""

import re
import tomllib
from pathlib import Path

import pytest

from shortlist.asking.queries import Queries
from shortlist.config import Recipe, load_recipe
from shortlist.data.synthetic import planted_world
from shortlist.runs import pipeline

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "src" / "shortlist" / "drafting" / "models").glob("*.toml"))
FEATURES = {
    "users": {"region": "categorical", "age": "numeric"},
    "items": {"tags": "multi-valued", "price": "numeric"},
    "title": "title",
}
SMALL = {
    "dim": 8,
    "history_length": 12,
    "user_layers": [8],
    "item_layers": [8],
    "epochs": 1,
    "batch_size": 256,
    "negatives": 16,
    "hard_ranks": [5, 30],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world = planted_world(users=120, items=100, events=2_000, seed=4)
    world.interactions.write_parquet(folder / "log.parquet")
    world.users.write_parquet(folder / "users.parquet")
    world.items.write_parquet(folder / "items.parquet")
    return folder


def small(path: Path, folder: Path) -> Recipe:
    """The recipe on the planted world, its sizes cut where it gives them."""
    content = tomllib.loads(path.read_text())
    content["data"] = {"interactions": "log.parquet", "time": "timestamp"}
    if "features" in content:
        content["data"] |= {"users": "users.parquet", "items": "items.parquet"}
        content["features"] = FEATURES
    content["split"] = {"kind": "leave-last-out"}
    content["model"]["dim"] = SMALL["dim"]
    for section in ("model", "training"):
        for key in content[section].keys() & SMALL.keys():
            content[section][key] = SMALL[key]
    return Recipe.from_dict(content, folder)


def test_there_is_a_recipe_for_each_named_model():
    assert {path.stem for path in RECIPES} == {
        *("dssm", "youtube-dnn", "youtube-sbc", "facebook-ebr", "mf-bpr", "simplex-mf"),
        *("gru4rec", "sasrec", "gsasrec", "hstu", "comirec", "mind"),
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_named_model_trains_and_recommends(path, files):
    recipe = small(path, files)
    trained = pipeline.train(recipe, pipeline.load_split(recipe))
    users = trained.retriever.data.users.ids.head(5)
    found = trained.retriever.recommend(Queries(users, before="test"), 7)
    assert not found.fallback.any()
    assert all(len(items) == 7 for items in found.ids)
    assert 0 <= trained.report.metrics["recall@10"].mean <= 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_named_model_is_what_its_comments_and_the_guide_say(path):
    recipe = load_recipe(path)
    pipeline.check(recipe)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert re.search(r"\(\w+.* (19|20)\d\d\)", comments[0])
    assert any(line.startswith("# Not as in the paper:") for line in comments)
    page = (ROOT / "docs" / "guide" / "models.md").read_text()
    (row,) = [line for line in page.splitlines() if f"models/{path.name})" in line]
    said = set(re.findall(r"`([^`]+)`", row))
    training, model = recipe.training, recipe.model
    assert {model.history, training.loss, training.sampler, training.similarity} <= said
    assert training.hard is None or training.hard in said
