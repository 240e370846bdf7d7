"""Which columns mean what: user, item, time, weight, and the features of users and items."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from shortlist.data.text import TextFormat
from shortlist.durations import WrittenUnit
from shortlist.errors import DataError, suggest
from shortlist.sections.events import checked_events
from shortlist.sections.kinds import TEXT_WIDTH, EventFeatureKind, FeatureKind, Known

Order = Literal["time", "file"]
Tie = Literal["hash", "file"]
NullIds = Literal["refuse", "drop", "keep"]

EVENT_FEATURE_KINDS: tuple[str, ...] = get_args(EventFeatureKind)
KNOWN: tuple[str, ...] = get_args(Known)
FEATURE_KINDS: tuple[str, ...] = get_args(FeatureKind)
ORDERS: tuple[str, ...] = get_args(Order)
TIES: tuple[str, ...] = get_args(Tie)
TIME_UNITS: tuple[str, ...] = get_args(WrittenUnit)
NULL_IDS: tuple[str, ...] = get_args(NullIds)


@dataclass(frozen=True)
class Feature:
    """One column of the user or item table that a tower reads.

    Attributes:
        name: the column's name.
        kind: `categorical` (one value of a set), `numeric` (a number), `multi-valued` (several
            values of a set: a list, or text split at `separator`), `vector` (the same number of
            floats in every row: a list or array column, or text split at `separator`) or `text`
            (words, or a list of words, which `TextEncoder` turns into a vector).
        separator: text between the values of a multi-valued or vector column that is text. None
            turns the splitting off.
        width: length of the vector that a `text` column becomes.

    >>> Feature("genres", "multi-valued")
    Feature(name='genres', kind='multi-valued', separator='|', width=64)
    """

    name: str
    kind: FeatureKind
    separator: str | None = "|"
    width: int = TEXT_WIDTH

    def __post_init__(self) -> None:
        _check_name("a feature's name", self.name)
        if self.kind not in FEATURE_KINDS:
            raise DataError(
                f"feature '{self.name}': there is no kind {self.kind!r}."
                + suggest(str(self.kind), FEATURE_KINDS)
            )
        if self.separator == "":
            raise DataError(
                f"feature '{self.name}': separator must not be empty; None turns it off."
            )
        if self.width < 1:
            raise DataError(f"feature '{self.name}': width must be at least 1, got {self.width}.")


@dataclass(frozen=True)
class EventFeature:
    """One column of the log that describes the event itself, such as the device or the dwell time.

    Attributes:
        name: the column's name.
        kind: `categorical` or `numeric`.
        known: "before" for what is known before the event happens (device, page), "after" for what
            is known only afterwards (dwell time, price paid). A query tower may read both kinds of
            columns for past events, but only "before" columns for the event to be predicted.

    >>> EventFeature("dwell", "numeric", known="after")
    EventFeature(name='dwell', kind='numeric', known='after')
    """

    name: str
    kind: EventFeatureKind
    known: Known

    def __post_init__(self) -> None:
        _check_name("the name of a feature of events", self.name)
        for key, value, there in (
            ("kind", self.kind, EVENT_FEATURE_KINDS),
            ("known", self.known, KNOWN),
        ):
            if value not in there:
                allowed = " or ".join(f"'{one}'" for one in there)
                raise DataError(
                    f"feature of events '{self.name}': {key} must be {allowed}, got {value!r:.60}."
                )


@dataclass(frozen=True)
class Schema:
    """Names the columns of the interaction log and the features of users and items.

    The columns `user` and `item` are required; each other column may be absent (None). Features and
    the title are columns of the user and item tables. A side without a table takes them from the
    log, where each row repeats them; the latest value before the cut of the split counts.

    Attributes:
        user: column of user ids in the log, the impressions and the user table.
        item: column of item ids in the log, the impressions and the item table.
        time: column of event times.
        time_unit: unit of a time column that holds numbers; "auto" infers it from their size.
        weight: column of event weights, such as ratings.
        session: column of session ids.
        split: column that names the part (train, validation or test) of each row.
        min_weight: smallest weight of a positive. Rows below it train nothing, but their items are
            not recommended to that user. By default every row is a positive.
        order: "time" orders events by their time; "file" orders a log without times by its lines.
        tie: order of events with equal times. "hash" uses a seeded hash of (user, item), so that
            the order of rows in the file changes nothing; "file" keeps the order of the file.
        user_features: the columns that a tower reads about users.
        item_features: the columns that a tower reads about items.
        title: column of the item table that is shown to people; no tower reads it.
        click: column of the impressions that is above 0 where the item was clicked. The
            impressions name their user, item and time columns as the log does.
        text: format of the text files among the tables; by default it is inferred from each file.
        users_columns: column names of a user table that is a text file without a header.
        items_columns: column names of an item table that is a text file without a header. Those of
            the log are `text.columns`.
        users_id: id column of the user table, where it is not named like `user`.
        items_id: id column of the item table, where it is not named like `item`.
        null_ids: "refuse" raises an error for a row without a user or item id; "drop" leaves such
            rows out and counts them. Both refuse words such as NULL and NA as ids: list them in
            `text.null_values` to read them as missing, or use "keep" to accept them as ids.
        event: column that names the kind of each event. It takes the place of `min_weight`.
        events: what each kind of event is used for, by name; each entry is a table or an
            `EventKind`: `{"purchase": {"target": True, "weight": 3.0}, "view": {"seen": False}}`.
            Every kind in the column must be listed. In a column of numbers a name may be a range:
            "4.." means 4 and more.
        event_features: columns of the log that describe the event itself. The event column and the
            weight column may be among them.

    >>> Schema(time="timestamp").roles()
    {'user': 'user_id', 'item': 'item_id', 'time': 'timestamp'}
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    time_unit: WrittenUnit = "auto"
    weight: str | None = None
    session: str | None = None
    split: str | None = None
    min_weight: float | None = None
    order: Order = "time"
    tie: Tie = "hash"
    user_features: tuple[Feature, ...] = ()
    item_features: tuple[Feature, ...] = ()
    title: str | None = None
    click: str | None = None
    text: TextFormat = field(default_factory=TextFormat)
    users_columns: tuple[str, ...] = ()
    items_columns: tuple[str, ...] = ()
    users_id: str | None = None
    items_id: str | None = None
    null_ids: NullIds = "refuse"
    event: str | None = None
    events: Mapping[str, Any] = field(default_factory=dict, hash=False)
    event_features: tuple[EventFeature, ...] = ()

    def __post_init__(self) -> None:
        # TOML gives lists and people write them; a frozen schema needs tuples.
        object.__setattr__(self, "user_features", tuple(self.user_features))
        object.__setattr__(self, "item_features", tuple(self.item_features))
        object.__setattr__(self, "event_features", tuple(self.event_features))
        object.__setattr__(self, "users_columns", tuple(self.users_columns))
        object.__setattr__(self, "items_columns", tuple(self.items_columns))
        object.__setattr__(self, "events", checked_events(self.event, self.events))
        self._check_roles()
        if self.order not in ORDERS:
            raise DataError(f"there is no order {self.order!r}." + suggest(str(self.order), ORDERS))
        if self.order == "file" and (self.time is not None or self.tie != "hash"):
            idle = "tie" if self.time is None else "time"
            raise DataError(
                f"order = 'file' takes the order of the lines, and {idle} would do nothing: leave "
                f"{idle} out, or order."
            )
        if self.tie not in TIES:
            raise DataError(f"there is no tie rule {self.tie!r}." + suggest(str(self.tie), TIES))
        if self.time_unit not in TIME_UNITS:
            raise DataError(
                f"there is no time_unit {self.time_unit!r}."
                + suggest(str(self.time_unit), TIME_UNITS)
            )
        if self.time_unit != "auto" and self.time is None:
            raise DataError("time_unit needs a time column; name it with time.")
        if self.null_ids not in NULL_IDS:
            known = suggest(str(self.null_ids), NULL_IDS)
            raise DataError(f"there is no rule {self.null_ids!r} for null_ids.{known}")
        self._check_min_weight()
        _check_features("user", self.id_of("users"), self.user_features)
        _check_features("item", self.id_of("items"), self.item_features)
        self._check_event_features()
        if self.title is not None:
            _check_name("title", self.title)
            if self.title == self.id_of("items"):
                raise DataError("title is the id of the items: without a title, ids are shown")
        if self.click is not None:
            _check_name("click", self.click)

    def roles(self) -> dict[str, str]:
        """Return role -> column for the columns of the log that are given, in a fixed order."""
        columns: Mapping[str, str | None] = {
            "user": self.user,
            "item": self.item,
            "time": self.time,
            "weight": self.weight,
            "session": self.session,
            "split": self.split,
            "event": self.event,
        }
        return {role: column for role, column in columns.items() if column is not None}

    def id_of(self, table: str) -> str:
        """Return the name of the id column of a table: "users" or "items"."""
        own = {"users": self.users_id, "items": self.items_id}[table]
        return own or {"users": self.user, "items": self.item}[table]

    def text_of(self, table: str) -> TextFormat:
        """Return the text format of a table: "interactions", "users", "items" or another log."""
        if table == "interactions":
            return self.text
        columns = {"users": self.users_columns, "items": self.items_columns}.get(table, ())
        return replace(self.text, columns=columns, item_separator=None)

    def _check_roles(self) -> None:
        taken: dict[str, str] = {}
        for role, column in self.roles().items():
            _check_name(role, column)
            # A rating column may serve both as the kind of an event and as its weight.
            if column in taken and {role, taken[column]} != {"event", "weight"}:
                raise DataError(
                    f"{taken[column]} and {role} both name the column '{column}'; "
                    "each needs a column of its own."
                )
            taken[column] = role

    def _check_event_features(self) -> None:
        columns = {column: role for role, column in self.roles().items()}
        seen: set[str] = set()
        for feature in self.event_features:
            if not isinstance(feature, EventFeature):
                raise DataError(
                    f"event_features must hold EventFeature objects, got {feature!r:.60}."
                )
            role = columns.get(feature.name)
            if role not in (None, "weight", "event"):
                raise DataError(
                    f"feature of events '{feature.name}' is the column of {role}, which has a "
                    "meaning of its own: leave it out."
                )
            if role == "event" and feature.kind != "categorical":
                raise DataError(
                    f"feature of events '{feature.name}' is the column of the kinds of events: its "
                    "kind must be 'categorical'."
                )
            if feature.name in seen:
                raise DataError(f"feature of events '{feature.name}' is declared twice.")
            seen.add(feature.name)

    def _check_min_weight(self) -> None:
        if self.min_weight is None:
            return
        if self.events:
            raise DataError(
                "min_weight and events both say what is a positive: leave min_weight out, and name "
                "ranges of the weight in events, such as '4..'."
            )
        if self.weight is None:
            raise DataError("min_weight needs a weight column; name it with weight.")
        if not math.isfinite(self.min_weight):
            raise DataError(f"min_weight must be a finite number, got {self.min_weight}.")


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise DataError(f"{what} must be a column name, got {name!r}.")


def _check_features(side: str, id_column: str, features: Iterable[Feature]) -> None:
    seen: set[str] = set()
    for feature in features:
        if not isinstance(feature, Feature):
            raise DataError(f"{side}_features must hold Feature objects, got {feature!r}.")
        if feature.name == id_column:
            raise DataError(
                f"{side} feature '{feature.name}' is the id column: "
                "towers learn a vector per id without it being declared."
            )
        if feature.name in seen:
            raise DataError(f"{side} feature '{feature.name}' is declared twice.")
        seen.add(feature.name)
