"""How does a Redis server store changes of items, so that services on several machines share them?

They are in the server of the events, in hashes:
`PREFIX:values`: the newest values of each part of each item.
`PREFIX:changes`: each change, with the number of its values that are still stored.
`PREFIX:undone`: for each change that was taken back, the number of the change that did it.
`PREFIX:ids`: the number of the change for each id.

A change is written by one script, and only if no other change was made since its values were
computed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from shortlist.histories import items
from shortlist.histories.events import DAY
from shortlist.histories.items import (
    VERSIONS_KEPT,
    ChangeConflictError,
    InEffect,
    ItemChange,
    ItemValue,
    KeptChange,
)
from shortlist.histories.redis_scripts import CHANGE
from shortlist.histories.redis_server import RedisPlace, RedisServer

TRIES = 100
"""Most attempts to take a change back while other services make changes."""

LOOKED_AT = 10
"""Old changes that each new change checks for expiry."""

_HASHES = ("about", "values", "changes", "undone", "ids")


class _Made(NamedTuple):
    """A change as it is stored.

    id: the sender's id, or None.
    digest: `items.digest_of` its values, in hexadecimal digits.
    undoes: number of the change that it takes back, or None.
    arrived: microseconds since 1970.
    kept: how many of its values are still stored.
    """

    id: str | None
    digest: str
    undoes: int | None
    arrived: int
    kept: int

    def packed(self) -> bytes:
        """Return the stored form, JSON."""
        return orjson.dumps(list(self))


class RedisItems:
    """Changes of items in Redis. One thread at a time may use it.

    All methods may raise EventStoreError.

    place: address of the server.
    makes: create a store if there is none.
    """

    def __init__(self, place: RedisPlace, *, makes: bool = True) -> None:
        self._server = RedisServer(place, makes=makes)
        self._keys = [self._server.key(name) for name in _HASHES]

    @property
    def identity(self) -> str:
        """Identity of the store; a server that comes back without its data has another one."""
        return self._server.identity

    @property
    def durable(self) -> bool:
        """True: the changes survive the end of this process, as all data in the server does."""
        return True

    def number(self) -> int:
        """Return the number of the last change."""
        [[identity, number]] = self._server.ask(self._about())
        return self._same(identity, number)

    def in_effect(self) -> InEffect:
        """Return the values in effect now."""
        (identity, number), values, undone = self._server.ask(
            self._about(), self._all("values"), self._all("undone"), together=True
        )
        number = self._same(identity, number)
        found = []
        for name, text in sorted(values.items()):
            item, part = orjson.loads(name)
            holds = [one for one in self._read(text) if str(one[0]).encode() not in undone]
            if holds:
                found.append(ItemValue(item, part, *holds[0]))
        return InEffect(number, found)

    def known(self, id_: str, values: Sequence[ItemValue]) -> int | None:
        """Return the number of the change with this id; None if there is none."""
        [number] = self._server.ask(["HGET", self._key("ids"), id_])
        if number is None:
            return None
        text, undone = self._server.ask(
            ["HGET", self._key("changes"), number], ["HGET", self._key("undone"), number]
        )
        if text is None:  # It has just expired.
            return None
        by = None if undone is None else int(undone)
        return items.same_change(id_, values, int(number), self._made(text).digest, by)

    def append(self, values: Sequence[ItemValue], id_: str | None, after: int) -> KeptChange | None:
        """Store a change, with the number after + 1; None if `after` is not the last number."""
        if id_ is not None and (number := self.known(id_, values)) is not None:
            return KeptChange(number, repeated=True)
        number = after + 1
        names = [orjson.dumps([value.item, value.part]) for value in values]
        texts, undone = self._server.ask(
            ["HMGET", self._key("values"), *names] if names else ["HMGET", self._key("values"), ""],
            self._all("undone"),
            together=True,
        )
        new: dict[tuple[str, bytes], bytes] = {}
        pushed_out: dict[int, int] = {}
        for name, text, value in zip(names, texts, values, strict=False):
            before = new.get(("values", name), text)
            kept, gone = _trimmed([[number, value.value], *self._read(before)], undone)
            new["values", name] = orjson.dumps(kept)
            for one, _ in gone:
                pushed_out[one] = pushed_out.get(one, 0) + 1
        said = items.digest_of(values).hex()
        count = len(values) - pushed_out.pop(number, 0)
        made = _Made(id_, said, None, self._server.now(), count)
        return self._kept(after, made, new, pushed_out)

    def revert(self, number: int) -> KeptChange:
        """Take a change back; earlier values are in effect again unless replaced since."""
        for _ in range(TRIES):
            (identity, last), [text], [undone] = self._server.ask(
                self._about(),
                ["HMGET", self._key("changes"), number],
                ["HMGET", self._key("undone"), number],
                together=True,
            )
            last = self._same(identity, last)
            was = None if text is None else self._made(text)
            items.check_revert(number, was is not None, None if was is None else was.undoes)
            if undone is not None:
                return KeptChange(int(undone), repeated=True)
            made = _Made(None, "", number, self._server.now(), 0)
            undoing = {("undone", str(number).encode()): str(last + 1).encode()}
            kept = self._kept(last, made, undoing, {})
            if kept is not None:
                return kept
        raise ChangeConflictError(
            "other services kept changing items at the same time: try again later"
        )

    def changes(self, before: int, limit: int, values: int) -> list[ItemChange]:
        """Return changes with numbers below `before`, newest first."""
        numbers, all_values, undone = self._server.ask(
            ["HKEYS", self._key("changes")], self._all("values"), self._all("undone"), together=True
        )
        wanted = sorted((n for one in numbers if (n := int(one)) < before), reverse=True)[:limit]
        if not wanted:
            return []
        [texts] = self._server.ask(["HMGET", self._key("changes"), *wanted])
        said: dict[int, list[ItemValue]] = {number: [] for number in wanted}
        for name, text in sorted(all_values.items()):
            item, part = orjson.loads(name)
            for number, value in self._read(text):
                if number in said:
                    said[number].append(ItemValue(item, part, number, value))
        listed = []
        for number, text in zip(wanted, texts, strict=True):
            if text is None:
                continue
            made, by = self._made(text), undone.get(str(number).encode())
            shown = said[number][: max(values, 0)]
            values -= len(shown)
            taken_back = None if by is None else int(by)
            listed.append(
                ItemChange(number, made.id, made.undoes, taken_back, made.arrived, made.kept, shown)
            )
        return listed

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _key(self, name: str) -> bytes:
        return self._keys[_HASHES.index(name)]

    def _about(self) -> list[Any]:
        return ["HMGET", self._key("about"), "identity", "items"]

    def _all(self, name: str) -> list[Any]:
        return ["HGETALL", self._key(name)]

    def _same(self, identity: bytes | None, number: bytes | None) -> int:
        """Return the number of the last change; if the store was replaced, use the new one."""
        if identity is None or identity.decode() != self.identity:
            self._server.begin()
        return int(number or 0)

    def _read(self, text: bytes | None) -> list[list[Any]]:
        found: list[list[Any]] = [] if text is None else self._json(text)
        return found

    def _made(self, text: bytes) -> _Made:
        return _Made(*self._json(text))

    def _json(self, text: bytes) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise self._server.damaged("the changes of items") from error

    def _kept(
        self,
        after: int,
        made: _Made,
        new: dict[tuple[str, bytes], bytes],
        pushed_out: dict[int, int],
    ) -> KeptChange | None:
        """Store a change if `after` is the number of the last one, and remove expired changes.

        made: the change.
        new: new values of fields, by (hash, field).
        pushed_out: for other changes, how many of their values are no longer stored.
        """
        number = after + 1
        new = new | {("changes", str(number).encode()): made.packed()}
        if made.id is not None:
            new["ids", made.id.encode()] = str(number).encode()
        [oldest] = self._server.ask(["HGET", self._key("about"), "oldest"])
        first = int(oldest or 1)
        looked_at = range(first, min(first + LOOKED_AT, number))
        listed = sorted({*pushed_out, *looked_at})
        texts = self._server.ask(["HMGET", self._key("changes"), *listed])[0] if listed else []
        limit = self._server.now() - int(items.DAYS * DAY * 1e6)
        for one, text in zip(listed, texts, strict=True):
            if text is None:
                first += one == first
                continue
            was = self._made(text)
            left = was._replace(kept=was.kept - pushed_out.get(one, 0))
            name = str(one).encode()
            if was.arrived < limit:
                first += one == first  # It is removed now, or together with its last value.
                if not left.kept:
                    new |= {("changes", name): b"", ("undone", name): b""}
                    if was.id is not None:
                        new["ids", was.id.encode()] = b""
                    continue
            if one in pushed_out:
                new["changes", name] = left.packed()
        new["about", b"oldest"] = str(first).encode()
        sent: list[Any] = [self.identity, after]
        for (which, field), value in new.items():
            sent += [_HASHES.index(which) + 1, field, value]
        [[word, *_]] = self._server.run([(CHANGE, self._keys, sent)])
        if word == b"other":
            raise self._server.replaced()
        return None if word == b"late" else KeptChange(number, repeated=False)


def _trimmed(
    values: list[list[Any]], undone: dict[bytes, bytes]
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Split the values of a part, newest first, into those that are kept and the others."""
    kept: list[list[Any]] = []
    gone: list[list[Any]] = []
    holding = 0
    for place, value in enumerate(values):
        taken_back = str(value[0]).encode() in undone
        stays = (place if taken_back else holding) < VERSIONS_KEPT
        holding += not taken_back
        (kept if stays else gone).append(value)
    return kept, gone
