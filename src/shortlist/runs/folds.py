"""How much does a figure vary over time? A recipe is trained and measured on several folds."""

from collections.abc import Callable, Sequence
from pathlib import Path

from shortlist.config import Recipe
from shortlist.data.dataset import Split
from shortlist.errors import RecipeError
from shortlist.runs.pipeline import check, folds_of, load_dataset
from shortlist.runs.several import Several, train_several
from shortlist.runs.whole import carry_out


def train_folds(
    recipe: Recipe,
    out: str | Path,
    *,
    folds: Sequence[Split] | None = None,
    train: Callable[[Split, Path], object] | None = None,
    overwrite: bool = False,
) -> Several:
    """Train a recipe with split.kind = "rolling": one bundle per fold, below `out`.

    The bundle of the last fold is trained on the most events.

    folds: the splits; None reads the files of the recipe and makes them.
    train: writes the bundle of a split to a path; `carry_out` by default.
    overwrite: replaces bundles that exist. See `train_several`.
    Errors: RecipeError for another kind of split.
    """
    if recipe.split_kind != "rolling":
        raise RecipeError(f'folds need split.kind = "rolling", got "{recipe.split_kind}"')
    if folds is None:
        check(recipe)
        folds = folds_of(recipe, load_dataset(recipe))

    def one(number: int, _: Recipe, place: Path) -> object:
        split = folds[number - 1]
        if train is not None:
            return train(split, place)
        return carry_out(recipe, split, place, overwrite=overwrite)

    wanted = dict.fromkeys(range(1, len(folds) + 1), recipe)
    return train_several("fold", Path(out), wanted, one, overwrite=overwrite)
