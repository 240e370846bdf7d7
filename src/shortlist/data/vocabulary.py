"""External id <-> row: which number stands for which user or item; row 0 is padding and unknown."""

from bisect import bisect_left
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import QueryError

Ids = pl.Series | Sequence[int] | Sequence[str] | NDArray[Any]

FEW = 64
"""Up to so many strings are looked up one by one; a call of polars costs as much as ten of them."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of users or of items, Int64 or String; row r stands for `ids[r - 1]`.

    ids: first the ids of the training rows, sorted; then the others, such as items without events
        and users of a later day. So the rows of trained ids do not depend on what follows the cut.
    trained: how many ids the training rows hold. Later ids have a row but no id embedding.
    name: "user" or "item", for errors.
    """

    ids: pl.Series
    trained: int
    name: str = "item"

    def __len__(self) -> int:
        """Return the number of ids; rows run from 1 to this number."""
        return len(self.ids)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, NDArray[np.int64]]:
        order = self.ids.arg_sort()
        return self.ids.gather(order), order.to_numpy().astype(np.int64) + 1

    @cached_property
    def _numbers(self) -> NDArray[np.int64] | None:
        """The sorted ids as an array, without a copy; None if they are strings."""
        return self._sorted[0].to_numpy() if self.ids.dtype == pl.Int64 else None

    def rows(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id, [n]; 0 for an unknown id.

        Raises QueryError for ids of another type than the vocabulary's: `"1"` is not `1`.
        """
        if not isinstance(ids, list | tuple | pl.Series):
            ids = self._checked(ids)
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
        # Python orders strings by code point and polars by UTF-8 bytes, which is the same order.
        ordered, rows = self._sorted
        place = bisect_left(ordered, text)
        return int(rows[place]) if place < len(ordered) and ordered[place] == text else 0

    def external(self, rows: NDArray[np.int64]) -> pl.Series:
        """Return the id of each row >= 1."""
        return self.ids.gather(np.asarray(rows, dtype=np.int64) - 1)

    def parse(self, texts: Sequence[str]) -> pl.Series:
        """Read ids typed by a person (on a command line) as this vocabulary's type.

        Integers must be in their shortest form: 007 and +7 are not 7. Errors: QueryError.
        """
        if self.ids.dtype == pl.String:
            return pl.Series(texts, dtype=pl.String)
        written = pl.Series(texts, dtype=pl.String).str.strip_chars()
        parsed = written.cast(pl.Int64, strict=False)
        if (bad := parsed.is_null() | (parsed.cast(pl.String) != written)).any():
            raise QueryError(
                f"{self.name} ids of this data are integers, got {texts[bad.arg_true()[0]]!r}"
            )
        return parsed

    @cached_property
    def tie_keys(self) -> NDArray[np.int64]:
        """A fixed hash of each id, which orders equal scores, [len + 1]; row 0 has 0."""
        keys = np.zeros(len(self) + 1, dtype=np.int64)
        keys[1:] = hash_ids(self.ids).view(np.int64)
        return keys

    def _same_type(self, ids: Ids) -> pl.Series:
        given = ids if isinstance(ids, pl.Series) else pl.Series(self._checked(ids))
        if given.dtype == self.ids.dtype or len(given) == 0:
            return given.cast(self.ids.dtype)
        if given.dtype.is_integer() and self.ids.dtype == pl.Int64:
            return given.cast(pl.Int64)
        raise QueryError(f"{self._described}; got {given[0]!r:.40} ({given.dtype})")

    def _checked(self, ids: Any) -> Ids:
        try:
            return checked_ids(ids, "ids")
        except QueryError as error:
            raise QueryError(f"{self._described}; {error}") from None

    @property
    def _described(self) -> str:
        kind = "integers" if self.ids.dtype == pl.Int64 else "strings"
        example = f", such as {self.ids[0]!r:.40}" if len(self.ids) else ""
        return f"{self.name} ids of this data are {kind}{example}"


def checked_ids(ids: Any, what: str) -> Ids:
    """Return ids as given, or as a list; refuse anything that is not a list of ids (QueryError).

    A list of ids is a list, tuple, array or column of 64-bit integers or of strings.

    what: the caller's name of the argument, such as "users".
    """
    if isinstance(ids, pl.Series):
        return _checked_series(ids, what)
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i":
        return ids
    if not isinstance(ids, list | tuple):
        ids = _listed(ids, what)
    kinds = set(map(type, ids))
    if kinds <= {int}:
        if ids and not -(2**63) <= min(ids) <= max(ids) < 2**63:
            raise _bad_id(ids, what)
        return ids  # type: ignore[no-any-return]
    if kinds == {str} and all(text.isascii() or _is_unicode(text) for text in ids):
        return ids  # type: ignore[no-any-return]
    texts = sum(isinstance(id_, str) for id_ in ids)
    if any(map(_is_odd, ids)) or texts not in (0, len(ids)):
        raise _bad_id(ids, what)
    return [str(id_) for id_ in ids] if texts else [int(id_) for id_ in ids]


def checked_histories(lists: Any, what: str) -> Sequence[Ids] | pl.Series:
    """Check lists of ids like `checked_lists`; a column of lists (polars or Arrow) stays a column.

    A column is checked as a whole, without a loop over its lists. Errors: QueryError.
    """
    arrow = any(hasattr(lists, f"__arrow_c_{kind}__") for kind in ("array", "stream"))
    if isinstance(lists, pl.Series) or (arrow and not hasattr(lists, "iloc")):
        return _checked_column(lists, what)
    return checked_lists(lists, what)


def checked_lists(lists: Any, what: str) -> Sequence[Ids]:
    """Check lists of ids, one list a query, each as by `checked_ids`. Errors: QueryError."""
    if not isinstance(lists, list | tuple):
        lists = _listed(lists, what, "lists of ids, one a query", "[['cust-00001'], ...]")
    return [checked_ids(ids, f"{what}[{number}]") for number, ids in enumerate(lists)]


def flat_ids(lists: Sequence[Any] | pl.Series) -> tuple[Ids, NDArray[np.int64]]:
    """Return the ids of `checked_histories` one after the other, and the length of each list."""
    if isinstance(lists, pl.Series):
        lengths = lists.list.len().to_numpy().astype(np.int64)
        return lists.filter(lists.list.len() > 0).explode(), lengths
    return [id_ for ids in lists for id_ in ids], np.array([len(ids) for ids in lists], np.int64)


def _checked_column(given: Any, what: str) -> pl.Series:
    """Return a column of lists without nulls, with ids as `_checked_series` returns them."""
    column = given if isinstance(given, pl.Series) else pl.Series(given)
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        raise QueryError(f"{what} must be a column of lists of ids, got one of {column.dtype}")
    if column.null_count():
        place = column.is_null().arg_true()[0]
        raise QueryError(f"{what}[{place}] is missing (null): write [] for an empty history")
    inside = pl.List(pl.String if column.dtype.inner in (pl.String, pl.Categorical) else pl.Int64)
    flat, lengths = flat_ids(column)
    assert isinstance(flat, pl.Series)
    if (missing := flat.is_null()).any():
        place = int(np.searchsorted(np.cumsum(lengths), missing.arg_true()[0], side="right"))
        raise QueryError(f"{what}[{place}] holds an id that is missing (null), which is no id")
    checked = _checked_series(flat, what)
    return column.cast(inside) if checked.dtype != flat.dtype else column


def _checked_series(ids: pl.Series, what: str) -> pl.Series:
    if ids.dtype not in (pl.Int64, pl.String, pl.Null):
        if ids.dtype == pl.Object or not (ids.dtype.is_integer() or ids.dtype == pl.Categorical):
            raise QueryError(
                f"{what} must be a list of ids, whole numbers or texts, got a column of {ids.dtype}"
            )
        to = pl.Int64 if ids.dtype.is_integer() else pl.String
        cast = ids.cast(to, strict=False)
        if cast.null_count() > ids.null_count():
            raise QueryError(f"{what} holds a number of more than 64 bits, which is no id")
        ids = cast
    if ids.null_count():
        place = ids.is_null().arg_true()[0]
        raise QueryError(f"{what}[{place}] is missing (null), which is no id: leave it out")
    return ids


def _listed(
    given: Any, what: str, wanted: str = "ids", example: str = "['cust-00001']"
) -> list[Any]:
    """Return an array or another library's column as a list. Errors: QueryError."""
    if isinstance(given, str | bytes | int | float) and wanted == "ids":
        kind = "the text" if isinstance(given, str) else "the single value"
        raise QueryError(
            f"{what} must be a list of ids, got {kind} {given!r:.60}: write [{given!r:.60}]"
        )
    shape = getattr(given, "shape", None)
    if isinstance(given, range) or (
        isinstance(shape, tuple) and len(shape) == (1 if wanted == "ids" else len(shape) or 1)
    ):
        items: Any = getattr(given, "tolist", lambda: list(given))()
        if isinstance(items, list):
            return items
    named = f"a {type(given).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")
    order = ", which has no order" if isinstance(given, Set) else ""
    raise QueryError(
        f"{what} must be a list of {wanted}, got {named}{order}: write a list, such as {example}"
    )


def _is_odd(id_: Any) -> bool:
    """Return whether a value cannot be an id: neither a string nor a 64-bit integer."""
    if isinstance(id_, str):
        return not _is_unicode(id_)
    if isinstance(id_, bool) or not isinstance(id_, int | np.integer):
        return True
    return not -(2**63) <= int(id_) < 2**63


def _bad_id(ids: Sequence[Any], what: str) -> QueryError:
    """Return the error for a list with a value that is not an id, or with ids of two types."""
    for place, id_ in enumerate(ids):
        if _is_odd(id_):
            why = " is no id: ids are texts, or whole numbers of 64 bits"
            if isinstance(id_, list | tuple):
                why = " is a list: one flat list of ids is wanted here"
            return QueryError(f"{what}[{place}] = {id_!r:.60}{why}")
    other = next(n for n, i in enumerate(ids) if isinstance(i, str) != isinstance(ids[0], str))
    return QueryError(
        f"{what} holds numbers and texts, {ids[0]!r:.40} and {ids[other]!r:.40}: ids are all of "
        "one type, and 1 is not '1'"
    )


def _plain_integers(ids: Ids) -> NDArray[np.int64] | None:
    """Return the ids as an array, [n], if all are plain 64-bit integers; else None."""
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
    """Return whether the ids are a short list of valid strings."""
    if len(ids) > FEW or not isinstance(ids, list | tuple):
        return False
    return all(type(text) is str and (text.isascii() or _is_unicode(text)) for text in ids)


def _is_unicode(text: str) -> bool:
    """Return whether a string has no lone surrogate, which UTF-8 cannot encode."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def hash_ids(ids: pl.Series, seed: int = 0) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each id, [n]: the same in every version and on every machine.

    Integers pass through the splitmix64 finaliser (Steele et al. 2014), and strings through a
    polynomial over their UTF-8 bytes first.
    """
    if ids.dtype == pl.String:
        return mix(_hash_strings(ids), seed)
    return mix(ids.cast(pl.Int64).to_numpy().view(np.uint64), seed)


def places_of(ids: pl.Series, column: pl.Series) -> NDArray[np.int32]:
    """Return the place of each value among distinct ids in order, which hold all of them, [n]."""
    low, high = (int(ids[0]), int(ids[-1])) if len(ids) and ids.dtype == pl.Int64 else (0, -1)
    if 0 <= high - low < 4 * len(column) + 1024:
        place = np.zeros(high - low + 1, dtype=np.int32)
        place[ids.to_numpy() - low] = np.arange(len(ids), dtype=np.int32)
        found: NDArray[np.int32] = place[column.to_numpy() - low]
        return found
    table = pl.DataFrame({"id": ids, "place": np.arange(len(ids), dtype=np.int32)})
    joined = column.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")
    return joined["place"].to_numpy()


def encoded(column: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """Return the distinct ids of a column in order, and the place of each value in them, [n]."""
    low = high = None
    if column.dtype == pl.Int64 and len(column):
        low, high = column.min(), column.max()
    if isinstance(low, int) and isinstance(high, int) and high - low < 4 * len(column) + 1024:
        shifted = column.to_numpy() - low
        seen = np.zeros(high - low + 1, dtype=np.bool_)
        seen[shifted] = True
        place = np.cumsum(seen, dtype=np.int32)
        place -= 1
        return pl.Series("id", np.flatnonzero(seen) + low), place[shifted]
    ids = column.unique().sort().alias("id")
    return ids, places_of(ids, column)


def mix(keys: NDArray[np.uint64], seed: int = 0) -> NDArray[np.uint64]:
    """Scramble 64-bit keys (the splitmix64 finaliser), [n] -> [n]."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
        z ^= z >> np.uint64(30)  # In place: new memory takes longer than the arithmetic.
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return z


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
