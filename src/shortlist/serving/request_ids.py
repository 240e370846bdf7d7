"""What is an answered list called, so that whoever is told of a click knows what was shown?

The id holds the list itself, in short, and a signature: no process has to remember any list, and a
click may come to another process than the answer came from, or after a restart.
"""

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from itertools import count
from secrets import token_bytes
from typing import Any, NamedTuple
from zlib import crc32

from shortlist.errors import ServingError

MOST = 1_000
"""Places of a list that its id tells of: an item further down counts as not shown."""

NAMES = 1_000
"""Bytes that the names of a list's channels may take; an id with longer ones tells no channel."""

LENGTH = 8_192
"""Characters of the longest id."""

BUNDLE = 16
"""Digits of the bundle's id that stand for it."""

_VERSION = 1
_MARK = 3  # bytes that stand for an item: of 1,000 shown ones 1 in 17,000 others is taken for one
_SIGNATURE = 8
_HEAD = struct.Struct("<BI8s8sBHH")  # version, seconds, nonce, bundle, flags, places, names
_FALLBACK = 0x80


class Shown(NamedTuple):
    """A list that was answered. made_at: seconds since 1970. slice: the number of its slice.

    marks: 3 bytes a place, of its item. channels: names; by: the number of the name, a byte a
    place; both empty where the list is of no blend. nonce: no other list has it.
    """

    made_at: int
    nonce: bytes
    bundle: str
    fallback: bool
    slice: int
    marks: bytes
    channels: tuple[str, ...] = ()
    by: bytes = b""

    def place(self, item: int | str) -> int:
        """Return where an item stands in the list, from 1; 0 where it does not."""
        mark, start = mark_of(item), 0
        while (found := self.marks.find(mark, start)) >= 0:
            if found % _MARK == 0:
                return found // _MARK + 1
            start = found + 1
        return 0

    def channel(self, place: int) -> str | None:
        """Return the channel that gave what stands in a place, from 1; None where none is told."""
        return self.channels[self.by[place - 1]] if self.channels else None


class RequestIds:
    """Makes ids of lists and reads them. secret: services that share it read each other's ids."""

    def __init__(self, secret: str | None) -> None:
        given = token_bytes(32) if secret is None else secret.encode()
        self._key = blake2b(given, digest_size=32, person=b"request-ids").digest()
        self._process, self._lists = token_bytes(4), count()

    def nonce(self) -> bytes:
        """Return 8 bytes that no other list gets."""
        return self._process + (next(self._lists) & 0xFFFFFFFF).to_bytes(4)

    def write(self, shown: Shown) -> str:
        """Return the id of a list."""
        marks = shown.marks[: MOST * _MARK]
        by, names = shown.by[:MOST], "\0".join(shown.channels).encode()
        if len(names) > NAMES:
            by, names = b"", b""
        flags = shown.slice | (_FALLBACK if shown.fallback else 0)
        bundle = bytes.fromhex(shown.bundle)
        numbers = (len(marks) // _MARK, len(names))
        head = _HEAD.pack(_VERSION, shown.made_at, shown.nonce, bundle, flags, *numbers)
        said = b"".join((head, names, marks, by))
        return urlsafe_b64encode(said + self._sign(said)).rstrip(b"=").decode()

    def read(self, text: str) -> Shown | None:
        """Return the list of an id; None where it was signed with another secret.

        Errors: ServingError for what no service has ever made.
        """
        try:
            data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            if urlsafe_b64encode(data).rstrip(b"=").decode() != text:
                raise ValueError
            version, made_at, nonce, bundle, flags, places, names = _HEAD.unpack_from(data)
            marks = _HEAD.size + names
            by, end = marks + places * _MARK, len(data) - _SIGNATURE
            channels = tuple(data[_HEAD.size : marks].decode().split("\0")) if names else ()
            if version != _VERSION or end != by + (places if names else 0):
                raise ValueError
        except (ValueError, struct.error, binascii.Error):
            raise ServingError("is no id of an answer: send one as `requests` told it") from None
        if not compare_digest(self._sign(data[:end]), data[end:]):
            return None
        said = (bundle.hex(), bool(flags & _FALLBACK), flags & ~_FALLBACK)
        return Shown(made_at, nonce, *said, data[marks:by], channels, data[by:end])

    def _sign(self, said: bytes) -> bytes:
        return blake2b(said, digest_size=_SIGNATURE, key=self._key).digest()


def mark_of(item: int | str) -> bytes:
    """Return what stands for an item in an id.

    >>> mark_of(196) == mark_of(196), mark_of(196) == mark_of(197)
    (True, False)
    """
    return crc32(str(item).encode()).to_bytes(4)[1:]


def marks_of(items: Sequence[Any]) -> bytes:
    """Return the marks of the items of a list, in their order."""
    return b"".join([mark_of(item) for item in items])
