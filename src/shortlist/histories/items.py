"""How are changes of items stored, so that they live longer than bundles and can be taken back?

Changes are numbered and kept in the file of the events. A value belongs to a part of an item, such
as its column price. Of each part the newest value is in effect whose change was not taken back.
Several processes of one machine may share the file.
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
"""The parts of an item that can change. Their values are: the whole row of a new item, whether it
is removed (true or false), the two ends of its window of availability, and, for "column NAME", the
value of that column."""

VERSIONS_KEPT = 10
"""Values kept of each part of an item, the newest; values that were taken back count apart."""

DAYS = 90.0
"""Days that a change is listed and its id recognised, and longer while one of its values is
kept."""

TIDY_EVERY = 1_000
"""Number of changes after which expired changes are removed."""

_UNDONE = "(SELECT number FROM item_changes WHERE undone IS NOT NULL)"

_IN_EFFECT = f"""
SELECT item, part, max(number), value FROM item_values WHERE number NOT IN {_UNDONE}
GROUP BY item, part ORDER BY item, part
"""
"""The column `value` is not aggregated: SQLite takes it from the row of the maximum."""

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
    """The value that a change gives to a part of an item.

    item: external id.
    part: one of ADDED, REMOVED and WINDOW, or COLUMN followed by the column's name.
    number: number of the change.
    value: a JSON value.
    """

    item: Id
    part: str
    number: int
    value: Any


class InEffect(NamedTuple):
    """The values in effect after change `number`, one for each part of each changed item."""

    number: int
    values: list[ItemValue]


class ItemChange(NamedTuple):
    """A change as it is listed.

    number: number of the change.
    id: the sender's id, or None.
    undoes: number of the change that it takes back, or None.
    undone: number of the change that took it back, or None.
    arrived: microseconds since 1970.
    total: how many of its values are still stored.
    values: the first of these.
    """

    number: int
    id: str | None
    undoes: int | None
    undone: int | None
    arrived: int
    total: int
    values: list[ItemValue]


class KeptChange(NamedTuple):
    """The result of storing a change.

    number: number of the change.
    repeated: the change had been stored before, so nothing was stored now.
    """

    number: int
    repeated: bool


class ChangeConflictError(EventStoreError):
    """A change id that was used before for another change, or a change that cannot be undone."""


class ItemStore(Protocol):
    """Contract of the stores of item changes. All methods may raise EventStoreError.

    One thread at a time may use a store; several services may share its contents.

    identity: identity of the store of events in the same place.
    durable: whether the changes survive the end of the process.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def durable(self) -> bool: ...  # noqa: D102

    def number(self) -> int:
        """Return the number of the last change."""
        ...

    def in_effect(self) -> InEffect:
        """Return the values in effect now."""
        ...

    def known(self, id_: str, values: Sequence[ItemValue]) -> int | None:
        """Return the number of the change with this id; None if there is none.

        Errors: ChangeConflictError if that change has other values or was taken back.
        """
        ...

    def append(self, values: Sequence[ItemValue], id_: str | None, after: int) -> KeptChange | None:
        """Store a change, with the number after + 1; None if `after` is not the last number.

        values: the values; their own numbers are ignored.
        id_: the sender's id, or None.
        Errors: ChangeConflictError if the id was used for another change, or its change was taken
        back.
        """
        ...

    def revert(self, number: int) -> KeptChange:
        """Take a change back: its values are no longer in effect.

        Earlier values are in effect again, unless a later change replaced them. Returns the number
        of the change that takes it back. Errors: ChangeConflictError for a change that does not
        exist, or that takes back another one.
        """
        ...

    def changes(self, before: int, limit: int, values: int) -> list[ItemChange]:
        """Return changes with numbers below `before`, newest first.

        limit: most changes.
        values: most values, of all listed changes together.
        """
        ...

    def close(self) -> None:
        """Close the store."""
        ...


class SQLiteItems:
    """Changes of items in the file of a store of events.

    One thread at a time may use it. All methods may raise EventStoreError.

    path: the file; None keeps the changes in memory only.
    synchronous: "full" waits until each write is on the disk.
    is_open: this process already has the store of events open.
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
        """Whether the changes survive the end of the process."""
        return self.path is not None

    def number(self) -> int:
        """Return the number of the last change."""
        with refusing(self.path):
            self._check_there()
            return int(about(self._file, "items"))

    def in_effect(self) -> InEffect:
        """Return the values in effect now."""
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
        """Return the number of the change with this id; None if there is none.

        Errors: ChangeConflictError if that change has other values or was taken back.
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
        """Store a change, with the number after + 1; None if `after` is not the last number.

        values: the values; their own numbers are ignored.
        id_: the sender's id, or None.
        Errors: ChangeConflictError if the id was used for another change, or its change was taken
        back.
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
        """Take a change back: its values are no longer in effect.

        Earlier values are in effect again, unless a later change replaced them. Returns the number
        of the change that takes it back. Errors: ChangeConflictError for a change that does not
        exist, or that takes back another one.
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
        """Return changes with numbers below `before`, newest first.

        limit: most changes.
        values: most values, of all listed changes together.
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
        """Close the file."""
        self._file.close()

    def _check_there(self) -> None:
        if self._place is not None:
            self._place.check()

    def _begin(self, id_: str | None, digest: bytes, undoes: int | None) -> int:
        """Insert a row for a new change; return its number."""
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
        """Update the stored checksum of a change."""
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
    """Return a 16-byte hash of the values of a change, without their numbers."""
    said = [(value.item, value.part, value.value) for value in values]
    return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def same_change(
    id_: str, values: Sequence[ItemValue], number: int, digest: str, undone: int | None
) -> int:
    """Return the number of the stored change with this id if it is the same change.

    values: values of the change that was sent.
    number: number of the stored change.
    digest: `digest_of` the stored change, in hexadecimal digits.
    undone: number of the change that took it back, or None.
    Errors: ChangeConflictError if the values differ or the change was taken back.
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
    """Check that a change can be taken back.

    there: whether the change exists.
    undoes: number of the change that it takes back itself, or None.
    Errors: ChangeConflictError.
    """
    if not there:
        raise ChangeConflictError(f"there is no change {number} of items")
    if undoes is not None:
        raise ChangeConflictError(
            f"change {number} took back change {undoes}: to make that change again, send it again"
        )


def shown_part(part: str) -> str:
    """Return the display name of a part of an item.

    >>> shown_part("column price"), shown_part("window")
    ('price', '(available)')
    """
    names = {ADDED: "(added)", REMOVED: "(removed)", WINDOW: "(available)"}
    return names.get(part, part.removeprefix(COLUMN))
