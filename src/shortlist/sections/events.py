"""The section [data.events] of a recipe: what is each kind of event used for?"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from shortlist.errors import DataError, suggest
from shortlist.sections.base import Section
from shortlist.sections.faults import complaint
from shortlist.sections.kinds import EventFeatureKind, Known

MOST = 100
"""Largest number of kinds of events."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
RANGE = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")
RANGES = (
    "ranges are written '4..' (4 and more), '..4' (less than 4), '1..4' (from 1 to less than 4)"
)
_NEARLY = re.compile(r"(?i:[\s\de.,:;<>=≤≥+*~_\-\u2010-\u2015\u2212…()\[\]|/]|to|and)*")


class EventKind(Section):
    """The use of one kind of events: a table [data.events.NAME] of a recipe."""

    target: bool = Field(
        default=False,
        description="Events of this kind are positives: they are learned, held out and evaluated, "
        "and are part of histories.",
    )
    history: bool = Field(
        default=True, description="Events of this kind are part of the histories of users."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Weight of an event of this kind wherever events are counted or learned from.",
    )
    seen: bool = Field(
        default=True,
        description="The item of such an event is left out of the answers to its user.",
    )
    drop: bool = Field(default=False, description="Rows of this kind are ignored.")

    @model_validator(mode="after")
    def _keys_act(self) -> Self:
        said = self.target or not self.history or self.weight != 1 or not self.seen
        if self.drop and said:
            raise ValueError("drop = true ignores the rows of this kind: leave the other keys out.")
        if self.target and not self.history:
            raise ValueError(
                "a target is part of histories: history = false is for kinds that are not targets."
            )
        if not (self.drop or self.history or self.seen):
            raise ValueError("this kind has no use: set drop = true.")
        if not self.history and self.weight != 1:
            raise ValueError("weight does nothing with history = false: leave it out.")
        return self

    @property
    def read(self) -> bool:
        """True if its events are in the log, as targets or in histories."""
        return self.history and not self.drop

    def use(self) -> str:
        """Return the use of its events in words."""
        if self.target:
            return "target"
        if self.read:
            return "history only"
        return "dropped" if self.drop else "met, not read"


class EventColumn(Section):
    """A column of the log that describes the event: a table [features.events.NAME] of a recipe.

    Both keys are required, because any default would be silently wrong for some columns.
    """

    kind: EventFeatureKind = Field(description="How the column is read.")
    known: Known = Field(
        description='When the value is known: "before" the event or only "after" it.',
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_table(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError(
                'must be a table that also says when the value is known: { kind = "categorical", '
                'known = "before" } if a request can have it, known = "after" if it is known only '
                "after the event"
            )
        return given


Events = Mapping[str, EventKind]


def checked_events(event: Any, events: Any) -> Events:
    """Return the table of a schema, each entry an EventKind. Errors: DataError."""
    if not isinstance(events, Mapping):
        raise DataError(f"events must be a table of kinds, got {events!r:.60}.")
    if (event is None) != (not events):
        raise DataError(
            "the column of kinds (data.event, Schema.event) and the table of kinds "
            "([data.events.NAME], Schema.events) need each other: give both."
        )
    table = {str(name): _entry(name, kind) for name, kind in events.items()}
    if table and not any(kind.target for kind in table.values()):
        raise DataError(
            "no kind of data.events is a target, so nothing would be learned: set target = true "
            f"for one of {', '.join(map(repr, table))}."
        )
    if len(table) > MOST:
        raise DataError(f"data.events has {len(table)} kinds, but {MOST} is the limit.")
    ranges(table)  # refuses those that overlap
    return table


def kind_of(value: str | float | None, events: Events) -> str | None:
    """Return the kind of a value of the column of kinds; None if it has none.

    >>> kind_of(4.5, {"4..": EventKind(target=True), "..4": EventKind()})
    '4..'
    """
    if isinstance(value, bool):
        value = str(value).lower()  # a Boolean column is read as the texts true and false
    if value is None or isinstance(value, str):
        return value if value in events else None
    spans = zip(events, ranges(events), strict=True)
    return next((name for name, span in spans if span and span[0] <= value < span[1]), None)


def representatives(events: Events) -> dict[str, float]:
    """Return an example value for each kind that is a number or a range of numbers.

    >>> representatives({"4..": EventKind(target=True), "1..4": EventKind(), "..1": EventKind()})
    {'4..': 4.0, '1..4': 1.0, '..1': 0.0}
    """
    return {
        name: span[1] - 1 if span[0] == -math.inf else span[0]
        for name, span in zip(events, ranges(events), strict=True)
        if span
    }


def is_nearly_range(name: str) -> bool:
    """Return whether a name of digits and signs is neither a number nor a range.

    >>> [name for name in ("4..", "4-5", ">= 4", "4", "view") if is_nearly_range(name)]
    ['4-5', '>= 4']
    """
    known = RANGE.fullmatch(name) or re.fullmatch(_NUMBER, name)
    return not known and bool(re.search(r"\d", name) and _NEARLY.fullmatch(name))


def _entry(name: Any, kind: Any) -> EventKind:
    if isinstance(kind, EventKind):
        return kind
    if not name or not isinstance(name, str):
        raise DataError(f"a kind of events must have text as its name, got {name!r}.")
    try:
        return EventKind.model_validate(dict(kind) if isinstance(kind, Mapping) else kind)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f".{part}" for part in first["loc"])
        message = complaint(first)
        if first["type"] == "extra_forbidden":
            known = EventKind.model_fields
            message = "is not a key." + suggest(str(first["loc"][-1]), known)
        raise DataError(f"data.events.{name}{place} {message}") from None


def ranges(events: Events) -> list[tuple[float, float] | None]:
    """Return the half-open range [from, to) of each name; None for names that are not numbers.

    A plain number is the range of itself. Errors: DataError for an empty range, or ranges that
    overlap.
    """
    found: list[tuple[float, float] | None] = []
    for name in events:
        if (ends := RANGE.fullmatch(name)) and ends.group() != "..":
            low, high = (float(end) if end else None for end in ends.groups())
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            if not low < high:
                raise DataError(f"data.events: the range {name!r} contains no number.")
            found.append((low, high))
        elif re.fullmatch(_NUMBER, name):
            found.append((float(name), math.nextafter(float(name), math.inf)))
        else:
            found.append(None)
    spans = sorted((span, name) for span, name in zip(found, events, strict=True) if span)
    for (one, first), (two, second) in itertools.pairwise(spans):
        if two[0] < one[1]:
            raise DataError(
                f"data.events: {first!r} and {second!r} overlap: a number must have one kind."
            )
    return found
