"""[split] of a recipe: which events are held out?"""

import math
from datetime import date
from typing import Annotated

from pydantic import BeforeValidator, Field

from shortlist.sections.base import (
    Section,
    Seed,
    Text,
)
from shortlist.sections.kinds import ColdItems, SplitKind


def _cut(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    number = type(value) is int and abs(value) < 2**63
    number = number or (isinstance(value, float) and math.isfinite(value))
    if not (number or value is None or isinstance(value, str)):
        raise ValueError("must be a number, a text or a date")
    return value


class Split(Section):
    """Which events are held out, to measure with."""

    kind: SplitKind | None = Field(
        default=None,
        description='"leave-last-out": each user\'s last event; "global-time": all events from a '
        'moment on; "random": a random share; "column": as a column of the log says; '
        '"cold-items": some items with all their events, which only a model that reads features '
        'of items can find; "rolling": several folds, each tested on the events from one moment to '
        "the next and trained on those before. "
        'Unset: "column" where split.column is given, "leave-last-out" where data.time is, '
        'else "random".',
        examples=["leave-last-out"],
    )
    at: Annotated[int | float | str | None, BeforeValidator(_cut)] = Field(
        default=None,
        description="global-time: the cut, a quantile where it is a fraction below 1, else a time; "
        "random, cold-items: the share of each user's events, or of the items, that stays for "
        "training; rolling: the first cut, as for global-time. Unset: 0.9 for global-time, 0.7 for "
        "rolling, else 0.8.",
        examples=[0.8],
    )
    column: Text | None = Field(
        default=None,
        description="Column of the log that says train, validation or test.",
        examples=["split"],
    )
    items: ColdItems | None = Field(
        default=None,
        description='Which items cold-items holds out: "random", or "newest", those that appeared '
        'last in the log. Unset: "random".',
        examples=["newest"],
    )
    folds: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        default=None,
        description="rolling: how many folds, each with its own training. Unset: 3.",
        examples=[5],
    )
    seed: Seed = Field(
        default=0, description="Of what is drawn: events, items, and validation rows."
    )
