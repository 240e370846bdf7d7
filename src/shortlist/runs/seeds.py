"""How much does a figure vary with the seed? A recipe is trained with several seeds."""

from collections.abc import Callable
from pathlib import Path

from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import parts
from shortlist.channels.learned.base import Learner
from shortlist.config import Recipe
from shortlist.errors import RecipeError
from shortlist.runs.pipeline import build
from shortlist.runs.several import Several, train_several
from shortlist.training.ranks import here


def check_seeds(recipe: Recipe, seeds: int) -> None:
    """Refuse fewer than two seeds, and a recipe whose result does not depend on training.seed.

    Errors: RecipeError, ModelError.
    """
    if seeds < 2:
        raise RecipeError(f"seeds must be at least 2, got {seeds}: one seed has no spread")
    if here().several:
        raise RecipeError("--seeds trains models one after the other: start it without torchrun")
    first, second = (_drawn_from(build(seeded(recipe, number))) for number in (0, 1))
    if not first:
        raise RecipeError("seeds do nothing here: no channel of the recipe uses random numbers")
    for name, seed in first.items():
        if second[name] == seed:
            channel = name if name in recipe.channels else next(iter(recipe.channels))
            raise RecipeError(
                f"channels.{channel}.seed = {seed} is fixed, so each seed would train the same "
                "channel: leave it out, so that the channel uses training.seed"
            )


def _drawn_from(retriever: Channel) -> dict[str, int]:
    """Return the seed of each channel that uses random numbers, by the name of the channel."""
    seeds = {}
    for name, part in parts(retriever).items():
        own = part.training_section if isinstance(part, Learner) else getattr(part, "options", None)
        seed = getattr(own, "seed", None)
        if seed is not None:
            seeds[name] = int(seed)
    return seeds


def seeded(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with training.seed raised by `number`."""
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + number})
    return recipe.model_copy(update={"training": training})


def train_seeds(
    recipe: Recipe,
    out: Path,
    seeds: int,
    train: Callable[[Recipe, Path], object],
    *,
    overwrite: bool = False,
) -> Several:
    """Train a recipe with training.seed, training.seed + 1 and so on: one bundle each, below `out`.

    seeds: number of trainings, at least 2.
    train: writes the bundle of a recipe to a path.
    overwrite: replaces bundles that exist. See `train_several`.
    """
    check_seeds(recipe, seeds)
    wanted = {each.training.seed: each for each in (seeded(recipe, n) for n in range(seeds))}
    return train_several(
        "seed", out, wanted, lambda _, each, place: train(each, place), overwrite=overwrite
    )
