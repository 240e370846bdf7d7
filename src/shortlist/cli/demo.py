"""The main job on data anybody can get: MovieLens-100K, or a planted world without a network."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shortlist.config import Recipe
from shortlist.data.dataset import Dataset, TrainingData
from shortlist.data.obtaining import movielens_100k
from shortlist.data.synthetic import planted_world
from shortlist.outputs import BUNDLE_MARKS
from shortlist.runs.pipeline import Trained, schema_of, split_of, train
from shortlist.training.progress import Progress

RECIPE: dict[str, Any] = {
    "data": {
        "interactions": "interactions",
        "users": "users",
        "items": "items",
        "time": "timestamp",
    },
    "training": {"epochs": 8, "batch_size": 512, "refit": "train+validation"},
    "evaluation": {"k": [10, 100]},
}
"""What is common to both demos; the tables come from memory, so the paths only name them."""

MOVIE_FEATURES: dict[str, Any] = {
    "users": {"age": "numeric", "gender": "categorical", "occupation": "categorical"},
    "items": {"genres": "multi-valued", "year": "numeric"},
    "title": "title",
}
PLANTED_FEATURES: dict[str, Any] = {
    "users": {"age": "numeric", "region": "categorical"},
    "items": {"tags": "multi-valued", "price": "numeric"},
    "title": "title",
}


PLACE = Path("runs/demo")
"""Where the demo's bundle goes unless told otherwise; there it replaces the one before."""


class World(NamedTuple):
    """Data to show the main job on, the recipe for it, and what to say about them."""

    dataset: Dataset
    recipe: Recipe
    lines: tuple[str, ...]


def world(directory: Path | None, *, synthetic: bool, small: bool, seed: int = 0) -> World:
    """Return MovieLens-100K (from `directory`, the cache or the network), or the planted world."""
    content = {**RECIPE, "features": PLANTED_FEATURES if synthetic else MOVIE_FEATURES}
    if synthetic:
        size = {"users": 1000, "items": 400, "events": 30_000} if small else {}
        made = planted_world(**size)
        tables = {"interactions": made.interactions, "users": made.users, "items": made.items}
        if small:
            content["training"] = {**RECIPE["training"], "epochs": 4}
        lines: tuple[str, ...] = ("A planted world, made here: groups of taste, no real users.",)
    else:
        tables, lines = movielens_100k(directory)
    content["training"] = {**content["training"], "seed": seed}
    recipe = Recipe.from_dict(content)
    dataset = Dataset.load(**tables, schema=schema_of(recipe))
    return World(dataset, recipe, (*lines, *dataset.report.lines()))


def run(world: World, *, device: str = "cpu", progress: Progress | None = None) -> Trained:
    """Split, train and measure."""
    split = split_of(world.recipe, world.dataset)
    return train(world.recipe, split, device=device, progress=progress)


def is_demo(bundle: Path) -> bool:
    """Whether a demo made what is there: its recipe names tables in memory, which no file has."""
    try:
        recipe = json.loads((bundle / BUNDLE_MARKS[0]).read_bytes())["recipe"]
        return bool(recipe["data"]["interactions"] == RECIPE["data"]["interactions"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def someone(data: TrainingData) -> Any:
    """Return the id of a user with a history of middling length: somebody to show titles for."""
    sizes = np.diff(data.log.indptr)[1:]
    row = int(np.argsort(sizes, kind="stable")[len(sizes) // 2]) + 1
    return data.users.external(np.array([row]))[0]
