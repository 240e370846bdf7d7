"""Which numbers replace the keys that say "auto"? They depend on the log alone."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shortlist.config import Model, Training, section_from
from shortlist.config.parts import given
from shortlist.data.training_data import TrainingData
from shortlist.sections.base import Section, is_auto
from shortlist.training.presets import IN_BATCH, choose

logger = logging.getLogger("shortlist.training")

STEPS_AN_EPOCH = 512
"""Least number of steps per epoch: batches get smaller until an epoch has as many."""

STEPS_IN_BATCH = 128
"""`STEPS_AN_EPOCH` if the rows of a batch are each other's negatives: with few rows, a step
compares a positive with too few items.
"""

BATCHES = (256, 1024)
"""Smallest and largest batch size."""

BUDGET = 20_000
"""Steps of a whole training, if the bounds of `EPOCHS` allow it."""

EPOCHS = (10, 40)
"""Smallest and largest number of epochs."""

MET_OFTEN = 20
"""Mean events per item from which the largest number of epochs is halved: with so many, each
epoch shows an item often, and more epochs overfit.
"""

TINY = (1_000, 100)
"""Least number of steps for a tiny log, and the largest number of epochs to reach it."""

PATIENCE = 3
"""Smallest patience: figures vary from epoch to epoch, and one worse epoch is no end."""

WARMUP = 100
"""Largest number of warmup steps."""

DENSE = 100
"""Mean events per item from which vectors are wider."""

SPARSE = 5
"""Mean events per item below which dropout is higher."""


@dataclass(frozen=True)
class Facts:
    """The facts about a log that the numbers depend on.

    positives: number of positives in an epoch.
    items: number of items with events in the training rows.
    events: number of events that are learned, where a positive is something else, such as a user;
        None if each positive is one.
    """

    positives: int
    items: int
    events: int | None = None

    @classmethod
    def of(cls, data: TrainingData, positives: int) -> "Facts":
        """Return the facts of a log whose training rows have `positives` positives."""
        return cls(positives, data.items.trained, len(data.training_targets))

    @property
    def events_an_item(self) -> float:
        """Mean number of events per item."""
        return (self.positives if self.events is None else self.events) / max(self.items, 1)


class Chosen(NamedTuple):
    """The number chosen for a key, and the reason."""

    value: int | float
    reason: str


class Settled(NamedTuple):
    """Both sections with a number in place of each "auto".

    chosen: these numbers, by key.
    """

    model: Model
    training: Training
    chosen: Mapping[str, Chosen]


def autos(*sections: Section) -> list[str]:
    """Return the numeric keys of the sections that say "auto".

    >>> autos(Model(dropout=0.1), Training(batch_size=256, precision="auto"))
    ['epochs', 'patience']
    """
    return [
        key
        for section in sections
        for key in type(section).model_fields
        if key in _RULED and is_auto(getattr(section, key))
    ]


def settle(model: Model, training: Training, facts: Facts | None) -> Settled:
    """Replace each "auto" by a number, and log the numbers. Equal facts give equal numbers.

    facts: the facts of the data; None takes the number of each key without a log.
    Errors: ModelError for a number that contradicts another key.
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
"""The keys of [model] that may say "auto"; the other ones are keys of [training]."""

_RULED = (*MODEL_KEYS, "batch_size", "epochs", "warmup", "patience")


def number_of(key: str, model: Model, training: Training) -> int | float:
    """Return the number of a key; for "auto" the number that is used without a log."""
    section: Section = model if key in MODEL_KEYS else training
    number: int | float = getattr(section, key)
    if not is_auto(number):
        return number
    default: int | float = type(section).model_fields[key].default
    return section.without_log.get(key, default)


def _all(model: Model, training: Training, facts: Facts) -> dict[str, Chosen]:
    """Return the number for each key, based on the values that the sections give for others."""
    found = {"dim": _dim(model, facts), "dropout": _dropout(model, training, facts)}
    found["batch_size"] = _batch_size(training, facts)
    rows = _or(training.batch_size, found["batch_size"])
    steps = max(1, math.ceil(facts.positives / rows))
    found["epochs"] = _epochs(steps, facts)
    epochs = int(_or(training.epochs, found["epochs"]))
    found["warmup"] = Chosen(
        min(WARMUP, steps * epochs // 20), f"at most a twentieth of {_steps(steps * epochs)}"
    )
    found["patience"] = _patience(epochs)
    return found


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def _or(given_value: int | float, chosen: Chosen) -> int | float:
    return chosen.value if is_auto(given_value) else given_value


def _batch_size(training: Training, facts: Facts) -> Chosen:
    """Choose the largest power of two with enough steps per epoch, within `BATCHES`."""
    least = STEPS_IN_BATCH if choose(training).sampler in IN_BATCH else STEPS_AN_EPOCH
    power = 2 ** max(0, math.floor(math.log2(max(facts.positives / least, 1))))
    rows = min(max(power, BATCHES[0]), BATCHES[1])
    steps = math.ceil(facts.positives / rows)
    at_bound = {BATCHES[0]: "the smallest number: ", BATCHES[1]: "the largest number: "}
    why = at_bound.get(rows, "so that ") if rows != power else "so that "
    return Chosen(rows, f"{why}{facts.positives:,} positives give {_steps(steps)} per epoch")


def _epochs(steps: int, facts: Facts) -> Chosen:
    most = EPOCHS[1] // 2 if facts.events_an_item >= MET_OFTEN else EPOCHS[1]
    wanted, fewest, why = BUDGET // steps, EPOCHS[0], f"for a budget of {BUDGET:,} steps"
    if TINY[0] // steps > most:
        wanted, most, why = TINY[0] // steps, TINY[1], f"for {TINY[0]:,} steps on a tiny log"
    if wanted > most:
        why = "the largest number"
    elif wanted < fewest:
        why = "the smallest number"
    epochs = min(max(wanted, fewest), most)
    return Chosen(epochs, f"at {_steps(steps)} per epoch, {why}")


def _patience(epochs: int) -> Chosen:
    quarter = math.ceil(epochs / 4)
    if quarter < PATIENCE:
        return Chosen(PATIENCE, "the smallest number")
    return Chosen(quarter, f"a quarter of {epochs} epochs")


def _dim(model: Model, facts: Facts) -> Chosen:
    """Choose more for a dense log, as a multiple of what the heads of attention need."""
    width = 128 if facts.events_an_item >= DENSE else 64
    heads = given(model, "history").get("history_heads", 1)
    width = math.ceil(width / (2 * heads)) * 2 * heads
    return Chosen(width, f"for {facts.events_an_item:,.1f} positives per item")


def _dropout(model: Model, training: Training, facts: Facts) -> Chosen:
    pairs = training.positives == "i2i"  # a query in training is one item, without a history
    if not model.item_layers and (pairs or (model.history == "none" and not model.user_layers)):
        return Chosen(0.0, "as there is no history and no hidden layer to drop from")
    share = 0.5 if facts.events_an_item < SPARSE else 0.3
    return Chosen(share, f"for {facts.events_an_item:,.1f} positives per item")
