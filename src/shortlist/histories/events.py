"""What is an event that is sent to a store, and what must every store of events do?

A store uses external ids, because it lives longer than bundles, whose internal rows differ, and has
users and items that no bundle knows yet. `data.histories` uses the internal rows of one bundle.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from shortlist.data.lost_ids import NULL_WORDS, SCIENTIFIC
from shortlist.errors import EventStoreError, QueryError

Id = int | str

Synchronous = Literal["normal", "full"]

DAY = 86_400.0
"""Seconds in a day."""

FeatureValue = str | float
"""The value of an event feature: text if it is categorical, a number if it is numeric."""

_ROUNDED = re.compile(SCIENTIFIC)
_WATERMARK = re.compile(r"([0-9a-f]{16}):([0-9]{1,18})")


class Event(NamedTuple):
    """An interaction of a user with an item.

    user: external id.
    item: external id.
    kind: kind of the event, such as "purchase"; None if not given.
    time: microseconds since 1970; None stands for the time of arrival.
    weight: value of the event; None if not given.
    features: the event's features as `written_features` writes them; None without features.
    id: the sender's id of the event, so that sending it again has no effect; None if not given.
    """

    user: Id
    item: Id
    kind: str | None = None
    time: int | None = None
    weight: float | None = None
    features: str | None = None
    id: str | None = None


class Stored(NamedTuple):
    """The stored events of one user, one entry per event, oldest first.

    items: external ids of the items.
    kinds: the events' kinds; like the next three, None if no details were asked for.
    weights: the events' weights.
    times: microseconds since 1970; the time of arrival if the sender gave no time.
    features: the events' features as `written_features` writes them.
    forgotten: the user was deleted, so that events from other sources must not be used.
    """

    items: list[Id]
    kinds: list[str | None] | None = None
    weights: list[float | None] | None = None
    times: list[int] | None = None
    features: list[str | None] | None = None
    forgotten: bool = False


class Kept(NamedTuple):
    """The result of storing the events of a request.

    sequence: the number of each event in the store.
    repeated: how many of them had been stored before under the same id.
    """

    sequence: list[int]
    repeated: int


class Row(NamedTuple):
    """A stored event.

    user: external id.
    sequence: number of the event, counted by the store.
    item: external id.
    kind: kind of the event, or None.
    time: microseconds since 1970 as given by the sender, or None.
    weight: weight of the event, or None.
    arrived: microseconds since 1970 by the store's clock.
    age: age of the store when the event arrived, in microseconds; 0 in Redis.
    features: features as `written_features` writes them, or None.
    """

    user: Id
    sequence: int
    item: Id
    kind: str | None
    time: int | None
    weight: float | None
    arrived: int
    age: int
    features: str | None = None


class Keeping(NamedTuple):
    """How much a store keeps, and for how long.

    of_user: most events kept per user, the newest.
    days: days that an event is kept.
    days_of_ids: days within which an event that is sent again under its id is recognised.
    synchronous: "full" waits until each write is on the disk, "normal" does not.
    """

    of_user: int = 500
    days: float = 90.0
    days_of_ids: float = 1.0
    synchronous: Synchronous = "normal"

    def checked(self) -> "Keeping":
        """Return it unchanged. Errors: EventStoreError for a value out of range."""
        for name in ("of_user", "days", "days_of_ids"):
            value = getattr(self, name)
            if not 0 < value < 2**31:
                raise EventStoreError(f"{name} must be > 0 and less than 2^31, got {value}")
        if self.synchronous not in ("normal", "full"):
            raise EventStoreError(f"synchronous must be normal or full, got {self.synchronous!r}")
        return self


class Watermark(NamedTuple):
    """The last event, of which store, that a bundle has learned from.

    store: identity of the store, 16 hex digits.
    sequence: number of the event.

    >>> Watermark.parse("00c0ffee00c0ffee:120")
    Watermark(store='00c0ffee00c0ffee', sequence=120)
    >>> str(Watermark("00c0ffee00c0ffee", 120))
    '00c0ffee00c0ffee:120'
    """

    store: str
    sequence: int

    def __str__(self) -> str:
        """Return STORE:NUMBER, the form of the command line."""
        return f"{self.store}:{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Watermark":
        """Read STORE:NUMBER. Errors: QueryError."""
        found = _WATERMARK.fullmatch(text)
        if not found:
            raise QueryError(
                f"a watermark is STORE:NUMBER, as `shortlist events export` prints it, got "
                f"{text!r:.60}"
            )
        return cls(found[1], int(found[2]))


class EventConflictError(EventStoreError):
    """An event id that was used for another event of the same user."""

    @classmethod
    def of(cls, event: Event) -> "EventConflictError":
        """Return the error for the event that was sent later."""
        return cls(
            f"the event id {event.id!r:.80} of user {event.user!r:.40} was used for another event"
        )


class PaceError(EventStoreError):
    """A request with more events of one user than all services together accept in a minute."""

    def __init__(self, user: Id) -> None:
        super().__init__(f"user {user!r:.40} sends too many events")
        self.user = user


Appended = Kept | EventStoreError
"""The answer of a store to one request: `Kept`, or the error (conflict, rate limit or failure)."""


class EventStore(Protocol):
    """Contract of the stores of events. All methods may raise EventStoreError.

    `latest` is called by one thread only; all other methods by one thread at a time.

    identity: unique id of the store, 16 hex digits.
    trimmed: number of events removed so far because their user had more than Keeping.of_user.
    """

    trimmed: int

    @property
    def identity(self) -> str: ...  # noqa: D102

    def append(self, requests: Sequence[Sequence[Event]]) -> Sequence[Appended]:
        """Store the events of several requests, all or none of each request.

        Stored events survive the end of this process.
        """
        ...

    def forget(self, user: Id) -> int:
        """Remove all events of a user; return how many were removed."""
        ...

    def is_changed(self) -> bool:
        """Return whether another process has changed the store since the last call.

        It is called by the thread that calls `latest`, after it, and may answer for the moment of
        that call.
        """
        ...

    def forgotten(self) -> list[Id]:
        """Return the external ids of deleted users."""
        ...

    def latest(self, users: Sequence[Id], since: int, *, detailed: bool = False) -> list[Stored]:
        """Return the events of each user with numbers above `since`.

        For a deleted user all stored events are returned, which are those after the deletion.

        detailed: also return kinds, weights, times and features.
        """
        ...

    def tidy(self) -> int:
        """Remove what is too old; return how many events (in Redis: users) were removed."""
        ...

    def now(self) -> int:
        """Return the time of the store's clock, in microseconds since 1970."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...


def refused_id(value: Id) -> str | None:
    """Return why an id must not be stored, because no log could be read with it; None if it may.

    >>> refused_id("a-1"), refused_id(" ")
    (None, 'is empty or only white space')
    """
    if not isinstance(value, str):
        return None
    if not value.strip():
        return "is empty or only white space"
    if value in NULL_WORDS:
        return "looks like a missing value"
    if _ROUNDED.search(value):
        return "is a number as spreadsheets round it"
    return None


class EventReader(Protocol):
    """Reads the events of a store in the order of arrival. Methods may raise EventStoreError.

    until: the store and the number of its last event when the reader was opened. Later events are
    not read.
    """

    until: Watermark

    def have_kinds(self, since: int = 0) -> bool:
        """Return whether an event with a number above `since` has a kind."""
        ...

    def parts(self, since: int = 0) -> Iterator[list[Row]]:
        """Yield the events with numbers above `since`, in blocks."""
        ...

    def deleted(self) -> dict[Id, list[Row]]:
        """Return the deleted users, with their stored events (those after the deletion)."""
        ...


def as_values(event: Event) -> tuple[Any, ...]:
    """Return the values that decide whether two events with one id are the same: all but the id."""
    # Without features the result is that of older versions, so that retries across an upgrade work.
    return event[:-2] if event.features is None else event[:-1]


def digest(event: Event) -> bytes:
    """Return a 16-byte hash of `as_values`."""
    return blake2b(orjson.dumps(as_values(event)), digest_size=16).digest()


def written_features(features: Mapping[str, FeatureValue]) -> str | None:
    """Return features of an event as JSON text with sorted keys, the form that is stored.

    >>> written_features({"dwell": 3.0, "device": "tv"})
    '{"device":"tv","dwell":3.0}'
    """
    return orjson.dumps(features, option=orjson.OPT_SORT_KEYS).decode() if features else None


def one_of_kind(value: FeatureValue | None, *, numeric: bool) -> FeatureValue | None:
    """Return a stored feature, or None if its type is not the one that the schema declares."""
    return value if isinstance(value, float if numeric else str) else None


def features_told(written: str | None) -> Mapping[str, FeatureValue]:
    """Return the features of an event, parsed from their stored form."""
    return {} if written is None else orjson.loads(written)
