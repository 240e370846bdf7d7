"""A recipe carried out: read, split, train, measure. What the command line and the demo share."""

from typing import Any, NamedTuple

from shortlist.config import Recipe
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.errors import ModelError
from shortlist.evaluation.evaluate import evaluate
from shortlist.evaluation.report import Report
from shortlist.retrievers import LEARNED, Learned
from shortlist.towers.two_tower import check_features
from shortlist.training.progress import Progress


class Trained(NamedTuple):
    """A retriever ready to save, and what was measured; the report names the fit it measured."""

    retriever: Learned
    report: Report


def schema_of(recipe: Recipe) -> Schema:
    """Return the schema that a recipe's [data] and [features] describe."""
    data, features = recipe.data, recipe.features
    separator = features.separator
    return Schema(
        user=data.user,
        item=data.item,
        time=data.time,
        weight=data.weight,
        session=data.session,
        split=recipe.split.column,
        min_weight=data.min_weight,
        tie=data.tie,
        user_features=tuple(Feature(n, kind, separator) for n, kind in features.users.items()),
        item_features=tuple(Feature(n, kind, separator) for n, kind in features.items.items()),
        title=features.title,
        click=data.click,
    )


def check(recipe: Recipe) -> None:
    """Refuse a combination of options that cannot work, before any data is read."""
    positives = recipe.training.positives
    LEARNED[positives](model=recipe.model, training=recipe.training)
    users, items = recipe.features.users, recipe.features.items
    for side, declared, readers in (("users", users, ("u2i",)), ("items", items, ("u2i", "i2i"))):
        if declared and positives not in readers:
            raise ModelError(
                f"features.{side} does nothing with positives = '{positives}': no tower reads the "
                f"features of {side} there; remove it"
            )
    check_features("user", recipe.model.user_features or (), users, items)
    check_features("item", recipe.model.item_features or (), items, users)


def load_split(recipe: Recipe) -> Split:
    """Read a recipe's files and split the log as it says."""
    return split_of(
        recipe,
        Dataset.load(
            recipe.interactions_path,
            users=recipe.users_path,
            items=recipe.items_path,
            impressions=recipe.impressions_path,
            dropped=recipe.dropped_path,
            schema=schema_of(recipe),
        ),
    )


def split_of(recipe: Recipe, dataset: Dataset) -> Split:
    """Split a dataset as a recipe says."""
    section = recipe.split
    return dataset.split(section.kind, at=section.at, seed=section.seed)


def train(
    recipe: Recipe, split: Split, *, device: str = "cpu", progress: Progress | None = None
) -> Trained:
    """Fit, measure on the test rows, and with `refit = "all"` fit once more on everything.

    The figures of a refit on "all" are those of the fit before it: nothing is left to measure it.
    """
    refit = recipe.training.refit
    first: dict[str, Any] = {"refit": "none"} if refit == "all" else {}
    retriever = LEARNED[recipe.training.positives](
        model=recipe.model,
        training=recipe.training.model_copy(update=first),
        device=device,
    ).fit(split, progress=progress)
    report = evaluate(retriever, k=recipe.evaluation.k, exclude_seen=recipe.evaluation.exclude_seen)
    if refit == "all":
        retriever.training_section = recipe.training
        retriever.refit(split, "all", progress=progress)
    return Trained(retriever, report)
