"""[data.events] of a recipe: what is each kind of event for?"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from shortlist.errors import DataError, suggest
from shortlist.sections.base import Section
from shortlist.sections.kinds import EventFeatureKind, Known

MOST = 100
"""How many kinds a table can have."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
RANGE = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")
RANGES = (
    "ranges are written '4..' (4 and more), '..4' (less than 4), '1..4' (from 1 to less than 4)"
)
_NEARLY = re.compile(r"(?i:[\s\de.,:;<>=≤≥+*~_\-\u2010-\u2015\u2212…()\[\]|/]|to|and)*")


class EventKind(Section):
    """What the events of one kind are for: a table [data.events.NAME] of a recipe."""

    target: bool = Field(
        default=False,
        description="Whether it is a positive: learned, held out and evaluated; and read, too.",
    )
    history: bool = Field(
        default=True, description="Whether it is read: it stands in the histories of users."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="What an event counts, wherever events are counted or learned from.",
    )
    seen: bool = Field(
        default=True,
        description="Whether it takes its item out of the answers to its user.",
    )
    drop: bool = Field(default=False, description="Whether its rows are left out altogether.")

    @model_validator(mode="after")
    def _keys_act(self) -> Self:
        said = self.target or not self.history or self.weight != 1 or not self.seen
        if self.drop and said:
            raise ValueError("drop = true leaves its rows out: nothing else can be said of them.")
        if self.target and not self.history:
            raise ValueError(
                "a target is read, too: history = false is for kinds that are not targets."
            )
        if not (self.drop or self.history or self.seen):
            raise ValueError("nothing is done with it: say drop = true.")
        if not self.history and self.weight != 1:
            raise ValueError("weight does nothing with history = false: leave it out.")
        return self

    @property
    def read(self) -> bool:
        """Whether its events are in the log: as targets or in histories."""
        return self.history and not self.drop

    def use(self) -> str:
        """Say what its events are for."""
        if self.target:
            return "target"
        if self.read:
            return "history only"
        return "dropped" if self.drop else "met, not read"


class EventColumn(Section):
    """A column of the log that belongs to the event: a table [features.events.NAME] of a recipe.

    Neither key has a default: each would be wrong for somebody, without a word.
    """

    kind: EventFeatureKind = Field(description="How it is read.")
    known: Known = Field(
        description='Whether it is known "before" the event or only "after" it.',
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_table(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError(
                'must be a table that says when it is known, too: { kind = "categorical", known = '
                '"before" } if a request can tell it, known = "after" if only the past can'
            )
        return given


Events = Mapping[str, EventKind]


def checked_events(event: Any, events: Any) -> Events:
    """Return the table of a schema, each entry an EventKind. Errors: DataError."""
    if not isinstance(events, Mapping):
        raise DataError(f"events must be a table of kinds, got {events!r:.60}.")
    if (event is None) != (not events):
        raise DataError(
            "events need the column that names their kinds (data.event, Schema.event), and it "
            "needs them ([data.events.NAME], Schema.events): give both."
        )
    table = {str(name): _entry(name, kind) for name, kind in events.items()}
    if table and not any(kind.target for kind in table.values()):
        raise DataError(
            "no kind of data.events is a target, so nothing would be learned: say target = true of "
            f"one of {', '.join(map(repr, table))}."
        )
    if len(table) > MOST:
        raise DataError(f"data.events has {len(table)} kinds, and {MOST} are the most.")
    ranges(table)  # refuses those that overlap
    return table


def kind_of(value: str | float | None, events: Events) -> str | None:
    """Return the name of the kind that a value of the column of kinds is of; None for none.

    >>> kind_of(4.5, {"4..": EventKind(target=True), "..4": EventKind()})
    '4..'
    """
    if isinstance(value, bool):
        value = str(value).lower()  # as a column of true and false is read
    if value is None or isinstance(value, str):
        return value if value in events else None
    spans = zip(events, ranges(events), strict=True)
    return next((name for name, span in spans if span and span[0] <= value < span[1]), None)


def representatives(events: Events) -> dict[str, float]:
    """Return a number of each kind that is a number or a range of numbers.

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
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = EventKind.model_fields
            message = "there is no such key." + suggest(str(first["loc"][-1]), known)
        raise DataError(f"data.events.{name}{place}: {message}") from None


def ranges(events: Events) -> list[tuple[float, float] | None]:
    """The numbers each name stands for, from and to, the end left out; None of other names.

    A plain number stands for itself alone.
    """
    found: list[tuple[float, float] | None] = []
    for name in events:
        if (ends := RANGE.fullmatch(name)) and ends.group() != "..":
            low, high = (float(end) if end else None for end in ends.groups())
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            if not low < high:
                raise DataError(f"data.events: the range {name!r} holds no number.")
            found.append((low, high))
        elif re.fullmatch(_NUMBER, name):
            found.append((float(name), math.nextafter(float(name), math.inf)))
        else:
            found.append(None)
    spans = sorted((span, name) for span, name in zip(found, events, strict=True) if span)
    for (one, first), (two, second) in itertools.pairwise(spans):
        if two[0] < one[1]:
            raise DataError(f"data.events: {first!r} and {second!r} overlap: a number is of one.")
    return found
