"""Changes of items that outlive bundles: numbered, kept in the file of the events, taken back.

A value belongs to a part of an item, such as its column price. The newest value of a part that no
later change took back is in effect. Several processes of one machine may share the file.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from shortlist.errors import EventStoreError
from shortlist.histories.damage import checksum
from shortlist.histories.events import DAY, Id, Synchronous
from shortlist.histories.file import (
    Clock,
    Place,
    about,
    connected,
    refusing,
    transaction,
)

ADDED, REMOVED, WINDOW, COLUMN = "added", "removed", "window", "column "
"""The parts of an item that change: a whole new row of the table, true or false, the two ends of a
window, and (with its name behind it) one column."""

VERSIONS_KEPT = 10
"""The newest values of each part of an item that are kept; as many again that were taken back."""

DAYS = 90.0
"""How long a change is listed, and its id known, at least; longer while a value of it is kept."""

TIDY_EVERY = 1_000
"""Changes after which those that are too old are removed."""

_UNDONE = "(SELECT number FROM item_changes WHERE undone IS NOT NULL)"

_IN_EFFECT = f"""
SELECT item, part, max(number), value FROM item_values WHERE number NOT IN {_UNDONE}
GROUP BY item, part ORDER BY item, part
"""
"""SQLite takes a bare column, value, from the row of the maximum."""

_TENTH = f"ORDER BY number DESC LIMIT 1 OFFSET {VERSIONS_KEPT - 1}"
_TRIM = f"""
DELETE FROM item_values WHERE item = ?1 AND part = ?2 AND number < CASE
    WHEN number IN {_UNDONE} THEN
        (SELECT number FROM item_values WHERE item = ?1 AND part = ?2 {_TENTH})
    ELSE
        (SELECT number FROM item_values WHERE item = ?1 AND part = ?2
         AND number NOT IN {_UNDONE} {_TENTH})
    END
"""

_EXPIRE = """
DELETE FROM item_changes WHERE age < ?
AND NOT EXISTS (SELECT 1 FROM item_values WHERE item_values.number = item_changes.number)
"""

_CHANGES = """
SELECT number, id, undoes, undone, arrived,
    (SELECT count(*) FROM item_values WHERE item_values.number = item_changes.number)
FROM item_changes WHERE number < ? ORDER BY number DESC LIMIT ?
"""


class ItemValue(NamedTuple):
    """What a change says of a part of an item: plain JSON."""

    item: Id
    part: str
    number: int
    value: Any


class InEffect(NamedTuple):
    """The values that hold after change `number`, one of each part of each item."""

    number: int
    values: list[ItemValue]


class ItemChange(NamedTuple):
    """A change as it is listed. undoes: the change it takes back; undone: by which it was.

    arrived: microseconds since 1970. total: how many values of it are kept; values: the first.
    """

    number: int
    id: str | None
    undoes: int | None
    undone: int | None
    arrived: int
    total: int
    values: list[ItemValue]


class KeptChange(NamedTuple):
    """The number of a change; repeated: whether it had been made before."""

    number: int
    repeated: bool


class ChangeConflictError(EventStoreError):
    """A change id that was used for another change, or a change that cannot be taken back."""


class ItemStore(Protocol):
    """Changes of items where several services may share them. Errors: EventStoreError.

    One thread at a time may use it. identity: that of the store of events beside it. durable:
    whether the changes survive the process.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def durable(self) -> bool: ...  # noqa: D102

    def number(self) -> int:
        """Return the number of the last change."""
        ...

    def in_effect(self) -> InEffect:
        """Return the values that hold now."""
        ...

    def known(self, id_: str, values: Sequence[ItemValue]) -> int | None:
        """Return the number of the change that was made under this id; None if none was.

        Errors: ChangeConflictError, where it was another one, or was taken back.
        """
        ...

    def append(self, values: Sequence[ItemValue], id_: str | None, after: int) -> KeptChange | None:
        """Keep a change, which then survives the process; None where `after` is not the last one.

        The values get the number of the change, whatever theirs is.
        """
        ...

    def revert(self, number: int) -> KeptChange:
        """Take a change back: what held before it holds again, where nothing later says otherwise.

        Returns the number of the change that does it. Errors: ChangeConflictError for a change that
        is not there, or that takes back one itself.
        """
        ...

    def changes(self, before: int, limit: int, values: int) -> list[ItemChange]:
        """Return the changes with numbers below `before`, the newest first.

        values: how many of their values at most, of all together.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class SQLiteItems:
    """Changes of items in the file of a store of events; without a path in memory alone.

    One thread at a time may use it. is_open: this process has the store of events open already.
    Errors: EventStoreError.
    """

    def __init__(
        self,
        path: Path | None,
        synchronous: Synchronous = "normal",
        *,
        is_open: bool = False,
    ) -> None:
        self.path = path
        with refusing(path):
            self._file = connected(path, synchronous, is_open=is_open)
            self._place = None if path is None else Place(path)
            self.identity = str(about(self._file, "identity"))
            self.clock = Clock.of(self._file)
            with transaction(self._file):
                self._tidy()

    @property
    def durable(self) -> bool:
        """Whether the changes survive the process."""
        return self.path is not None

    def number(self) -> int:
        """Return the number of the last change."""
        with refusing(self.path):
            self._check_there()
            return int(about(self._file, "items"))

    def in_effect(self) -> InEffect:
        """Return the values that hold now."""
        with refusing(self.path):
            self._check_there()
            self._file.execute("BEGIN")
            try:
                number = int(about(self._file, "items"))
                found = self._file.execute(_IN_EFFECT).fetchall()
            finally:
                self._file.execute("COMMIT")
            values = [ItemValue(item, part, n, orjson.loads(said)) for item, part, n, said in found]
        return InEffect(number, values)

    def known(self, id_: str, values: Sequence[ItemValue]) -> int | None:
        """Return the number of the change that was made under this id; None if none was.

        Errors: ChangeConflictError, where it was another one, or was taken back.
        """
        with refusing(self.path):
            self._check_there()
            found = self._file.execute(
                "SELECT number, digest, undone FROM item_changes WHERE id = ?", (id_,)
            ).fetchone()
        if found is None:
            return None
        return same_change(id_, values, int(found[0]), found[1].hex(), found[2])

    def append(self, values: Sequence[ItemValue], id_: str | None, after: int) -> KeptChange | None:
        """Keep a change, which then survives the process; None where `after` is not the last one.

        The values get the number of the change, whatever theirs is.
        """
        with refusing(self.path):
            self._check_there()
            with transaction(self._file):
                if id_ is not None and (number := self.known(id_, values)) is not None:
                    return KeptChange(number, repeated=True)
                if int(about(self._file, "items")) != after:
                    return None
                number = self._begin(id_, digest_of(values), None)
                rows = [(number, v.item, v.part, orjson.dumps(v.value).decode()) for v in values]
                self._file.executemany(
                    "INSERT INTO item_values (number, item, part, value, checksum) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [(*row, checksum(row)) for row in rows],
                )
                self._file.executemany(_TRIM, [(v.item, v.part) for v in values])
                if number % TIDY_EVERY == 0:
                    self._tidy()
        return KeptChange(number, repeated=False)

    def revert(self, number: int) -> KeptChange:
        """Take a change back: what held before it holds again, where nothing later says otherwise.

        Returns the number of the change that does it. Errors: ChangeConflictError for a change that
        is not there, or that takes back one itself.
        """
        with refusing(self.path):
            self._check_there()
            with transaction(self._file) as run:
                found = run(
                    "SELECT undoes, undone FROM item_changes WHERE number = ?", (number,)
                ).fetchone()
                check_revert(number, found is not None, None if found is None else found[0])
                if found[1] is not None:
                    return KeptChange(int(found[1]), repeated=True)
                undoing = self._begin(None, b"", number)
                run("UPDATE item_changes SET undone = ? WHERE number = ?", (undoing, number))
                self._sign(number)
        return KeptChange(undoing, repeated=False)

    def changes(self, before: int, limit: int, values: int) -> list[ItemChange]:
        """Return the changes with numbers below `before`, the newest first.

        values: how many of their values at most, of all together.
        """
        with refusing(self.path):
            self._check_there()
            listed = []
            for number, *rest in self._file.execute(_CHANGES, (before, limit)).fetchall():
                found = self._file.execute(
                    "SELECT item, part, number, value FROM item_values WHERE number = ? LIMIT ?",
                    (number, values),
                ).fetchall()
                values -= len(found)
                said = [ItemValue(item, part, n, orjson.loads(v)) for item, part, n, v in found]
                listed.append(ItemChange._make((number, *rest, said)))
            return listed

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _check_there(self) -> None:
        if self._place is not None:
            self._place.check()

    def _begin(self, id_: str | None, digest: bytes, undoes: int | None) -> int:
        """Write down that there is one more change; return its number."""
        number, now, age = int(about(self._file, "items")) + 1, self.clock.now(), self.clock.age()
        self._file.execute(
            "INSERT INTO item_changes VALUES (?, ?, ?, ?, NULL, ?, ?, 0)",
            (number, id_, digest, undoes, now, age),
        )
        self._sign(number)
        for name, value in {"items": number, "age": age, "seen": now}.items():
            self._file.execute("UPDATE about SET value = ? WHERE name = ?", (value, name))
        return number

    def _sign(self, number: int) -> None:
        """Write down the checksum of a change as it is now."""
        row = self._file.execute(
            "SELECT number, id, digest, undoes, undone, arrived, age FROM item_changes "
            "WHERE number = ?",
            (number,),
        ).fetchone()
        self._file.execute(
            "UPDATE item_changes SET checksum = ? WHERE number = ?", (checksum(row), number)
        )

    def _tidy(self) -> None:
        self._file.execute(_EXPIRE, (self.clock.age() - int(DAYS * DAY * 1e6),))


def digest_of(values: Sequence[ItemValue]) -> bytes:
    """Return what tells two changes of one id apart, in 16 bytes."""
    said = [(value.item, value.part, value.value) for value in values]
    return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def same_change(
    id_: str, values: Sequence[ItemValue], number: int, digest: str, undone: int | None
) -> int:
    """Return the number of the change of an id, if it is this one and holds.

    digest: of that change, in hexadecimal digits; undone: by which it was taken back. Errors:
    ChangeConflictError.
    """
    if digest != digest_of(values).hex():
        raise ChangeConflictError(f"the change id {id_!r:.80} was used for another change")
    if undone is not None:
        raise ChangeConflictError(
            f"change {number}, of id {id_!r:.80}, was taken back by change {undone}: to make it "
            "again, give it another id"
        )
    return number


def check_revert(number: int, there: bool, undoes: int | None) -> None:
    """Refuse to take a change back that is not there or takes back one: ChangeConflictError."""
    if not there:
        raise ChangeConflictError(f"there is no change {number} of items")
    if undoes is not None:
        raise ChangeConflictError(
            f"change {number} took back change {undoes}: to make that once more, send it again"
        )


def shown_part(part: str) -> str:
    """Return a part of an item as it is told to people.

    >>> shown_part("column price"), shown_part("window")
    ('price', '(available)')
    """
    names = {ADDED: "(added)", REMOVED: "(removed)", WINDOW: "(available)"}
    return names.get(part, part.removeprefix(COLUMN))
