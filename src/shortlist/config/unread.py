"""Which keys of a recipe would have no effect? `train` refuses them; bundles are not checked."""

from collections.abc import Iterator, Mapping
from typing import Any

from shortlist.config.features import Features
from shortlist.config.parts import given
from shortlist.config.recipe import LEARNED_KINDS, Recipe
from shortlist.config.training import Training


def unread(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each key that has no effect in this recipe and is otherwise valid."""
    tables = list(recipe.channels.values())
    kinds = {table.get("kind") for table in tables}
    pairs = "item-to-item" in kinds if tables else recipe.training.positives == "i2i"
    if recipe.data.session is not None and not pairs:
        yield (
            'data.session does nothing: sessions are read for positives = "i2i" alone; leave it out'
        )
    if recipe.data.weight is not None and not _weighs(recipe, tables):
        yield (
            "data.weight does nothing: give data.min_weight, training.weighted, or a channel or "
            'loss with values = "explicit"; or leave it out'
        )
    kept = {*recipe.features.users.values(), *recipe.features.items.values()}
    separator = Features.model_fields["separator"].default
    if recipe.features.separator != separator and "multi-valued" not in kept:
        yield "features.separator does nothing: no feature is multi-valued; leave it out"
    width = Features.model_fields["text_width"].default
    if recipe.features.text_width != width and "text" not in kept:
        yield "features.text_width does nothing: no feature is a text; leave it out"
    segments = () if recipe.blend is None else recipe.blend.segments
    divided = any(table.get("segment") for table in tables) or any(s.feature for s in segments)
    if tables and recipe.features.users and not (divided or "two-tower" in kinds):
        yield "features.users does nothing: no channel reads the features of users; leave it out"
    if tables and recipe.features.events and "two-tower" not in kinds:
        yield "features.events does nothing: no channel reads the features of events; leave it out"
    yield from _overridden(recipe, [t for t in tables if t.get("kind") in LEARNED_KINDS])


def _weighs(recipe: Recipe, tables: list[dict[str, Any]]) -> bool:
    """Tell whether anything reads the weights of events, here or in a trial of [tune]."""
    tried = () if recipe.tune is None else recipe.tune.space
    return (
        recipe.data.min_weight is not None
        or recipe.data.weight in recipe.features.events
        or (recipe.has_towers and (recipe.training.weighted or _fitted(recipe.training)))
        or any(table.get("weighted") or table.get("values") == "explicit" for table in tables)
        or any(name.rpartition(".")[2] in ("weighted", "values") for name in tried)
    )


def _fitted(training: Training) -> bool:
    """Tell whether the loss is fitted to the weights of events."""
    return given(training, "loss").get("values") == "explicit"


def _overridden(recipe: Recipe, towers: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each key of [model] and [training] that all channels override."""
    for name, section in (("model", recipe.model), ("training", recipe.training)):
        for key in type(section).model_fields:
            said = section.is_changed(key) and key not in ("refit", "seed")
            if towers and said and all(key in table for table in towers):
                yield (
                    f"{name}.{key} does nothing: every channel with towers has its own {key}; "
                    "leave it out"
                )
