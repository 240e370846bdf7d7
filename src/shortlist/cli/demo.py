"""What does the demo train on? MovieLens-100K, or generated data that needs no network."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shortlist.config import Recipe
from shortlist.data.dataset import Dataset
from shortlist.data.obtaining import movielens_100k
from shortlist.data.synthetic import planted_world
from shortlist.data.training_data import TrainingData
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
    "model": {"dropout": 0.2},
    "training": {"epochs": 8, "batch_size": 512, "patience": 3, "refit": "train+validation"},
    "evaluation": {"k": [10, 100]},
}
"""Keys of both demo recipes; the tables are in memory, so these paths are only names."""

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
"""Default directory of the demo's bundle, where a new demo replaces an earlier one."""


class World(NamedTuple):
    """The demo's data, its recipe, and the notes to print about them."""

    dataset: Dataset
    recipe: Recipe
    lines: tuple[str, ...]


def world(directory: Path | None, *, synthetic: bool, small: bool, seed: int = 0) -> World:
    """Return MovieLens-100K (from `directory`, the cache or a download), or generated data."""
    content = {**RECIPE, "features": PLANTED_FEATURES if synthetic else MOVIE_FEATURES}
    if synthetic:
        size = {"users": 1000, "items": 400, "events": 30_000} if small else {}
        made = planted_world(**size)
        tables = {"interactions": made.interactions, "users": made.users, "items": made.items}
        if small:
            content["training"] = {**RECIPE["training"], "epochs": 4}
        lines: tuple[str, ...] = ("Generated data with groups of taste; no real users.",)
    else:
        tables, lines = movielens_100k(directory)
    content["training"] = {**content["training"], "seed": seed}
    recipe = Recipe.from_dict(content)
    dataset = Dataset.load(**tables, schema=schema_of(recipe))
    return World(dataset, recipe, (*lines, *dataset.report.lines()))


def run(world: World, *, device: str = "cpu", progress: Progress | None = None) -> Trained:
    """Split, train and evaluate."""
    split = split_of(world.recipe, world.dataset)
    return train(world.recipe, split, device=device, progress=progress)


def is_demo(bundle: Path) -> bool:
    """Tell whether a demo made the bundle: its recipe names the tables in memory."""
    try:
        recipe = json.loads((bundle / BUNDLE_MARKS[0]).read_bytes())["recipe"]
        return bool(recipe["data"]["interactions"] == RECIPE["data"]["interactions"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def someone(data: TrainingData) -> Any:
    """Return the id of a user with a history of median length, to show titles for."""
    sizes = np.diff(data.log.indptr)[1:]
    row = int(np.argsort(sizes, kind="stable")[len(sizes) // 2]) + 1
    return data.users.external(np.array([row]))[0]
