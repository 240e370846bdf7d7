"""What do the keys that say "auto" come to? Numbers that follow from the log alone."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shortlist.config import Model, Training, section_from
from shortlist.config.parts import given
from shortlist.data.dataset import TrainingData
from shortlist.sections.base import Section, is_auto

logger = logging.getLogger("shortlist.training")

STEPS_AN_EPOCH = 512
"""Steps that an epoch is to have at least: fewer rows a step, until there are so many."""

BATCHES = (256, 1024)
"""The fewest and the most rows of a step."""

BUDGET = 20_000
"""Steps of a whole training, within the bounds of `EPOCHS`."""

EPOCHS = (10, 40)
"""The fewest and the most passes over the log."""

MET_OFTEN = 20
"""Positives of an item, on average, from which on half as many passes are the most: each pass
shows an item so often, and more passes overfit.
"""

TINY = (1_000, 100)
"""Steps that even a tiny log is to have, and the passes that are made for them at most."""

WARMUP = 100
"""The most steps over which the step size rises."""

DENSE = 100
"""Positives of an item, on average, from which on vectors are wider."""

SPARSE = 5
"""Positives of an item, on average, below which more is dropped."""


@dataclass(frozen=True)
class Facts:
    """What a training learns from: positives of an epoch, and items that were met in training."""

    positives: int
    items: int

    @classmethod
    def of(cls, data: TrainingData, positives: int) -> "Facts":
        """Of a log, whose training rows make so many positives."""
        return cls(positives, data.items.trained)

    @property
    def events_an_item(self) -> float:
        """How often an item was met, on average."""
        return self.positives / max(self.items, 1)


class Chosen(NamedTuple):
    """The number of a key, and why."""

    value: int | float
    reason: str


class Settled(NamedTuple):
    """Both sections with a number in place of each "auto"; chosen: these numbers, by key."""

    model: Model
    training: Training
    chosen: Mapping[str, Chosen]


def autos(*sections: Section) -> list[str]:
    """Return the keys that say "auto" where that stands for a number.

    >>> autos(Model(dim="auto"), Training(precision="auto", warmup="auto"))
    ['dim', 'warmup']
    """
    return [
        key
        for section in sections
        for key in type(section).model_fields
        if key in _RULED and is_auto(getattr(section, key))
    ]


def settle(model: Model, training: Training, facts: Facts | None) -> Settled:
    """Put a number in place of each "auto", the same for the same log, and say which in the log.

    facts: None where no log could be read; then they are the defaults. Errors: ModelError for a
    number that contradicts another key.
    """
    asked = autos(model, training)
    if not asked:
        return Settled(model, training, {})
    if facts is None:
        chosen = {key: Chosen(number_of(key, Model(), Training()), "") for key in asked}
    else:
        chosen = {key: one for key, one in _all(model, training, facts).items() if key in asked}
        for key, one in chosen.items():
            logger.info("auto: %s = %s, %s", key, one.value, one.reason)
    values = {key: one.value for key, one in chosen.items()}
    return Settled(*section_from(model, training, values), chosen)


MODEL_KEYS = ("dim", "dropout")
"""The keys of [model] that may say "auto"; the others are of [training]."""

_RULED = (*MODEL_KEYS, "batch_size", "epochs", "warmup", "patience")


def number_of(key: str, model: Model, training: Training) -> int | float:
    """Return the number that one of these keys has."""
    number: int | float = getattr(model if key in MODEL_KEYS else training, key)
    return number


def _all(model: Model, training: Training, facts: Facts) -> dict[str, Chosen]:
    """The number of each key; those that others follow from are taken as they were given."""
    found = {"dim": _dim(model, facts), "dropout": _dropout(facts)}
    found["batch_size"] = _batch_size(facts)
    rows = _or(training.batch_size, found["batch_size"])
    steps = max(1, math.ceil(facts.positives / rows))
    found["epochs"] = _epochs(steps, facts)
    epochs = int(_or(training.epochs, found["epochs"]))
    found["warmup"] = Chosen(
        min(WARMUP, steps * epochs // 20), f"of {steps * epochs:,} steps in all"
    )
    found["patience"] = Chosen(math.ceil(epochs / 4), f"a quarter of {epochs} epochs")
    return found


def _or(given_value: int | float, chosen: Chosen) -> int | float:
    return chosen.value if is_auto(given_value) else given_value


def _batch_size(facts: Facts) -> Chosen:
    """Return the largest power of two with which an epoch has `STEPS_AN_EPOCH`, within bounds."""
    power = 2 ** max(0, math.floor(math.log2(max(facts.positives / STEPS_AN_EPOCH, 1))))
    rows = min(max(power, BATCHES[0]), BATCHES[1])
    steps = math.ceil(facts.positives / rows)
    return Chosen(rows, f"with which {facts.positives:,} positives make {steps:,} steps an epoch")


def _epochs(steps: int, facts: Facts) -> Chosen:
    most = EPOCHS[1] // 2 if facts.events_an_item >= MET_OFTEN else EPOCHS[1]
    epochs = min(max(BUDGET // steps, EPOCHS[0]), most)
    epochs = max(epochs, min(TINY[0] // steps, TINY[1]))
    return Chosen(epochs, f"at {steps:,} steps each, of a budget of {BUDGET:,} steps")


def _dim(model: Model, facts: Facts) -> Chosen:
    """Wider where the log is dense; a multiple that the heads of attention can share."""
    width = 128 if facts.events_an_item >= DENSE else 64
    heads = given(model, "history").get("history_heads", 1)
    width = math.ceil(width / (2 * heads)) * 2 * heads
    return Chosen(width, f"for {facts.events_an_item:,.1f} positives an item")


def _dropout(facts: Facts) -> Chosen:
    share = 0.5 if facts.events_an_item < SPARSE else 0.3
    return Chosen(share, f"for {facts.events_an_item:,.1f} positives an item")
