"""How does a Redis server store events, so that services on several machines share them?

The key `PREFIX:u:USER` holds one text with the newest events of a user, newest first, one per line:
its number, the millisecond of its arrival, its item, and its other fields if it has any. The key
expires with the events. A write is one script in one round trip; it stores all events of a request
or none.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import orjson

from shortlist.errors import EventStoreError
from shortlist.histories.events import (
    DAY,
    Appended,
    Event,
    EventConflictError,
    Id,
    Keeping,
    Kept,
    PaceError,
    Row,
    Stored,
    Watermark,
    as_values,
    digest,
)
from shortlist.histories.redis_scripts import APPEND, FORGET, READ, TIDY
from shortlist.histories.redis_server import Lasting, RedisPlace, RedisServer

logger = logging.getLogger("shortlist.histories")

AT_A_TIME = 500
"""Users that are read, or removed, in one round trip."""

PART = 50_000
"""Events in one block of `RedisReader.parts`."""


class RedisEvents:
    """A store of events in Redis. All methods may raise EventStoreError.

    place: address of the server.
    keeping: how much is kept and for how long; synchronous must be "normal".
    a_minute: most events of a user that all services together accept in a minute; 0: no limit.

    trimmed: number of events removed by this process because their user had more than
    Keeping.of_user.
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
        self._told: int | None = None  # The number of changes that `latest` read.

    @property
    def identity(self) -> str:
        """Identity of the store; a server that comes back without its data has another one."""
        return self.server.identity

    @property
    def lasting(self) -> Lasting:
        """Whether acknowledged events survive the end of the server."""
        return self.server.lasting()

    def append(self, requests: Sequence[Sequence[Event]]) -> list[Appended]:
        """Store the events of several requests in one round trip, all or none of each request.

        Each request has its own answer. Raises EventStoreError only if all of them failed.
        """
        calls = [(APPEND, *self._call(events)) for events in requests if events]
        said = self.server.run_each(calls) if calls else []
        if [b"other"] in said:
            raise self.server.replaced()
        left = iter(said)
        answers = [
            self._appended(events, next(left)) if events else Kept([], 0) for events in requests
        ]
        faults = [one for one in answers if _is_fault(one)]
        if faults and len(faults) == len(calls):
            raise faults[0]
        for fault in faults:
            logger.error("events of a request were not kept: %s", fault)
        return answers

    def _appended(self, events: Sequence[Event], answer: Any) -> Appended:
        """Return the answer for the events of a request from the answer of the script."""
        if isinstance(answer, EventStoreError):
            return answer
        word, *details = answer
        if word == b"damaged":
            return self.server.damaged("the events of a user")
        if word == b"slow":
            return PaceError(list(_users(events))[details[0] - 1])
        if word == b"conflict":
            return EventConflictError.of(events[details[0] - 1])
        before, after, trimmed, repeated, *numbers = map(int, details)
        self._changed(before, after)
        self.trimmed += trimmed
        return Kept(numbers, repeated)

    def _call(self, events: Sequence[Event]) -> tuple[list[bytes], list[Any]]:
        """Return the keys and arguments of the script APPEND for the events of a request."""
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
        """Count a change by this process as known if all earlier changes were known."""
        if before == self._changes:
            self._changes = after

    def forget(self, user: Id) -> int:
        """Remove all events of a user and mark the user as deleted; return how many there were."""
        server, name = self.server, orjson.dumps(user)
        keys = [*map(server.key, ("about", "index", "forgotten")), *self._keys(name)]
        [[word, *said]] = server.run([(FORGET, keys, [server.identity, name])])
        if word == b"other":
            raise server.replaced()
        before, after, count = map(int, said)
        self._changed(before, after)
        return count

    def is_changed(self) -> bool:
        """Return whether another process had changed the store at the last call of `latest`."""
        if self._told is None:
            self.latest([], 0)
        # May be True for a change that this process is making: a false alarm does no harm.
        told, self._told = self._told or 0, None
        changed, self._changes = told != self._changes, told
        return changed

    def forgotten(self) -> list[Id]:
        """Return the external ids of deleted users."""
        [found] = self.server.ask(["SMEMBERS", self.server.key("forgotten")])
        return [orjson.loads(user) for user in found]

    def latest(self, users: Sequence[Id], since: int, *, detailed: bool = False) -> list[Stored]:
        """Return the events of each user with numbers above `since`; all, for a deleted user."""
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
                decoded = [_whole(row) for row in rows]
                stored = stored._replace(
                    kinds=[row[3] for row in decoded],
                    weights=[row[5] for row in decoded],
                    times=[row[1] * 1000 if row[4] is None else row[4] for row in decoded],
                    features=[row[6] for row in decoded],
                )
            found.append(stored)
        return found

    def tidy(self) -> int:
        """Remove users from the index whose events have expired; return how many users.

        The server itself removes expired events.
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
        """Return the time of the server's clock, in microseconds since 1970."""
        return self.server.now()

    def close(self) -> None:
        """Close the connections."""
        self.server.close()


class RedisReader:
    """Reads the events of a store in Redis. All methods may raise EventStoreError.

    All events that are read are held in memory. Users without an event above the number asked for
    are not read.
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
        """Yield the events with numbers above `since` in the order of arrival, in blocks."""
        rows = self._since(since)
        for start in range(0, len(rows), PART):
            yield rows[start : start + PART]

    def deleted(self) -> dict[Id, list[Row]]:
        """Return the deleted users, with their stored events (those after the deletion)."""
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
        """Return the events of these users above number `since`, in the order of arrival."""
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


def _is_fault(result: Appended) -> TypeGuard[EventStoreError]:
    """Return whether the store failed, rather than having stored or refused the events."""
    return not isinstance(result, Kept | EventConflictError | PaceError)


def _users(events: Sequence[Event]) -> dict[Id, bytes]:
    """Return the distinct users of a request, each with its stored form."""
    return {user: orjson.dumps(user) for user in dict.fromkeys(event.user for event in events)}


def _packed(event: Event) -> bytes:
    """Return the stored text of an event, without its number and time of arrival.

    >>> _packed(Event(1, 500)), _packed(Event(1, "a", "click", 7))
    (b'500', b'"a","click",7,null')
    """
    values = as_values(event)[1:]
    return orjson.dumps(values if any(one is not None for one in values[1:]) else values[:1])[1:-1]


def _unpacked(server: RedisServer, text: bytes | None, since: int, oldest: int) -> list[list[Any]]:
    """Return the rows of a user, oldest first: [number, millisecond, item, other fields...].

    text: the stored text, or None.
    since: only rows with a number above it.
    oldest: only rows that arrived at or after this millisecond.
    """
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
    """Return a row with all seven fields, with None for missing ones.

    >>> _whole([1, 1_760_000_000_000, 500])
    [1, 1760000000000, 500, None, None, None, None]
    """
    return [*row, *[None] * (7 - len(row))]


def _milliseconds(days: float) -> int:
    return max(1, int(days * DAY * 1e3))
