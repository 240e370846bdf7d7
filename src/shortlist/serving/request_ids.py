"""How is a click matched with the list that was shown? By the request id of the list.

The id holds a short form of the list and a signature. So no process stores lists, and a click may
reach another process than the one that answered, or the same one after a restart.
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
"""Maximum number of places in an id; items below count as not shown."""

NAMES = 1_000
"""Maximum bytes of the channel names in an id; with longer names it has no channels."""

LENGTH = 8_192
"""Maximum length of an id in characters."""

BUNDLE = 16
"""Number of leading hex digits of the bundle's id that are in an id."""

_VERSION = 1
_MARK = 3  # bytes of an item's hash: with 1,000 shown items, 1 in 17,000 others collides
_SIGNATURE = 8
_HEAD = struct.Struct("<BI8s8sBHH")  # version, seconds, nonce, bundle, flags, places, names
_FALLBACK = 0x80


class Shown(NamedTuple):
    """A list that was answered.

    made_at: seconds since 1970.
    nonce: 8 bytes, unique to the list.
    bundle: first BUNDLE digits of the bundle's id.
    fallback: whether it holds popular items for an unknown user.
    slice: index of the user's slice by history length.
    marks: 3 bytes per place, a hash of the item.
    channels: names of the channels; empty if the list is not from a blend.
    by: index of the channel of each place, one byte each; empty without channels.
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
        """Return the place of an item in the list, from 1; 0 if it is not in the list."""
        mark, start = mark_of(item), 0
        while (found := self.marks.find(mark, start)) >= 0:
            if found % _MARK == 0:
                return found // _MARK + 1
            start = found + 1
        return 0

    def channel(self, place: int) -> str | None:
        """Return the channel of a place, from 1; None without channels."""
        return self.channels[self.by[place - 1]] if self.channels else None


class RequestIds:
    """Writes and reads request ids.

    secret: services with the same secret read each other's ids; None for a random one.
    """

    def __init__(self, secret: str | None) -> None:
        given = token_bytes(32) if secret is None else secret.encode()
        self._key = blake2b(given, digest_size=32, person=b"request-ids").digest()
        self._process, self._lists = token_bytes(4), count()

    def nonce(self) -> bytes:
        """Return 8 bytes that are unique to a list."""
        return self._process + (next(self._lists) & 0xFFFFFFFF).to_bytes(4)

    def write(self, shown: Shown) -> str:
        """Return the request id of a list."""
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
        """Return the list of an id; None if it was signed with another secret.

        Errors: ServingError for a text that is not a request id.
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
            raise ServingError(
                "is not a request id: send one from `requests` of an answer"
            ) from None
        if not compare_digest(self._sign(data[:end]), data[end:]):
            return None
        said = (bundle.hex(), bool(flags & _FALLBACK), flags & ~_FALLBACK)
        return Shown(made_at, nonce, *said, data[marks:by], channels, data[by:end])

    def _sign(self, content: bytes) -> bytes:
        return blake2b(content, digest_size=_SIGNATURE, key=self._key).digest()


def mark_of(item: int | str) -> bytes:
    """Return the hash of an item in an id, 3 bytes.

    >>> mark_of(196) == mark_of(196), mark_of(196) == mark_of(197)
    (True, False)
    """
    return crc32(str(item).encode()).to_bytes(4)[1:]


def marks_of(items: Sequence[Any]) -> bytes:
    """Return the hashes of the items of a list, in their order."""
    return b"".join([mark_of(item) for item in items])
