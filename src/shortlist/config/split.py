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
    """Which events are held out for validation and test."""

    kind: SplitKind | None = Field(
        default=None,
        description='"leave-last-out": each user\'s last event; "global-time": all events from a '
        'moment on; "random": a random share; "column": the rows that a column of the log names; '
        '"cold-items": some items with all their events, which only a model that reads item '
        'features can find; "rolling": several folds, each tested on the events between two '
        "moments and trained on those before. "
        'Unset: "column" if split.column is given, "leave-last-out" if events have an order, '
        'else "random".',
        examples=["leave-last-out"],
    )
    at: Annotated[int | float | str | None, BeforeValidator(_cut)] = Field(
        default=None,
        description="global-time: the cut, as a quantile (a fraction below 1) or as a time. "
        "random: the share of each user's events that stays for training. cold-items: the share "
        "of the items that stays for training. rolling: the first cut, as for global-time. "
        "Unset: 0.9 for global-time, 0.7 for rolling, else 0.8.",
        examples=[0.8],
    )
    column: Text | None = Field(
        default=None,
        description="Column of the log with the values train, validation and test.",
        examples=["split"],
    )
    items: ColdItems | None = Field(
        default=None,
        description='cold-items: which items are held out, "random" ones or the "newest", which '
        'appeared last in the log. Unset: "random".',
        examples=["newest"],
    )
    folds: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        default=None,
        description="rolling: number of folds, each with its own training. Unset: 3.",
        examples=[5],
    )
    seed: Seed = Field(
        default=0, description="Seed of the draws: events, items and validation rows."
    )
