"""What is an event on its way into a store, and what does every store of events do?

A store speaks external ids: it outlives bundles, whose rows differ, and keeps users and items that
no bundle knows yet. `data.histories` is the other side, which speaks the rows of one bundle.
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
"""Seconds."""

FeatureValue = str | float
"""A feature of an event: text of a categorical one, the number of a numeric one."""

_ROUNDED = re.compile(SCIENTIFIC)
_WATERMARK = re.compile(r"([0-9a-f]{16}):([0-9]{1,18})")


class Event(NamedTuple):
    """A user met an item.

    time: microseconds since 1970, None for when it arrived. weight: None where none was given.
    features: of the event, as `written_features` writes them; None for none. id: what the sender
    calls it, so that sending it again changes nothing.
    """

    user: Id
    item: Id
    kind: str | None = None
    time: int | None = None
    weight: float | None = None
    features: str | None = None
    id: str | None = None


class Stored(NamedTuple):
    """What a store knows of one user: items that were met, oldest first.

    kinds, weights, times, features: of each, None where nobody asked for them; times in
    microseconds since 1970, those of arrival where the sender gave none. forgotten: the user was
    deleted, so that nothing else that is known of them counts.
    """

    items: list[Id]
    kinds: list[str | None] | None = None
    weights: list[float | None] | None = None
    times: list[int] | None = None
    features: list[str | None] | None = None
    forgotten: bool = False


class Kept(NamedTuple):
    """What became of some events: the number of each, and how many had been sent before."""

    sequence: list[int]
    repeated: int


class Row(NamedTuple):
    """A stored event. time, arrived: microseconds since 1970. age: of the store when it came."""

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
    """How much is kept, and for how long.

    of_user: the newest events of each user. days: of events; days_of_ids: within which an event
    that is sent again under its id is known. synchronous: "full" waits for the disk.
    """

    of_user: int = 500
    days: float = 90.0
    days_of_ids: float = 1.0
    synchronous: Synchronous = "normal"

    def checked(self) -> "Keeping":
        """Return it, if it can be. Errors: EventStoreError."""
        for name in ("of_user", "days", "days_of_ids"):
            value = getattr(self, name)
            if not 0 < value < 2**31:
                raise EventStoreError(f"{name} must be > 0 and less than 2^31, got {value}")
        if self.synchronous not in ("normal", "full"):
            raise EventStoreError(f"synchronous must be normal or full, got {self.synchronous!r}")
        return self


class Watermark(NamedTuple):
    """Up to which event of which store something has learned.

    >>> Watermark.parse("00c0ffee00c0ffee:120")
    Watermark(store='00c0ffee00c0ffee', sequence=120)
    >>> str(Watermark("00c0ffee00c0ffee", 120))
    '00c0ffee00c0ffee:120'
    """

    store: str
    sequence: int

    def __str__(self) -> str:
        """As the command line writes and reads it."""
        return f"{self.store}:{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Watermark":
        """Read one as it is written. Errors: QueryError."""
        found = _WATERMARK.fullmatch(text)
        if not found:
            raise QueryError(
                f"a watermark is STORE:NUMBER, as `shortlist events export` tells it, got "
                f"{text!r:.60}"
            )
        return cls(found[1], int(found[2]))


class EventConflictError(EventStoreError):
    """An event id that was used for another event of the same user."""

    @classmethod
    def of(cls, event: Event) -> "EventConflictError":
        """Return the error for the later one of the two."""
        return cls(
            f"the event id {event.id!r:.80} of user {event.user!r:.40} was used for another event"
        )


class PaceError(EventStoreError):
    """A request with more events of one user than all services together may take in a minute."""

    def __init__(self, user: Id) -> None:
        super().__init__(f"user {user!r:.40} sends too many events")
        self.user = user


Told = Kept | EventStoreError
"""What a store says of the events of a request: kept, in conflict, too many, or why it failed."""


class EventStore(Protocol):
    """A store of events. Errors of all its methods: EventStoreError.

    `latest` is called by one thread, all others by one at a time. identity: 16 hex digits that no
    other store has. trimmed: how many events newer ones of the same user have pushed out so far.
    """

    trimmed: int

    @property
    def identity(self) -> str: ...  # noqa: D102

    def append(self, requests: Sequence[Sequence[Event]]) -> Sequence[Told]:
        """Keep the events of several requests, of each all or none; they survive the process."""
        ...

    def forget(self, user: Id) -> int:
        """Remove all events of a user; return how many there were."""
        ...

    def is_changed(self) -> bool:
        """Return whether another process has changed the store since this was asked last.

        It is asked by the thread that asks for `latest`, after that: it may tell of that moment.
        """
        ...

    def forgotten(self) -> list[Id]:
        """Return the users who were deleted."""
        ...

    def latest(self, users: Sequence[Id], since: int, *, detailed: bool = False) -> list[Stored]:
        """Return what each user met after event number `since`; detailed: with all of it.

        Of a user who was deleted, all that is stored of them.
        """
        ...

    def tidy(self) -> int:
        """Remove what is too old; return how many events that was."""
        ...

    def now(self) -> int:
        """Return the time by the store's clock, in microseconds since 1970."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


def refused_id(value: Id) -> str | None:
    """Say why an id cannot be read from a log again, so that it must not be stored; None if it can.

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
    """What a store holds, to be read in the order in which it came. Errors: EventStoreError.

    until: the store, and the number of its last event when the reader was opened; no later ones
    are told of.
    """

    until: Watermark

    def have_kinds(self, since: int = 0) -> bool:
        """Return whether an event with a number above `since` has a kind."""
        ...

    def parts(self, since: int = 0) -> Iterator[list[Row]]:
        """Yield the events with numbers above `since`."""
        ...

    def deleted(self) -> dict[Id, list[Row]]:
        """Return the users who were deleted, with all that is stored of them."""
        ...


def as_values(event: Event) -> tuple[Any, ...]:
    """What tells two events of one id apart: all of it but the id."""
    # Without features it is what it was before events had any: retries may be of before.
    return event[:-2] if event.features is None else event[:-1]


def digest(event: Event) -> bytes:
    """Return what tells two events of one id apart, in 16 bytes."""
    return blake2b(orjson.dumps(as_values(event)), digest_size=16).digest()


def written_features(features: Mapping[str, FeatureValue]) -> str | None:
    """Return features of an event as a store keeps them; equal ones are written alike.

    >>> written_features({"dwell": 3.0, "device": "tv"})
    '{"device":"tv","dwell":3.0}'
    """
    return orjson.dumps(features, option=orjson.OPT_SORT_KEYS).decode() if features else None


def one_of_kind(value: FeatureValue | None, *, numeric: bool) -> FeatureValue | None:
    """Return a stored feature, or None where the bundle of today declares it of the other kind."""
    return value if isinstance(value, float if numeric else str) else None


def features_told(written: str | None) -> Mapping[str, FeatureValue]:
    """Return the features of an event that a store keeps."""
    return {} if written is None else orjson.loads(written)
