"""How is the file of a store opened, changed in transactions, and recognised?"""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from shortlist.errors import EventStoreError, suggest_path
from shortlist.histories.damage import check_version, checked
from shortlist.histories.events import DAY, Synchronous
from shortlist.histories.tables import MAGIC, VERSION, VERSIONS


class Place:
    """A file that must not be moved or replaced while it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = os.stat(path)
        self._file = (found.st_dev, found.st_ino)

    def check(self) -> None:
        """Raise EventStoreError if the path no longer names the same file: writes would be lost."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise EventStoreError(f"the store of events {self.path} is gone") from error
        if (found.st_dev, found.st_ino) != self._file:
            raise EventStoreError(f"the store of events {self.path} was replaced: restart")


class Clock:
    """The current time and the age of a store, in microseconds; neither ever goes back.

    The system's clock is read once, when the store is opened; later changes of it have no effect.
    The age grows by at most one day while no process has the store open, so that a wrong clock does
    not expire all events at once.

    age: age of the store at its last change.
    seen: time of that change since 1970.
    """

    def __init__(self, age: int, seen: int) -> None:
        self._start, self._since = time.time_ns() // 1000, time.monotonic_ns()
        self._age = age + min(max(self._start - seen, 0), int(DAY * 1e6))

    @classmethod
    def of(cls, file: sqlite3.Connection) -> "Clock":
        """Return the clock of a store that is being opened."""
        return cls(int(about(file, "age")), int(about(file, "seen")))

    def now(self) -> int:
        """Return the time in microseconds since 1970."""
        return self._start + self._passed()

    def age(self) -> int:
        """Return the age of the store in microseconds."""
        return self._age + self._passed()

    def _passed(self) -> int:
        return (time.monotonic_ns() - self._since) // 1000


def connected(
    path: Path | None, synchronous: Synchronous, *, is_open: bool = False
) -> sqlite3.Connection:
    """Open a store for writing, or create it; an older version is upgraded.

    path: the file; None for a store in memory.
    synchronous: "full" waits until each write is on the disk.
    is_open: this process already has the store open by another connection. Then the file is not
    checked: closing a file releases all POSIX locks that the process holds on it.
    Errors: EventStoreError if the file is damaged or not a store; sqlite3.Error; OSError.
    """
    check_version()
    if path is not None and not is_open:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        checked(path)
    file = sqlite3.connect(
        path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5
    )
    file.execute("PRAGMA journal_mode = WAL")
    file.execute(f"PRAGMA synchronous = {synchronous}")
    file.execute("PRAGMA foreign_keys = 1")
    with transaction(file) as run:
        if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            made = VERSIONS[VERSION]
            for table in made.tables.split(";"):
                run(table)
            run(f"PRAGMA application_id = {MAGIC}")
            said = {"identity": secrets.token_hex(8), **dict.fromkeys(made.counts, 0)}
            for name, value in said.items():
                run("INSERT INTO about VALUES (?, ?)", (name, value))
            run(f"PRAGMA user_version = {VERSION}")
        else:
            version = run("PRAGMA user_version").fetchone()[0]
            made, lacks = VERSIONS[VERSION], VERSIONS[version]
            for table in made.tables.removeprefix(lacks.tables).split(";"):
                run(table)
            for name in made.counts[len(lacks.counts) :]:
                run("INSERT INTO about VALUES (?, 0)", (name,))
            run(f"PRAGMA user_version = {VERSION}")
    return file


def opened_to_read(path: Path) -> sqlite3.Connection:
    """Open an existing store for reading. Errors: EventStoreError if there is none."""
    if not path.is_file():
        raise EventStoreError(f"{path}: there is no store of events.{suggest_path(path)}")
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA query_only = 1")
    return file


def about(file: sqlite3.Connection, name: str) -> Any:
    """Return an entry of the table `about`. Errors: EventStoreError if it is missing."""
    found = file.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise EventStoreError(
            f"the store of events lacks the entry {name} of its table 'about': restore it from a "
            "copy"
        )
    return found[0]


@contextmanager
def transaction(file: sqlite3.Connection) -> Iterator[Any]:
    """Run the block as one transaction, which is rolled back after an error."""
    file.execute("BEGIN IMMEDIATE")
    try:
        yield file.execute
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


@contextmanager
def refusing(path: Path | None) -> Iterator[None]:
    """Turn errors of SQLite and the operating system into an EventStoreError."""
    try:
        yield
    except (sqlite3.Error, OSError, orjson.JSONDecodeError) as error:
        where = path or "in memory"
        raise EventStoreError(f"the store of events {where} cannot be used: {error}") from error
