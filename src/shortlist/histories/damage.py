"""Is a file a store of events, complete and unchanged?"""

import re
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from shortlist.errors import EventStoreError
from shortlist.histories.tables import MAGIC, VERSION, VERSIONS

NEEDED = (3, 38, 0)
"""The oldest supported version of SQLite, which has strict tables and JSON functions."""

_HEADER = b"SQLite format 3\0"


class Agreed(NamedTuple):
    """The state of the write-ahead log (WAL) according to the shared-memory file beside it.

    generation: the salt values of the WAL, which change when SQLite restarts it.
    frames: number of committed frames.
    whole: whether the WAL file has that salt and is long enough for the frames.
    """

    generation: bytes
    frames: int
    whole: bool


def check_version() -> None:
    """Raise EventStoreError if the SQLite library is too old."""
    if sqlite3.sqlite_version_info < NEEDED:
        raise EventStoreError(
            f"a store of events needs SQLite {'.'.join(map(str, NEEDED))} or newer, and this "
            f"Python has {sqlite3.sqlite_version}"
        )


def checked(path: Path) -> None:
    """Check that a file is an undamaged store, or empty: an empty file may become a store.

    Errors: EventStoreError if it is not; sqlite3.Error if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(len(_HEADER))
    if not start:
        return
    if start != _HEADER:
        raise EventStoreError(f"{path} is not a store of events: give another path")
    address = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as opened:
        try:
            opened.execute("PRAGMA trusted_schema = 0")
            # All tables as of one moment, because another process may be writing.
            opened.execute("BEGIN")
            _check(path, opened)
        except (sqlite3.DatabaseError, OverflowError, UnicodeError, TypeError) as error:
            raise damaged(path, str(error)) from error


def _check(path: Path, file: sqlite3.Connection) -> None:
    made = _schema(file)
    if not made:  # The process that created it was killed before it had made the tables.
        return
    kind, version = (
        file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if kind != MAGIC:
        raise EventStoreError(f"{path} is not a store of events: give another path")
    if version not in VERSIONS:
        raise EventStoreError(
            f"{path} is a store of version {version}, and this version of shortlist reads versions "
            f"up to {VERSION}"
        )
    tables, counts = VERSIONS[version]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        model.executescript(tables)
        if made != _schema(model):
            raise damaged(path, "its tables are not those of a store")
    if (said := file.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise damaged(path, said)
    highest = 0
    for *values, check in file.execute("SELECT * FROM events"):
        if checksum(values) != check:
            raise damaged(path, f"event {values[1]} is not what was stored")
        highest = max(highest, values[1])
    about = dict(file.execute("SELECT name, value FROM about"))
    if about.keys() != {"identity", *counts} or not (
        all(isinstance(about[name], int) and about[name] >= 0 for name in counts)
        and re.fullmatch("[0-9a-f]{16}", str(about["identity"]))
    ):
        raise damaged(path, "its table 'about' lacks entries or has wrong ones")
    if about["last"] < highest:
        raise damaged(path, "it has events with numbers above that of its last event")
    if version >= 3:
        _check_features(path, file)
    if "items" in counts:
        _check_items(path, file, about["items"])


def _check_features(path: Path, file: sqlite3.Connection) -> None:
    """Raise EventStoreError if features of events fail their checksum or have no event."""
    for *values, check in file.execute("SELECT sequence, features, checksum FROM event_features"):
        if checksum(values) != check:
            raise damaged(path, f"a feature of event {values[0]} is not what was stored")
    if file.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise damaged(path, "it has features of events that do not exist")


def _check_items(path: Path, file: sqlite3.Connection, last: int) -> None:
    """Raise EventStoreError if item changes fail their checksum or have an impossible number.

    last: number of the last change.
    """
    changes = "SELECT number, id, digest, undoes, undone, arrived, age, checksum FROM item_changes"
    values = "SELECT number, item, part, value, checksum FROM item_values"
    for number, *rest, check in (*file.execute(changes), *file.execute(values)):
        if checksum((number, *rest)) != check or not 0 < number <= last:
            raise damaged(path, f"change {number} of items is not what was stored")


def checksum(values: Iterable[Any]) -> int:
    """Return the CRC-32 of the values of a row, which is stored with it to detect damage."""
    return crc32(orjson.dumps(list(values), default=bytes.hex))


def damaged(path: Path, how: str) -> EventStoreError:
    """Return the error for a damaged store. how: what is wrong."""
    return EventStoreError(
        f"the store of events {path} is damaged ({how}). Restore it from a copy, or move it away: "
        "then a new, empty store is created, and the events of the damaged one are lost."
    )


def agreed(path: Path, held: ExitStack | None = None) -> Agreed | None:
    """Return the state of the write-ahead log that was acknowledged; None without such a log.

    Called before the store is opened, it tells what a killed process had acknowledged. SQLite
    itself does not notice if the end of the WAL file was cut off.

    held: keeps the shared-memory file open. This is needed while this process has the store open:
    closing the file would release all POSIX locks that the process holds on it, and the next
    process to open the store would reset the log.
    """
    with ExitStack() as read:
        try:
            locked = Path(f"{path}-shm").open("rb", buffering=0)  # noqa: SIM115
            (read if held is None else held).enter_context(locked)
            shared = locked.read(48)
            with Path(f"{path}-wal").open("rb") as file:
                start = file.read(32)
                size = file.seek(0, 2)
            locked.seek(0)
            unchanged = locked.read(48) == shared
        except OSError:
            return None
    if len(shared) < 48 or not shared[12] or not unchanged:
        return None
    frames = int.from_bytes(shared[16:20], sys.byteorder)
    page = int.from_bytes(shared[14:16], sys.byteorder)
    page = 65_536 if page == 1 else page
    whole = start[16:24] == shared[32:40] and size >= 32 + frames * (24 + page)
    return Agreed(shared[32:40], frames, whole)


def lost(before: Agreed | None, after: Agreed | None) -> bool:
    """Return whether acknowledged frames are missing after the store was opened again.

    before: the state before the store was opened.
    after: the state afterwards.
    """
    if before is None or not before.frames:
        return False
    if not before.whole:
        return True
    return (
        after is not None and after.generation == before.generation and after.frames < before.frames
    )


def _schema(file: sqlite3.Connection) -> set[tuple[Any, ...]]:
    found = file.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {(*row[:3], None if row[3] is None else " ".join(row[3].split())) for row in found}
