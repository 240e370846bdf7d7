"""How does one SQLite file, in write-ahead mode, store events?

Acknowledged events survive the end of the process, however it ends, and with synchronous = "full"
also a loss of power. Several processes of one machine may share the file.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import orjson

from shortlist.histories.damage import agreed, checksum, damaged, lost
from shortlist.histories.events import (
    DAY,
    Appended,
    Event,
    EventConflictError,
    Id,
    Keeping,
    Kept,
    Row,
    Stored,
    Watermark,
    digest,
)
from shortlist.histories.file import (
    Clock,
    Place,
    about,
    connected,
    opened_to_read,
    refusing,
    transaction,
)

HEADER = b"SQLite format 3\0"
"""The first bytes of every SQLite file."""

AT_A_TIME = 50_000
"""Events that are read in one block."""

_OF_USER = """
FROM events WHERE user = ?1 AND sequence > CASE
    WHEN EXISTS (SELECT 1 FROM forgotten WHERE user = ?1) THEN 0 ELSE ?2 END
ORDER BY sequence
"""
_FORGOTTEN = "(SELECT 1 FROM forgotten WHERE user = ?1)"
_ITEMS = f"SELECT {_FORGOTTEN}, json_group_array(item) FROM (SELECT item {_OF_USER})"
_DETAILS = f"""
SELECT {_FORGOTTEN}, json_group_array(item), json_group_array(kind), json_group_array(weight),
    json_group_array(coalesce(time, arrived)), json_group_array(features)
FROM (SELECT item, kind, weight, time, arrived, (
    SELECT features FROM event_features WHERE event_features.sequence = events.sequence
) AS features {_OF_USER})
"""
"""One row per user, because SQLite's Python module releases the GIL once for each row."""

_EXPIRE = """
DELETE FROM events WHERE age < ?1 AND sequence IN (
    SELECT sequence FROM events ORDER BY sequence LIMIT 1000)
"""
"""Ages ascend with the numbers of the events, so no index on age is needed."""

_TRIM = """
DELETE FROM events WHERE user = ?1 AND sequence <= (
    SELECT sequence FROM events WHERE user = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)
"""


class SQLiteEvents:
    """A store of events in one file, which is created if it is missing.

    All methods may raise EventStoreError. A file that is damaged or not a store is refused and not
    changed.

    path: the file.
    keeping: how much is kept and for how long.

    incomplete: acknowledged events of a killed process are lost, because the end of the write-ahead
    log is missing or damaged (or because of a loss of power without synchronous = "full").
    """

    def __init__(self, path: str | Path, keeping: Keeping | None = None) -> None:
        self.path = Path(path)
        self.keeping = (keeping or Keeping()).checked()
        self.trimmed = 0  # Events removed because their user had more than Keeping.of_user.
        before = agreed(self.path)
        with refusing(self.path):
            self._write = connected(self.path, self.keeping.synchronous)
            self._read = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._read.execute("PRAGMA query_only = 1")
            self.identity = str(about(self._write, "identity"))
            self._changes = int(about(self._write, "changes"))
            self.clock = Clock.of(self._write)
        self._held = ExitStack()
        self.incomplete = lost(before, agreed(self.path, self._held))
        self._place = Place(self.path)

    def append(self, requests: Sequence[Sequence[Event]]) -> list[Appended]:
        """Store the events of several requests in one transaction, all or none of each request."""
        trimmed = 0
        with refusing(self.path):
            self._place.check()
            with transaction(self._write) as run:
                last = int(about(self._write, "last"))
                answers: list[Appended] = []
                for events in requests:
                    try:
                        kept, last = self._kept(events, last)
                    except EventConflictError as error:
                        answers.append(error)
                        continue
                    answers.append(kept)
                    if len(kept.sequence) > kept.repeated:
                        for user in dict.fromkeys(event.user for event in events):
                            trimmed += run(_TRIM, (user, self.keeping.of_user)).rowcount
                said = {"last": last, "age": self.clock.age(), "seen": self.clock.now()}
                for name, value in said.items():
                    run("UPDATE about SET value = ? WHERE name = ?", (value, name))
                changes = self._changed()
        self._changes = changes
        self.trimmed += trimmed
        return answers

    def _kept(self, events: Sequence[Event], last: int) -> tuple[Kept, int]:
        """Insert the events of one request with numbers above `last`.

        Returns the result and the new last number. Errors: EventConflictError.
        """
        now, age = self.clock.now(), self.clock.age()
        numbers: list[int] = []
        fresh: list[tuple[Any, ...]] = []
        features: list[tuple[Any, ...]] = []
        sent: dict[tuple[Id, str], tuple[int, bytes]] = {}
        repeated = 0
        for given in events:
            # As the file stores it: 2 and 2.0 have different checksums.
            weight = None if given.weight is None else float(given.weight)
            event = given._replace(weight=weight)
            if event.id is not None:
                fingerprint = digest(event)
                before = sent.get((event.user, event.id)) or self._sent(event)
                if before is not None:
                    if before[1] != fingerprint:
                        raise EventConflictError.of(event)
                    numbers.append(before[0])
                    repeated += 1
                    continue
                sent[event.user, event.id] = (last + 1, fingerprint)
            last += 1
            row = (event.user, last, *event[1:-2], now, age)
            fresh.append((*row, checksum(row)))
            if event.features is not None:
                content = (last, event.features)
                features.append((*content, checksum(content)))
            numbers.append(last)
        self._write.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", fresh)
        self._write.executemany("INSERT INTO event_features VALUES (?, ?, ?)", features)
        self._write.executemany(
            "INSERT INTO sent VALUES (?, ?, ?, ?, ?)",
            [
                (user, id_, number, fingerprint, age)
                for (user, id_), (number, fingerprint) in sent.items()
            ],
        )
        return Kept(numbers, repeated), last

    def _sent(self, event: Event) -> tuple[int, bytes] | None:
        found = self._write.execute(
            "SELECT sequence, digest FROM sent WHERE user = ? AND id = ?", (event.user, event.id)
        )
        row: tuple[int, bytes] | None = found.fetchone()
        return row

    def forget(self, user: Id) -> int:
        """Remove all events of a user and mark the user as deleted; return how many there were."""
        with refusing(self.path):
            self._place.check()
            with transaction(self._write) as run:
                count: int = run("DELETE FROM events WHERE user = ?", (user,)).rowcount
                run("DELETE FROM sent WHERE user = ?", (user,))
                run("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user, self.clock.age()))
                changes = self._changed()
        self._changes = changes
        return count

    def _changed(self) -> int:
        """Increment the store's number of changes; return the number this process knows of.

        If another process has changed the store meanwhile, that number stays the same, so that the
        next `is_changed` returns True.
        """
        before = int(about(self._write, "changes"))
        self._write.execute("UPDATE about SET value = ? WHERE name = 'changes'", (before + 1,))
        return before + 1 if before == self._changes else self._changes

    def is_changed(self) -> bool:
        """Return whether another process has changed the store since the last call."""
        with refusing(self.path):
            self._place.check()
            changes = int(about(self._read, "changes"))
        # May be True for a change that this process is making: a false alarm does no harm.
        changed, self._changes = changes != self._changes, changes
        return changed

    def forgotten(self) -> list[Id]:
        """Return the external ids of deleted users."""
        with refusing(self.path):
            return [user for (user,) in self._write.execute("SELECT user FROM forgotten")]

    def latest(self, users: Sequence[Id], since: int, *, detailed: bool = False) -> list[Stored]:
        """Return the events of each user with numbers above `since`; all, for a deleted user."""
        with refusing(self.path):
            self._place.check()
            found = []
            for user in users:
                run = self._read.execute(_DETAILS if detailed else _ITEMS, (user, since))
                forgotten, *columns = run.fetchone()
                read: list[Any] = [orjson.loads(column) for column in columns]
                found.append(Stored(*read)._replace(forgotten=bool(forgotten)))
            return found

    def tidy(self) -> int:
        """Remove events and event ids that are too old; return how many events were removed."""
        oldest, ids = (
            self.clock.age() - int(days * DAY * 1e6)
            for days in (self.keeping.days, self.keeping.days_of_ids)
        )
        removed = 0
        with refusing(self.path):
            self._place.check()
            with transaction(self._write) as run:
                run("DELETE FROM sent WHERE age < ?", (ids,))
                while (count := run(_EXPIRE, (oldest,)).rowcount) > 0:
                    removed += count
        return removed

    def now(self) -> int:
        """Return the time of the store's clock, in microseconds since 1970."""
        return self.clock.now()

    def close(self) -> None:
        """Close the file; SQLite then moves the write-ahead log into it."""
        self._read.close()
        self._write.close()
        self._held.close()


def identity_of(path: str | Path) -> tuple[str, int]:
    """Return the identity of a store and the number of its last event. Errors: EventStoreError."""
    with refusing(Path(path)), closing(opened_to_read(Path(path))) as file:
        return str(about(file, "identity")), int(about(file, "last"))


def have_kinds(path: str | Path, since: int, until: int) -> bool:
    """Return whether an event with a number above `since`, up to `until`, has a kind."""
    path = Path(path)
    with refusing(path), closing(opened_to_read(path)) as file:
        found = file.execute(
            "SELECT 1 FROM events WHERE kind IS NOT NULL AND sequence > ? AND sequence <= ? "
            "LIMIT 1",
            (since, until),
        )
        return found.fetchone() is not None


def parts(path: str | Path, since: int = 0, until: int = 2**62) -> Iterator[list[Row]]:
    """Yield the events with numbers above `since`, up to `until`, in the order of arrival.

    Errors: EventStoreError, also for an event that fails its checksum.
    """
    path = Path(path)
    with refusing(path), closing(opened_to_read(path)) as file:
        found = file.execute(
            f"SELECT events.*, {_features(file)} FROM events "
            "WHERE sequence > ? AND sequence <= ? ORDER BY sequence",
            (since, until),
        )
        while read := found.fetchmany(AT_A_TIME):
            part = []
            for *values, check, features in read:
                if checksum(values) != check:
                    raise damaged(path, f"event {values[1]} is not what was stored")
                part.append(Row._make((*values, features)))
            yield part


def _features(file: sqlite3.Connection) -> str:
    """Return the SQL expression of an event's features; stores of older versions have none."""
    if file.execute("PRAGMA user_version").fetchone()[0] < 3:
        return "NULL"
    return "(SELECT features FROM event_features f WHERE f.sequence = events.sequence)"


def is_store(path: str | Path) -> bool:
    """Return whether a file is an SQLite database, as every store is."""
    try:
        with open(path, "rb") as file:
            return file.read(len(HEADER)) == HEADER
    except OSError:
        return False


def deleted(path: str | Path, until: int) -> dict[Id, list[Row]]:
    """Return the deleted users, with their stored events up to number `until`."""
    path = Path(path)
    found: dict[Id, list[Row]] = {}
    with refusing(path), closing(opened_to_read(path)) as file:
        for (user,) in file.execute("SELECT user FROM forgotten").fetchall():
            later = file.execute(
                f"SELECT events.*, {_features(file)} FROM events "
                "WHERE user = ? AND sequence <= ? ORDER BY sequence",
                (user, until),
            )
            found[user] = [Row._make((*values, features)) for *values, _, features in later]
    return found


def rows(path: str | Path) -> Iterator[Row]:
    """Yield all events in the order of arrival. Errors: EventStoreError."""
    for part in parts(path):
        yield from part


class SQLiteReader:
    """Reads the events of a store in a file. All methods may raise EventStoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.until = Watermark(*identity_of(path))

    def have_kinds(self, since: int = 0) -> bool:
        """Return whether an event with a number above `since` has a kind."""
        return have_kinds(self._path, since, self.until.sequence)

    def parts(self, since: int = 0) -> Iterator[list[Row]]:
        """Yield the events with numbers above `since` in the order of arrival, in blocks."""
        return parts(self._path, since, self.until.sequence)

    def deleted(self) -> dict[Id, list[Row]]:
        """Return the deleted users, with their stored events (those after the deletion)."""
        return deleted(self._path, self.until.sequence)
