"""The store of events that services on several machines share: a Redis server.

Under `PREFIX:u:USER` stands one text of the newest events of a user, the newest first, a line each:
its number, the millisecond it came, its item, and whatever else was said of it. The key expires
with them. A write is one script in one round trip, and all of a request or nothing is kept.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import orjson

from shortlist.errors import EventStoreError
from shortlist.histories.events import (
    DAY,
    Event,
    EventConflictError,
    Id,
    Keeping,
    Kept,
    PaceError,
    Row,
    Stored,
    Told,
    Watermark,
    as_values,
    digest,
)
from shortlist.histories.redis_scripts import APPEND, FORGET, READ, TIDY
from shortlist.histories.redis_server import Lasting, RedisPlace, RedisServer

logger = logging.getLogger("shortlist.histories")

AT_A_TIME = 500
"""Users that are read together, and removed."""

PART = 50_000
"""Events that are told together."""


class RedisEvents:
    """A store of events in Redis. Errors: EventStoreError.

    a_minute: events of a user that all services together take in a minute; 0 for any number.
    trimmed: events that newer ones of their users pushed out, of those that this process wrote.
    """

    def __init__(
        self, place: RedisPlace, keeping: Keeping | None = None, a_minute: int = 0
    ) -> None:
        self.keeping = (keeping or Keeping()).checked()
        if self.keeping.synchronous != "normal":
            raise EventStoreError(
                "synchronous is for a store in a file: whether Redis waits for its disk is a "
                "setting of the server (appendfsync)"
            )
        self.a_minute = a_minute
        self.trimmed = 0
        self.server = RedisServer(place)
        self._changes = int(self.server.ask(["HGET", self.server.key("about"), "changes"])[0])
        self._told: int | None = None  # what `latest` has heard of the same

    @property
    def identity(self) -> str:
        """Which store it is: another one, once a server has come back without its data."""
        return self.server.identity

    @property
    def lasting(self) -> Lasting:
        """What of that which was acknowledged is there after the server has ended."""
        return self.server.lasting()

    def append(self, requests: Sequence[Sequence[Event]]) -> list[Told]:
        """Keep the events of several requests in one round trip; of each request all or none.

        What was kept is told as kept, whatever became of the other requests.
        """
        calls = [(APPEND, *self._call(events)) for events in requests if events]
        said = self.server.run_each(calls) if calls else []
        if [b"other"] in said:
            raise self.server.replaced()
        left = iter(said)
        answers = [
            self._told_of(events, next(left)) if events else Kept([], 0) for events in requests
        ]
        faults = [one for one in answers if _is_fault(one)]
        if faults and len(faults) == len(calls):
            raise faults[0]
        for fault in faults:
            logger.error("events of a request were not kept: %s", fault)
        return answers

    def _told_of(self, events: Sequence[Event], answer: Any) -> Told:
        """What the answer of the script says of the events of a request."""
        if isinstance(answer, EventStoreError):
            return answer
        word, *said = answer
        if word == b"damaged":
            return self.server.damaged("the events of a user")
        if word == b"slow":
            return PaceError(list(_users(events))[said[0] - 1])
        if word == b"conflict":
            return EventConflictError.of(events[said[0] - 1])
        before, after, trimmed, repeated, *numbers = map(int, said)
        self._changed(before, after)
        self.trimmed += trimmed
        return Kept(numbers, repeated)

    def _call(self, events: Sequence[Event]) -> tuple[list[bytes], list[Any]]:
        """The keys and arguments of the script that keeps the events of a request."""
        server, keeping = self.server, self.keeping
        users = _users(events)
        keys = [server.key("about"), server.key("index")]
        for name in users.values():
            keys += self._keys(name)
        values: list[Any] = [server.identity, keeping.of_user]
        values += [_milliseconds(keeping.days), _milliseconds(keeping.days_of_ids)]
        values += [self.a_minute, len(users), *users.values()]
        places = {user: place for place, user in enumerate(users, start=1)}
        for given in events:
            weight = None if given.weight is None else float(given.weight)
            event = given._replace(weight=weight)
            said = "" if event.id is None else digest(event).hex()
            values += [places[event.user], _packed(event), event.id or "", said]
        return keys, values

    def _keys(self, name: bytes) -> list[bytes]:
        return [self.server.key(kind, name) for kind in ("u", "s0", "s1", "pace")]

    def _changed(self, before: int, after: int) -> None:
        """Note that this process has changed the store, where it knows of all earlier changes."""
        if before == self._changes:
            self._changes = after

    def forget(self, user: Id) -> int:
        """Remove all events of a user, a stranger from now on; return how many there were."""
        server, name = self.server, orjson.dumps(user)
        keys = [*map(server.key, ("about", "index", "forgotten")), *self._keys(name)]
        [[word, *said]] = server.run([(FORGET, keys, [server.identity, name])])
        if word == b"other":
            raise server.replaced()
        before, after, count = map(int, said)
        self._changed(before, after)
        return count

    def is_changed(self) -> bool:
        """Return whether another process had changed the store when `latest` was asked last."""
        if self._told is None:
            self.latest([], 0)
        # Asked while this process changes it, it may say so of that: too often does no harm.
        told, self._told = self._told or 0, None
        changed, self._changes = told != self._changes, told
        return changed

    def forgotten(self) -> list[Id]:
        """Return the users who were deleted."""
        [found] = self.server.ask(["SMEMBERS", self.server.key("forgotten")])
        return [orjson.loads(user) for user in found]

    def latest(self, users: Sequence[Id], since: int, *, detailed: bool = False) -> list[Stored]:
        """Return what each user met after event number `since`; of a deleted one, all there is."""
        server, names = self.server, [orjson.dumps(user) for user in users]
        keys = [server.key("about"), server.key("forgotten")]
        keys += [server.key("u", name) for name in names]
        [[identity, changes, texts, gone]] = server.run([(READ, keys, names)])
        if identity is None or identity.decode() != server.identity:
            raise server.replaced()
        self._told = int(changes)
        oldest = server.now() // 1000 - _milliseconds(self.keeping.days)
        found = []
        for text, forgotten in zip(texts, gone, strict=True):
            rows = _unpacked(server, text, 0 if forgotten else since, oldest)
            stored = Stored([row[2] for row in rows], forgotten=bool(forgotten))
            if detailed:
                told = [_whole(row) for row in rows]
                stored = stored._replace(
                    kinds=[row[3] for row in told],
                    weights=[row[5] for row in told],
                    times=[row[1] * 1000 if row[4] is None else row[4] for row in told],
                    features=[row[6] for row in told],
                )
            found.append(stored)
        return found

    def tidy(self) -> int:
        """Forget the users whose events have expired; return how many users that was.

        The events themselves the server removes.
        """
        server, removed = self.server, 0
        while True:
            [users] = server.ask(["ZRANGE", server.key("index"), 0, AT_A_TIME - 1])
            keys = [server.key("index"), *(server.key("u", name) for name in users)]
            count = int(server.run([(TIDY, keys, users)])[0]) if users else 0
            removed += count
            if count < AT_A_TIME:
                return removed

    def now(self) -> int:
        """Return the time by the server's clock, in microseconds since 1970."""
        return self.server.now()

    def close(self) -> None:
        """Let go of the connections."""
        self.server.close()


class RedisReader:
    """What a store in Redis holds. All that is told of is held in memory. Errors: EventStoreError.

    A user whose events have all come before a number is not looked at.
    """

    def __init__(self, place: RedisPlace) -> None:
        self._server = RedisServer(place, makes=False)
        server = self._server
        [[last, identity]] = server.ask(["HMGET", server.key("about"), "last", "identity"])
        self.until = Watermark(identity.decode(), int(last))
        self._rows: dict[int, list[Row]] = {}

    def have_kinds(self, since: int = 0) -> bool:
        """Return whether an event with a number above `since` has a kind."""
        return any(row.kind is not None for row in self._since(since))

    def parts(self, since: int = 0) -> Iterator[list[Row]]:
        """Yield the events with numbers above `since`, in the order they came."""
        rows = self._since(since)
        for start in range(0, len(rows), PART):
            yield rows[start : start + PART]

    def deleted(self) -> dict[Id, list[Row]]:
        """Return the users who were deleted, with all that is stored of them."""
        [users] = self._server.ask(["SMEMBERS", self._server.key("forgotten")])
        found: dict[Id, list[Row]] = {orjson.loads(user): [] for user in users}
        for row in self._of(list(users), 0):
            found[row.user].append(row)
        return found

    def _since(self, since: int) -> list[Row]:
        if since not in self._rows:
            [users] = self._server.ask(
                ["ZRANGEBYSCORE", self._server.key("index"), f"({since}", "+inf"]
            )
            self._rows = {since: self._of(users, since)}
        return self._rows[since]

    def _of(self, users: Sequence[bytes], since: int) -> list[Row]:
        """The events of some users, in the order they came."""
        server, found = self._server, []
        for start in range(0, len(users), AT_A_TIME):
            names = users[start : start + AT_A_TIME]
            [texts] = server.ask(["MGET", *(server.key("u", name) for name in names)])
            for name, text in zip(names, texts, strict=True):
                user = orjson.loads(name)
                for row in _unpacked(server, text, since, 0):
                    number, came, item, kind, time, weight, told = _whole(row)
                    if number <= self.until.sequence:
                        found.append(
                            Row(user, number, item, kind, time, weight, came * 1000, 0, told)
                        )
        return sorted(found, key=lambda row: row.sequence)


def _is_fault(told: Told) -> TypeGuard[EventStoreError]:
    """Whether the store could not do what was asked; else it has kept events, or refused them."""
    return not isinstance(told, Kept | EventConflictError | PaceError)


def _users(events: Sequence[Event]) -> dict[Id, bytes]:
    """The users of a request, each once, as the store writes them."""
    return {user: orjson.dumps(user) for user in dict.fromkeys(event.user for event in events)}


def _packed(event: Event) -> bytes:
    """What is stored of an event behind its number and time.

    >>> _packed(Event(1, 500)), _packed(Event(1, "a", "click", 7))
    (b'500', b'"a","click",7,null')
    """
    said = as_values(event)[1:]
    return orjson.dumps(said if any(one is not None for one in said[1:]) else said[:1])[1:-1]


def _unpacked(server: RedisServer, text: bytes | None, since: int, oldest: int) -> list[list[Any]]:
    """The rows of a user, oldest first: [number, millisecond, item] and what else was said."""
    if text is None:
        return []
    try:
        rows: list[list[Any]] = orjson.loads(
            b"[%b]" % text[text.index(b"\n") + 1 : -1].replace(b"\n", b",")
        )
        rows.reverse()
        if rows and (rows[0][0] <= since or rows[0][1] < oldest):
            rows = [row for row in rows if row[0] > since and row[1] >= oldest]
    except (ValueError, IndexError, TypeError) as error:
        raise server.damaged("the events of a user") from error
    return rows


def _whole(row: list[Any]) -> list[Any]:
    """A row with all its seven values.

    >>> _whole([1, 1_760_000_000_000, 500])
    [1, 1760000000000, 500, None, None, None, None]
    """
    return [*row, *[None] * (7 - len(row))]


def _milliseconds(days: float) -> int:
    return max(1, int(days * DAY * 1e3))
