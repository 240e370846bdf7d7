"""External id <-> row: which number stands for which user or item; row 0 is padding and unknown."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import QueryError

Ids = pl.Series | Sequence[int] | Sequence[str] | NDArray[Any]

FEW = 64
"""Up to so many strings are looked up one by one: a call of polars costs as much as ten of them."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one side, Int64 or String; row r stands for `ids[r - 1]`.

    The first `trained` rows are the ids that the training rows hold, sorted; the ids after them
    (catalogue items nobody has touched, users of a later day) have a row but no id embedding.
    So the rows of trained ids never depend on what comes after the cut.
    """

    ids: pl.Series
    trained: int
    name: str = "item"

    def __len__(self) -> int:
        """How many ids there are; rows run from 1 to this number."""
        return len(self.ids)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, NDArray[np.int64]]:
        order = self.ids.arg_sort()
        return self.ids.gather(order), order.to_numpy().astype(np.int64) + 1

    @cached_property
    def _numbers(self) -> NDArray[np.int64] | None:
        """The sorted ids as an array, without a copy; None where they are strings."""
        return self._sorted[0].to_numpy() if self.ids.dtype == pl.Int64 else None

    def rows(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id, [n]; 0 where the id is unknown.

        Raises QueryError where the ids have another type than the vocabulary's: `"1"` is not `1`.
        """
        if len(self) > 0 and len(ids) > 0:
            if self._numbers is not None:
                if (numbers := _plain_integers(ids)) is not None:
                    return self._rows_of_integers(self._numbers, numbers)
            elif _are_few_strings(ids):
                return np.array([self._row_of_string(str(text)) for text in ids], dtype=np.int64)
        wanted = self._same_type(ids)
        ordered, rows = self._sorted
        if len(ordered) == 0 or len(wanted) == 0:
            return np.zeros(len(wanted), dtype=np.int64)
        place = np.asarray(ordered.search_sorted(wanted), dtype=np.int64)
        place[place == len(ordered)] = 0
        found = (ordered.gather(place) == wanted).to_numpy()
        return np.where(found, rows[place], 0)

    def _rows_of_integers(
        self, ordered: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        place = ordered.searchsorted(wanted)
        place[place == len(ordered)] = 0
        rows = self._sorted[1][place]
        rows[ordered[place] != wanted] = 0
        return rows

    def _row_of_string(self, text: str) -> int:
        # Python orders strings by code point, polars by their UTF-8 bytes: the same order.
        ordered, rows = self._sorted
        place = bisect_left(ordered, text)
        return int(rows[place]) if place < len(ordered) and ordered[place] == text else 0

    def external(self, rows: NDArray[np.int64]) -> pl.Series:
        """Return the id of each row >= 1."""
        return self.ids.gather(np.asarray(rows, dtype=np.int64) - 1)

    def parse(self, texts: Sequence[str]) -> pl.Series:
        """Read ids typed by a person (a command line) as this vocabulary's type."""
        if self.ids.dtype == pl.String:
            return pl.Series(texts, dtype=pl.String)
        parsed = pl.Series(texts, dtype=pl.String).str.strip_chars().cast(pl.Int64, strict=False)
        if (bad := parsed.is_null()).any():
            raise QueryError(
                f"{self.name} ids of this data are integers, got {texts[bad.arg_true()[0]]!r}"
            )
        return parsed

    @cached_property
    def tie_keys(self) -> NDArray[np.int64]:
        """The fixed hash of each id that orders equal scores, [len + 1]; row 0 has 0."""
        keys = np.zeros(len(self) + 1, dtype=np.int64)
        keys[1:] = hash_ids(self.ids).view(np.int64)
        return keys

    def _same_type(self, ids: Ids) -> pl.Series:
        given = ids if isinstance(ids, pl.Series) else pl.Series(list(ids), strict=False)
        if given.dtype == self.ids.dtype or len(given) == 0:
            return given.cast(self.ids.dtype)
        if given.dtype.is_integer() and self.ids.dtype == pl.Int64:
            return given.cast(pl.Int64)
        wanted = "integers" if self.ids.dtype == pl.Int64 else "strings"
        raise QueryError(f"{self.name} ids of this data are {wanted}, got {given.dtype}")


def _plain_integers(ids: Ids) -> NDArray[np.int64] | None:
    """The ids as an array, [n], if each is plainly an integer of 64 bits; else None."""
    if isinstance(ids, np.ndarray):
        return ids.astype(np.int64, copy=False) if ids.dtype.kind == "i" and ids.ndim == 1 else None
    if isinstance(ids, pl.Series):
        plain = ids.dtype == pl.Int64 and ids.null_count() == 0
        return ids.to_numpy() if plain else None
    if set(map(type, ids)) != {int}:
        return None
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        return None


def _are_few_strings(ids: Ids) -> bool:
    """Whether the ids are a short list of proper strings."""
    if len(ids) > FEW or not isinstance(ids, list | tuple):
        return False
    return all(type(text) is str and (text.isascii() or _is_unicode(text)) for text in ids)


def _is_unicode(text: str) -> bool:
    """Whether a string has no half of a surrogate pair, which no UTF-8 can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def hash_ids(ids: pl.Series, seed: int = 0) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each id, [n]: fixed for ever, equal on every machine.

    Integers go through the splitmix64 finaliser (Steele et al. 2014); strings through a polynomial
    over their UTF-8 bytes first.
    """
    if ids.dtype == pl.String:
        return mix(_hash_strings(ids), seed)
    return mix(ids.cast(pl.Int64).to_numpy().view(np.uint64), seed)


def mix(keys: NDArray[np.uint64], seed: int = 0) -> NDArray[np.uint64]:
    """Scramble 64-bit keys (the splitmix64 finaliser), [n] -> [n]."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _hash_strings(ids: pl.Series) -> NDArray[np.uint64]:
    array = ids.to_arrow().cast("large_string")
    _, offset_buffer, byte_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset :][: len(array) + 1]
    if byte_buffer is None or len(offsets) == 0 or offsets[0] == offsets[-1]:
        return np.zeros(len(array), dtype=np.uint64)
    data = np.frombuffer(byte_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    starts = offsets[:-1] - offsets[0]
    within = np.arange(len(data)) - np.repeat(starts, np.diff(offsets))
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(within.max()) + 1, 0x100000001B3, dtype=np.uint64))
        terms = (data.astype(np.uint64) + np.uint64(1)) * powers[within]
        hashes = np.zeros(len(array), dtype=np.uint64)
        holds = np.diff(offsets) > 0  # reduceat would give an empty string its neighbour's byte
        hashes[holds] = np.add.reduceat(terms, starts[holds])
        return hashes
