"""How are items changed while they are served? At once, and for every later bundle."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson

from shortlist.errors import EventStoreError, ModelError, ShortlistError
from shortlist.histories.events import Id, Watermark
from shortlist.histories.items import (
    ADDED,
    COLUMN,
    REMOVED,
    WINDOW,
    ChangeConflictError,
    InEffect,
    ItemStore,
    ItemValue,
    KeptChange,
    SQLiteItems,
    shown_part,
)
from shortlist.serving.living import by_item, with_changes
from shortlist.serving.measures import Measures
from shortlist.serving.messages import RequestError
from shortlist.serving.requests import ChangesRequest, ItemsRequest, RevertRequest, read
from shortlist.serving.served import Served, check_ids, self_test
from shortlist.serving.service import encode
from shortlist.serving.watching import Watch

logger = logging.getLogger("shortlist.serving")

SHOWN = 1_000
"""Maximum number of values in a list of changes, and of values that do not fit."""

TRIES = 10
"""Maximum number of attempts of a change if other processes make changes at the same time."""

GONE = "the store of changes is not available, so nothing was changed; try again later"


class ItemChanges:
    """Changes of items, applied to every bundle. `Watch` calls it from one thread at a time.

    A change is stored before it is served, so it survives the process if the store does.

    store: None for a store in memory, which is created when needed. With several processes it is
    refused, because the others would not see the changes.
    processes: processes of the service.
    """

    def __init__(
        self, store: ItemStore | None, watch: Watch, measures: Measures, processes: int = 1
    ) -> None:
        self._store, self.watch, self.measures = store, watch, measures
        self._processes = processes
        self._known = InEffect(0, [])
        self._of = ""  # identity of the store of `_known`
        watch.items = self

    @property
    def store(self) -> ItemStore:
        """The store of the changes. Errors: EventStoreError; RequestError "not_supported"."""
        if self._store is None and self._processes > 1:
            raise RequestError(
                "not_supported",
                f"this service has {self._processes} processes and no shared store, so only "
                "one of them would know the changes of items: start it with --events, which "
                "stores them, or with --processes 1",
            )
        if self._store is None:
            self._store = SQLiteItems(None)
        return self._store

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def over(self, served: Served) -> Served:
        """Apply the changes in effect to a bundle; those that do not fit it are left out.

        It does not fail: if the store does, the last known changes are applied.
        """
        if self._store is None:
            return served
        try:
            self._known, self._of = self._store.in_effect(), self._store.identity
        except EventStoreError as error:
            logger.error("%s", error)
        try:
            changed = self._made(served, self._known)
            if changed.base is not None:
                self_test(changed)
        except Exception:
            # The bundle without changes is valid, and better than no bundle.
            logger.exception("no change of items could be applied to bundle %s", served.id[:12])
            changed = replace(served.as_read, change=self._known.number)
        return self._noted(changed)

    def is_changed(self) -> bool:
        """Return whether another process has made newer changes."""
        if self._store is None:
            return False
        try:
            number = self._store.number()
            return (number, self._store.identity) != (self._known.number, self._of)
        except EventStoreError:
            return False  # a change or a load of a bundle reports it

    def change(self, model: type[ItemsRequest], body: bytes) -> bytes:
        """Make the change of a request, whole or not at all. Errors: RequestError."""
        asked = read(model, body)
        kept = KeptChange(0, repeated=False)

        def change(served: Served) -> Served:
            nonlocal kept
            values = _values(asked, served)
            for _ in range(TRIES):
                with _storing():
                    now = self.store.in_effect()
                    number = None if asked.id is None else self.store.known(asked.id, values)
                if number is not None:
                    kept = KeptChange(number, repeated=True)
                    return served if served.change == now.number else self.over(served)
                changed = self._tried(served, now, values)
                with _storing():
                    made = self.store.append(values, asked.id, now.number)
                if made is None:
                    continue  # another process was faster, so check the change again
                kept = made
                self._known = InEffect(now.number + 1, _with(now.values, values, made.number))
                self._of = self.store.identity
                return self._noted(changed)
            raise RequestError("busy", "other processes are changing items; try again later")

        return self._answer(self.watch.change(change), kept)

    def revert(self, model: type[RevertRequest], body: bytes) -> bytes:
        """Revert a change. Errors: RequestError."""
        asked = read(model, body)
        kept = KeptChange(0, repeated=False)

        def change(served: Served) -> Served:
            nonlocal kept
            with _storing():
                kept = self.store.revert(asked.change)
            return self.over(served)

        return self._answer(self.watch.change(change), kept)

    def listed(self, asked: ChangesRequest) -> bytes:
        """Return the newest changes, and the values that do not fit. Errors: RequestError."""
        found: list[Any] = []

        def look(served: Served) -> Served:
            before = 2**63 - 1 if asked.before is None else asked.before
            with _storing():
                found.extend(self.store.changes(before, asked.limit, SHOWN))
            return served

        served = self.watch.change(look)
        return encode(
            {
                "bundle": served.id,
                "change": served.change,
                "watermark": str(Watermark(self.store.identity, served.change)),
                "durable": self.store.durable,
                "changes": [
                    {
                        "change": one.number,
                        "id": one.id,
                        "made_at": one.arrived / 1e6,
                        "reverts": one.undoes,
                        "reverted": one.undone,
                        "total": one.total,
                        "values": [
                            {"item": each.item, "part": shown_part(each.part), "value": each.value}
                            for each in one.values
                        ],
                    }
                    for one in found
                ],
                "left_out": [
                    {"change": one.change, "item": one.item, "reason": str(one.error)}
                    for one in served.left_out[:SHOWN]
                ],
                "total_left_out": len(served.left_out),
            }
        )

    def _made(self, served: Served, changes: InEffect) -> Served:
        mark = served.bundle.items_watermark
        same = mark is not None and mark.store == self.store.identity
        return with_changes(served, changes, mark.sequence if mark is not None and same else 0)

    def _tried(self, served: Served, now: InEffect, values: Sequence[ItemValue]) -> Served:
        """Apply new values after all others. Errors: RequestError if one does not fit."""
        number = now.number + 1
        try:
            if served.change != now.number:
                served = self._made(served, now)
            _check_candidates(served, now, values)
            _check_new(served, values)
            changed = self._made(served, InEffect(number, _with(now.values, values, number)))
            for one in changed.left_out:
                if one.change == number:
                    raise one.error
            self_test(changed)
        except ModelError as error:
            raise RequestError("not_supported", str(error)) from None
        except ShortlistError as error:
            raise RequestError("invalid_request", f"nothing was changed: {error}") from None
        return changed

    def _noted(self, served: Served) -> Served:
        self.measures.item_change.set(served.change)
        self.measures.items_left_out.set(len(served.left_out))
        if served.left_out:
            logger.warning(
                "%d values of changes of items do not fit bundle %s: see /admin/items/changes",
                *(len(served.left_out), served.id[:12]),
            )
        return served

    def _answer(self, served: Served, kept: KeptChange) -> bytes:
        never = 0 if served.availability is None else served.availability.never
        return encode(
            {
                "bundle": served.id,
                "items": len(served.retriever.candidate_rows()) - never,
                "removed": len(served.data.removed) + never,
                "change": kept.number,
                "repeated": kept.repeated,
                "durable": self.store.durable,
                "left_out": len(served.left_out),
            }
        )


@contextmanager
def _storing() -> Iterator[None]:
    """Turn errors of the store into RequestError."""
    try:
        yield
    except ChangeConflictError as error:
        raise RequestError("invalid_request", str(error)) from None
    except EventStoreError as error:
        logger.error("%s", error)
        raise RequestError("store_unavailable", GONE) from None


def _with(before: Sequence[ItemValue], values: Sequence[ItemValue], number: int) -> list[ItemValue]:
    """Return the values in effect after a further change."""
    newer = {(value.item, type(value.item), value.part): value for value in before}
    for value in values:
        newer[value.item, type(value.item), value.part] = value._replace(number=number)
    return list(newer.values())


def _values(asked: ItemsRequest, served: Served) -> list[ItemValue]:
    """Return the values of a request. Errors: RequestError, also for an item given twice."""
    rows = {name: _rows(getattr(asked, name), name) for name in ("add", "set")}
    items = served.data.items
    ids = {
        "add": [row["id"] for row in rows["add"]],
        "set": [row["id"] for row in rows["set"]],
        "remove": asked.remove,
        "restore": asked.restore,
        "available": [window.id for window in asked.available],
    }
    if not any(ids.values()):
        raise RequestError(
            "invalid_request", "give items to add, remove, restore, set or make available"
        )
    for name, listed in ids.items():
        check_ids(listed, items, name)
        _refuse_twice(listed, "is given twice")
    for one, other in (
        ("add", "set"),
        ("add", "remove"),
        ("add", "restore"),
        ("remove", "restore"),
    ):
        _refuse_twice([*ids[one], *ids[other]], "is in two lists")
    values = [
        ItemValue(row["id"], ADDED, 0, {name: row[name] for name in row if name != "id"})
        for row in rows["add"]
    ]
    values += [ItemValue(item, REMOVED, 0, True) for item in asked.remove]
    values += [ItemValue(item, REMOVED, 0, False) for item in asked.restore]
    for row in rows["set"]:
        if len(row) == 1:
            raise RequestError(
                "invalid_request", f"set: item {row['id']!r:.40} has no column to change"
            )
        values += [
            ItemValue(row["id"], f"{COLUMN}{name}", 0, value)
            for name, value in row.items()
            if name != "id"
        ]
    for window in asked.available:
        since, until = window.since, window.until
        if since is not None and until is not None and since >= until:
            raise RequestError(
                "invalid_request",
                f"available: the window of item {window.id!r:.40} must end after it begins, got "
                f"from {since:g} until {until:g}",
            )
        ends = None if since is None and until is None else [since, until]
        values.append(ItemValue(window.id, WINDOW, 0, ends))
    try:
        orjson.dumps([value.value for value in values])
    except orjson.JSONEncodeError:
        raise RequestError("invalid_request", "a value has too many levels of lists") from None
    return values


def _rows(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Refuse rows without a valid id. Errors: RequestError."""
    for number, row in enumerate(rows):
        item = row.get("id")
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise RequestError(
                "invalid_request",
                f"{name}[{number}]: expected an item with its 'id', got {row!r:.60}",
            )
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise RequestError("invalid_request", f"{name}[{number}]: the id is too large")
    return rows


def _refuse_twice(ids: Sequence[Id], fault: str) -> None:
    met: set[Id] = set()
    for item in ids:
        if item in met:
            raise RequestError("invalid_request", f"item {item!r:.40} {fault}")
        met.add(item)


def _check_new(served: Served, values: Iterable[ItemValue]) -> None:
    """Refuse to add items that the bundle was trained on. Errors: RequestError."""
    items = served.as_read.data.items
    ids: list[Any] = [value.item for value in values if value.part == ADDED]
    for item, row in zip(ids, items.rows(ids).tolist(), strict=True):
        if 0 < row <= items.trained:
            raise RequestError(
                "invalid_request",
                f"item {item!r:.40} was trained on, so adding it would lose its learned vector",
            )


def _check_candidates(served: Served, now: InEffect, values: Iterable[ItemValue]) -> None:
    """Refuse to remove items that are not candidates, and to restore those that are.

    Errors: RequestError.
    """
    said = {value.item: value.value for value in values if value.part == REMOVED}
    if not said:
        return
    ids: list[Any] = list(said)
    rows = served.data.items.rows(ids).tolist()
    gone = {
        item
        for item, one in by_item(now.values).items()
        if one.removed is not None and one.removed.value
    }
    candidates = set(served.retriever.candidate_rows().tolist())
    for item, row in zip(ids, rows, strict=True):
        out = item in gone or row in served.data.removed
        if row == 0:
            fault = "is unknown"
        elif said[item]:
            fault = "is not among the candidates" if out or row not in candidates else ""
        else:
            fault = "" if out else "was not removed, so it cannot be restored"
        if fault:
            raise RequestError("invalid_request", f"item {item!r:.40} {fault}")
