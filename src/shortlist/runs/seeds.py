"""How far does a figure depend on the seed? One recipe, trained with several."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import parts
from shortlist.bundle.bundle import Bundle, load
from shortlist.channels.learned.base import Learner
from shortlist.config import Recipe
from shortlist.errors import BundleError, RecipeError
from shortlist.evaluation.report import SAME_FOR_ONE
from shortlist.runs.pipeline import build

WIDTH = 1.96
"""Standard errors on each side of a 95 % interval."""


class Spread(NamedTuple):
    """A figure over S seeds.

    mean: over the seeds. deviation: the standard deviation of one seed's figure. low, high: a 95 %
    interval for other seeds and other users together: the variance of the mean over users, as each
    report's own interval tells it, plus that of the mean over seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Seeds:
    """A recipe trained with several seeds: their bundles, by seed, and the figures over them."""

    bundles: Mapping[int, Path]
    users: int
    figures: Mapping[str, Spread]

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            "seeds": {str(seed): str(path) for seed, path in self.bundles.items()},
            "users": self.users,
            "metrics": {name: spread._asdict() for name, spread in self.figures.items()},
        }

    def table(self) -> Table:
        """Return a table for people."""
        table = Table(
            title=f"{len(self.bundles)} seeds, {self.users:,} users",
            caption="Mean over the seeds ± half of a 95 % interval over seeds and users; the "
            "deviation is that of one seed.",
        )
        table.add_column("metric", no_wrap=True)
        for name in ("mean", "deviation"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, spread in self.figures.items():
            metric, _, k = name.partition("@")
            if spread == self.figures.get(f"{SAME_FOR_ONE.get(metric, '')}@{k}"):
                continue
            half = (spread.high - spread.low) / 2
            table.add_row(name, f"{spread.mean:.4f} ± {half:.4f}", f"{spread.deviation:.4f}")
        return table


def check_seeds(recipe: Recipe, seeds: int) -> None:
    """Refuse a number of seeds that tells nothing, and a recipe that no seed changes."""
    if seeds < 2:
        raise RecipeError(f"seeds must be at least 2, got {seeds}: one seed has no spread")
    first, second = (_drawn_from(build(seeded(recipe, number))) for number in (0, 1))
    if not first:
        raise RecipeError("seeds do nothing here: no channel of the recipe draws anything")
    for name, seed in first.items():
        if second[name] == seed:
            channel = name if name in recipe.channels else next(iter(recipe.channels))
            raise RecipeError(
                f"channels.{channel}.seed = {seed} is the same for every seed: leave it out, so "
                "that it follows training.seed"
            )


def _drawn_from(retriever: Channel) -> dict[str, int]:
    """The seed of each part of a retriever that draws anything, by name."""
    seeds = {}
    for name, part in parts(retriever).items():
        own = part.training_section if isinstance(part, Learner) else getattr(part, "options", None)
        seed = getattr(own, "seed", None)
        if seed is not None:
            seeds[name] = int(seed)
    return seeds


def seeded(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with the seed that comes so many after its own."""
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + number})
    return recipe.model_copy(update={"training": training})


def folder_of(out: Path, recipe: Recipe) -> Path:
    """Return where the bundle of a recipe's seed lies."""
    return out / f"seed-{recipe.training.seed}"


def train_seeds(
    recipe: Recipe,
    out: Path,
    seeds: int,
    train: Callable[[Recipe, Path], object],
    *,
    overwrite: bool = False,
) -> Seeds:
    """Train a recipe with its seed and those after it; each has its bundle below `out`.

    train: makes the bundle of a recipe at a path. A bundle of the same recipe and seed that is
    there already is taken as it is, so that a stopped command goes on; another one is refused
    (BundleError) unless `overwrite` is set.
    """
    check_seeds(recipe, seeds)
    wanted = [seeded(recipe, number) for number in range(seeds)]
    missing = [each for each in wanted if overwrite or not _is_there(folder_of(out, each), each)]
    for each in missing:
        train(each, folder_of(out, each))
    bundles = {each.training.seed: load(folder_of(out, each)) for each in wanted}
    return Seeds(
        {seed: bundle.manifest.directory for seed, bundle in bundles.items()},
        _metrics(next(iter(bundles.values())))["users"],
        spreads([_metrics(bundle)["metrics"] for bundle in bundles.values()]),
    )


def spreads(reports: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Spread]:
    """Return each figure over seeds, from the mean, low and high that each seed's report gives."""
    found = {}
    for name in reports[0]:
        figures = [report[name] for report in reports]
        mean = math.fsum(figure["mean"] for figure in figures) / len(figures)
        squares = math.fsum((figure["mean"] - mean) ** 2 for figure in figures)
        variance = squares / (len(figures) - 1)
        halves = [(figure["high"] - figure["low"]) / 2 / WIDTH for figure in figures]
        of_users = math.fsum(half**2 for half in halves) / len(halves)
        half = WIDTH * math.sqrt(of_users + variance / len(figures))
        found[name] = Spread(mean, math.sqrt(variance), mean - half, mean + half)
    return found


def _metrics(bundle: Bundle) -> Mapping[str, Any]:
    """The report that a bundle keeps. Errors: BundleError where it keeps none."""
    if bundle.metrics is None:
        raise BundleError(f"{bundle.manifest.directory} was saved without figures")
    return bundle.metrics


def _is_there(path: Path, recipe: Recipe) -> bool:
    """Whether the bundle of this recipe and seed is at a path. Errors: BundleError for another."""
    if not path.exists():
        return False
    if load(path).recipe != recipe.to_dict():
        raise BundleError(
            f"{path} is a bundle of another recipe: take another --out, or --overwrite"
        )
    return True
