"""[tune] of a recipe: which values does the search try?"""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from shortlist.sections.base import (
    Count,
    Section,
    Seed,
    Text,
)

TUNABLE = ("model", "training", "channels")
"""Sections whose keys `shortlist tune` can vary."""

NOT_TUNED = ("training.monitor", "training.positives", "training.refit", "training.seed")
"""Keys that cannot be varied, because the figures of two trials would not be comparable."""


def _space(space: object) -> object:
    """Check that each key has a list of values, or a range: `low`, `high` and maybe `log`."""
    if not isinstance(space, dict) or not space:
        raise ValueError("must be a table of at least one key and what to try for it")
    for name, tried in space.items():
        if str(name).split(".")[0] not in TUNABLE or "." not in str(name) or name in NOT_TUNED:
            raise ValueError(
                f"cannot try {name!r}: expected a key of {', '.join(TUNABLE)}, in quotes, as in "
                f'"training.learning_rate", and none of {", ".join(NOT_TUNED)}'
            )
        if isinstance(tried, list | tuple) and tried:
            continue
        if not (isinstance(tried, dict) and _is_range(tried)):
            raise ValueError(
                f"{name!r} must be a list of values, or a range {{ low = 1e-4, high = 1e-2 }} of "
                f"numbers, with log = true where both are above 0; got {tried!r}"
            )
    return space


def _is_range(tried: dict[str, Any]) -> bool:
    low: Any = tried.get("low")
    high: Any = tried.get("high")
    log = tried.get("log", False)
    numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    known = tried.keys() <= {"low", "high", "log"} and type(log) is bool
    return bool(numbers and known and low < high and (not log or low > 0))


class Tune(Section):
    """The search space of `shortlist tune`; `train` ignores it."""

    space: Annotated[dict[Text, Any], BeforeValidator(_space)] = Field(
        description="Keys of other sections, each with a list of values or a range of numbers.",
        examples=[
            {
                "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.dim": [32, 64],
            }
        ],
    )
    trials: Count = Field(default=20, description="Number of combinations that are tried.")
    seed: Seed = Field(default=0, description="Seed of the choice of combinations.")
