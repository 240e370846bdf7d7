"""What are the steps from a recipe to a measured retriever? Check, read, split, build, train."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shortlist.asking.capabilities import Channel, Encodes
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import parts
from shortlist.channels.learned.base import Learner
from shortlist.channels.options import on_cpu, options_of
from shortlist.channels.table import CHANNELS, LEARNED
from shortlist.compiled import cpu_time
from shortlist.config import Model, Recipe, Training
from shortlist.config.unread import unread
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.text import TextFormat
from shortlist.errors import ModelError, RecipeError, suggest_part
from shortlist.evaluation.evaluate import Untrained, evaluate_beside
from shortlist.evaluation.report import MODEL, Report
from shortlist.towers.two_tower import check_event_features, check_features
from shortlist.training.auto import autos, number_of
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.precision import is_slow
from shortlist.training.progress import Progress
from shortlist.training.ranks import here
from shortlist.training.tables import check_dealt


class Trained(NamedTuple):
    """A fitted retriever, and its report. `report.fit` names the rows of the fit it measured."""

    retriever: Channel
    report: Report


def schema_of(recipe: Recipe) -> Schema:
    """Return the schema that a recipe's [data] and [features] describe."""
    data, features = recipe.data, recipe.features
    separator, width = features.separator, features.text_width
    return Schema(
        user=data.user,
        item=data.item,
        time=data.time,
        time_unit=data.time_unit,
        weight=data.weight,
        session=data.session,
        split=recipe.split.column,
        min_weight=data.min_weight,
        order=data.order,
        tie=data.tie,
        user_features=tuple(
            Feature(n, kind, separator, width) for n, kind in features.users.items()
        ),
        item_features=tuple(
            Feature(n, kind, separator, width) for n, kind in features.items.items()
        ),
        title=features.title,
        click=data.click,
        text=TextFormat(
            separator=data.separator,
            quote=data.quote,
            encoding=data.encoding,
            decimal=data.decimal,
            columns=data.columns,
            null_values=data.null_values,
            item_separator=data.item_separator,
        ),
        users_columns=data.users_columns,
        items_columns=data.items_columns,
        users_id=data.users_id,
        items_id=data.items_id,
        null_ids=data.null_ids,
        event=data.event,
        events=data.events,
        event_features=tuple(
            EventFeature(name, column.kind, column.known)
            for name, column in features.events.items()
        ),
    )


def check(recipe: Recipe) -> None:
    """Refuse options that do not work together, before any data is read.

    Errors: ModelError, RecipeError.
    """
    build(recipe)
    if idle := list(unread(recipe)):
        raise ModelError("; ".join(idle))
    if not recipe.has_towers:
        return
    built = parts(build(recipe)).values()
    positives = {channel.positives for channel in built if isinstance(channel, Learner)}
    users, items = recipe.features.users, recipe.features.items
    if not recipe.channels:  # in a blend, another channel may read the features
        for side, declared, readers in (
            ("users", users, {"u2i"}),
            ("items", items, {"u2i", "i2i"}),
        ):
            if declared and not positives & readers:
                raise ModelError(
                    f"features.{side} does nothing with positives = '{min(positives)}': no tower "
                    f"reads the features of {side} there; remove it"
                )
    _check_events(recipe, positives)
    check_features("user", recipe.model.user_features or (), users, items)
    check_features("item", recipe.model.item_features or (), items, users)


def _check_events(recipe: Recipe, positives: set[str]) -> None:
    """Refuse features of events that towers cannot read, and those that no tower reads."""
    events, model = recipe.features.events, recipe.model
    after = {name for name, column in events.items() if column.known == "after"}
    check_event_features(model, events, after)
    if not events or recipe.channels:
        return
    if "u2i" not in positives:
        raise ModelError(
            f"features.events does nothing with positives = '{min(positives)}': no tower reads the "
            "features of events there; remove it"
        )
    past = () if model.history == "none" else model.history_features
    read = {*(events if past is None else past)}
    read |= events.keys() - after if model.context is None else {*model.context}
    if idle := sorted(events.keys() - read):
        raise ModelError(
            f"features.events.{idle[0]} does nothing: name it in model.history_features"
            + ("" if idle[0] in after else " or model.context")
            + (", and give a model.history" if model.history == "none" else "")
            + "; or remove it"
        )


def settled(recipe: Recipe, retriever: Channel) -> Recipe:
    """Return the recipe with each "auto" replaced by the number that the fit chose.

    A later training with the returned recipe uses the same numbers, even if the log has grown. In a
    recipe with channels, the table of each channel gets the numbers of that channel.
    """
    found = {
        name: part.numbers for name, part in parts(retriever).items() if isinstance(part, Learner)
    }
    if not any(found.values()) and (found or not recipe.channels):
        return recipe
    said = recipe.to_dict()
    if not recipe.channels:
        (numbers,) = found.values()
        for section in ("model", "training"):
            said[section] |= {key: v for key, v in numbers.items() if key in said[section]}
        return Recipe.from_dict(said, recipe.base)
    names = dict(zip(parts(retriever), recipe.channels, strict=True))
    for name, numbers in found.items():
        said["channels"][names[name]] |= numbers
    for section in ("model", "training"):
        for key in autos(getattr(recipe, section)):
            said[section][key] = number_of(key, Model(), Training())
    return Recipe.from_dict(said, recipe.base)


def is_slow_in_bfloat16(recipe: Recipe, device: str) -> bool:
    """Tell whether the recipe asks for bfloat16 on a device that has no arithmetic for it."""
    towers = (part for part in parts(build(recipe, device)).values() if isinstance(part, Learner))
    return any(is_slow(part.training_section.precision, part.device) for part in towers)


def check_together(recipe: Recipe) -> None:
    """Refuse a recipe that the processes of this training cannot train together.

    Errors: ModelError.
    """
    if here().several and recipe.split_kind == "rolling":
        raise ModelError(
            'split.kind = "rolling" trains models one after the other: start it without torchrun'
        )
    retriever = build(recipe)
    if isinstance(retriever, Learner):
        check_dealt(retriever.training_section)
    elif here().several:
        what = "holds a blend of channels" if recipe.has_towers else "has no towers"
        raise ModelError(
            f"torchrun has started {here().size} processes, which train one model with towers "
            f"together, and this recipe {what}: start it without torchrun"
        )


def check_resumable(recipe: Recipe) -> None:
    """Refuse checkpoints for a recipe without towers. Errors: ModelError."""
    if not recipe.has_towers:
        raise ModelError(
            "only towers have checkpoints, and no channel of this recipe has towers: leave "
            "checkpoints out"
        )


def build(recipe: Recipe, device: str = "cpu") -> Channel:
    """Return the retriever that a recipe describes, not fitted: towers, a channel, or a blend.

    [training] refit has no effect here: `train` reads it.
    Errors: ModelError, RecipeError, with the path of the key.
    """
    if not recipe.channels:
        return _learner(recipe, LEARNED[recipe.training.positives], {}, device)
    if not recipe.has_towers:
        on_cpu(device, "a recipe without towers")
    channels = {name: _channel(recipe, name, device) for name in recipe.channels}
    if len(channels) == 1:
        return next(iter(channels.values()))
    return Blend(channels, recipe.blend)


def _channel(recipe: Recipe, name: str, device: str) -> Channel:
    options = dict(recipe.channels[name])
    kind = str(options.pop("kind"))
    if kind not in CHANNELS:
        raise RecipeError(
            f"channels.{name}.kind: there is no retriever '{kind}'.{suggest_part(kind, CHANNELS)}"
        )
    retriever = CHANNELS[kind]
    for key in ("device", "model", "training"):  # arguments of retrievers that are no options
        if key in options:
            raise ModelError(f"channels.{name}: there is no option {key!r}")
    try:
        if issubclass(retriever, Learner):
            return _learner(recipe, retriever, options, device)
        own = options_of(retriever)
        seed = None if own is None else own.model_fields.get("seed")
        if seed is not None and seed.default is not None:  # None: it may use no random numbers
            options.setdefault("seed", recipe.training.seed)
        return retriever(**options)
    except ModelError as error:
        raise ModelError(f"channels.{name}: {error}") from error


def _learner(
    recipe: Recipe, kind: type[Learner], options: dict[str, object], device: str
) -> Channel:
    training = recipe.training.model_copy(update={"positives": kind.positives})
    return kind(model=recipe.model, training=training, device=device, **options)


def load_split(recipe: Recipe) -> Split:
    """Read the files of a recipe and split the log. Errors: RecipeError for several folds."""
    if recipe.split_kind == "rolling":
        raise RecipeError(
            'split.kind = "rolling" makes several splits, which only shortlist train and '
            'shortlist.runs.folds.train_folds use; here one split is needed: use "global-time"'
        )
    return split_of(recipe, load_dataset(recipe))


def load_dataset(recipe: Recipe) -> Dataset:
    """Read a recipe's files."""
    recipe.check_redirected()
    return Dataset.load(
        recipe.interactions_path,
        users=recipe.users_path,
        items=recipe.items_path,
        impressions=recipe.impressions_path,
        dropped=recipe.dropped_path,
        schema=schema_of(recipe),
    )


def folds_of(recipe: Recipe, dataset: Dataset) -> tuple[Split, ...]:
    """Split a dataset as a recipe says: into several folds, or into one split of another kind."""
    section = recipe.split
    if recipe.split_kind != "rolling":
        return (split_of(recipe, dataset),)
    return dataset.folds(section.folds or 3, at=0.7 if section.at is None else section.at)


def split_of(recipe: Recipe, dataset: Dataset) -> Split:
    """Split a dataset as a recipe says."""
    section = recipe.split
    return dataset.split(section.kind, at=section.at, seed=section.seed, items=section.items)


def train(
    recipe: Recipe,
    split: Split,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    retriever: Channel | None = None,
    untrained: Untrained | None = None,
) -> Trained:
    """Fit a retriever, measure it on the test rows, and with `refit = "all"` fit it on all rows.

    checkpoints: where the state of the towers is saved during training, and where a stopped
    training continues. The caller removes them after saving the retriever.
    retriever: the retriever to fit; None builds it from the recipe.
    untrained: the methods without training that earlier trainings on the same rows have measured.

    With refit = "all" the figures are those of the fit before the refit, because no rows are left
    to measure the last fit. With several processes only the first one measures; the report of the
    others is empty.
    """
    refit = recipe.training.refit
    retriever = build(recipe, device) if retriever is None else retriever
    saved: dict[str, Checkpoints] = {}
    if checkpoints is not None:
        check_resumable(recipe)
        saved = {"checkpoints": checkpoints}
    with cpu_time() as spent:
        retriever.fit(split, "train", progress=progress, **saved)
        if refit == "train+validation":
            retriever.refit(split, refit, progress=progress, **saved)
    seconds = spent.seconds
    report = measure(retriever, recipe, untrained)
    if refit == "all":
        with cpu_time() as spent:
            retriever.refit(split, "all", progress=progress, **saved)
        seconds += spent.seconds
    if not here().first:
        return Trained(retriever, report)
    costs = {**report.costs, MODEL: report.costs[MODEL]._replace(fit=seconds)}
    return Trained(retriever, replace(report, costs=costs))


def measure(retriever: Channel, recipe: Recipe, untrained: Untrained | None = None) -> Report:
    """Evaluate with the settings of the recipe's [evaluation]; only the first process measures.

    untrained: the methods without training, if others have been measured on the same rows.
    """
    section = recipe.evaluation
    if not here().first:
        return Report.of_nothing("measured by the first process of the training")
    return evaluate_beside(
        *(retriever, untrained or Untrained()),
        on="test",
        k=section.k,
        exclude_seen=section.exclude_seen,
        ladder=section.ladder,
    )


def held_out_queries(retriever: Encodes, most: int) -> Queries:
    """Return queries of users with test rows, each with the history before its test rows.

    The users are a fixed sample of those with training rows, so that each one has a vector. For a
    model fitted on all rows, the queries read whole histories.

    most: the largest number of users.
    """
    data = retriever.data
    users = data.targets("test")[0]
    users = users[users <= data.users.trained]
    pick = np.sort(np.random.default_rng(0).permutation(len(users))[:most])
    encodable = retriever.encodable_users()
    ids = data.users.external(users[pick])
    return Queries(
        ids.filter(ids.is_in(encodable.implode())), before="end" if data.fit == "all" else "test"
    )
