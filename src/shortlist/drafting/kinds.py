"""Which columns of a user or item table are features, of which kind, and which is the title?"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from shortlist.data.lists import listed
from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.errors import DataError

MOST = 8
"""The most features that are drafted for a side; the others are mentioned in a note."""

_MARKS = ("|", ";", ",", " ")
_READ = ': the kind "text" would read its words'
_FEWEST = 20
"""With fewer rows than this, distinct values are no reason to leave a column out."""


@dataclass
class Kinds:
    """The kinds of some columns.

    features: the kind of each feature.
    reasons: the reason of each feature.
    marks: the separator of each feature with several values.
    title: the column to show to people.
    left: the columns that are not read, and why.
    """

    features: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    title: Column | None = None
    left: dict[str, str] = field(default_factory=dict)


def find_kinds(columns: Sequence[Column], *, titled: bool) -> Kinds:
    """Guess what kind of feature each column is. titled: whether one of them may be the title."""
    kinds = Kinds()
    columns = [column for column in columns if column.can_be_named]
    if titled:
        kinds.title = _title(columns)
    for column in columns:
        if kinds.title is not None and column.name == kinds.title.name:
            continue
        kind, reason, mark = _kind(column)
        if kind is None:
            kinds.left[column.name] = reason
        elif len(kinds.features) == MOST:
            kinds.left[column.name] = f"would be {kind}"
        else:
            kinds.features[column.name] = kind
            kinds.reasons[column.name] = reason
            if mark is not None:
                kinds.marks[column.name] = mark
    return kinds


def _title(columns: Sequence[Column]) -> Column | None:
    found = []
    for place, column in enumerate(columns):
        words = column.is_text or (
            column.values.dtype == pl.List(pl.String) and names.mentions(column.words, ("title",))
        )
        if not words or not len(column.given) or column.missing > len(column.given):
            continue
        if set(column.words) & {"id", "brand", "category", "url", "text", "description", "type"}:
            continue
        name_score = 0
        if names.mentions(column.words, ("title", "headline", "标题", "名称")):
            name_score = 3
        elif names.mentions(column.words, names.CAPTIONS):
            name_score = 2
        elif not _is_caption(column):
            continue
        found.append((name_score, -place, column))
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _is_caption(column: Column) -> bool:
    """Return whether texts are mostly distinct, as long as titles, and not URLs or lists."""
    if column.distinct < 0.7 * len(column.given):
        return False
    if bool(column.given.str.contains(r"^\s*https?://|^\s*[\[{]").any()):
        return False
    length = float(column.given.str.len_chars().mean() or 0)  # type: ignore[arg-type]
    words = int(column.given.str.contains(r"[^\W\d_]{2}.* .*\w").sum())
    return 3 <= length <= 120 and 4 * words >= len(column.given)


def _kind(column: Column) -> tuple[str | None, str, str | None]:
    """Return the kind of a column (None if it is no feature), the reason, and its separator."""
    rows, given = len(column.values), column.given
    if not len(given):
        return None, "it is empty", None
    if column.is_nested:
        return _nested(column)
    if column.missing > 0.9 * rows:
        return None, f"{column.missing / rows:.0%} of it is missing", None
    if column.distinct == 1:
        return None, "it has one value", None
    dtype = column.values.dtype
    if dtype == pl.Boolean:
        return "categorical", "true or false", None
    if column.is_text:
        return _text(column)
    if not column.is_number:
        return None, "it is a time", None
    return _number(column)


def _nested(column: Column) -> tuple[str | None, str, str | None]:
    dtype = column.values.dtype
    if isinstance(dtype, pl.Array):
        return "vector", f"{dtype.size} numbers each", None
    if not isinstance(dtype, pl.List):
        return None, "it holds records", None
    inner = dtype.inner
    if not isinstance(inner, pl.DataType) or inner.is_nested():
        return None, "it holds records, or lists in lists", None
    lengths = column.given.list.len()
    if inner.is_float() and lengths.n_unique() == 1 and int(lengths[0]) > 1:
        return "vector", f"{lengths[0]} numbers each", None
    flat = column.given.explode(empty_as_null=False, keep_nulls=False)
    if not len(flat) or flat.null_count():
        return None, "its lists hold missing values", None
    if _is_own(flat, column):
        return None, "nearly every row has different values", None
    return "multi-valued", f"lists, {flat.n_unique():,} values", None


def _is_own(flat: pl.Series, column: Column) -> bool:
    """Return whether nearly no value of some lists occurs twice."""
    return len(column.given) >= _FEWEST and flat.n_unique() > 0.9 * len(flat)


def _text(column: Column) -> tuple[str | None, str, str | None]:
    given = column.given.cast(pl.String)
    try:
        lists = listed(given, lambda message, _: DataError(message))
    except DataError as error:
        return None, str(error).split(":")[0], None
    if lists is not None:
        lengths = lists.list.len().drop_nulls()
        flat = lists.explode(empty_as_null=False, keep_nulls=False).drop_nulls()
        numbers = flat.cast(pl.Float64, strict=False)
        same = lengths.n_unique() == 1 and int(lengths[0]) >= 8
        if same and not numbers.null_count() and bool(flat.str.contains(".", literal=True).any()):
            return "vector", f"lists of {lengths[0]} numbers", None
        if _is_own(flat, column):
            return None, "nearly every row has different values", None
        return "multi-valued", f"lists written as text, {flat.n_unique():,} values", None
    if column.is_clock:
        return None, "it is a time", None
    for mark in _MARKS:
        if (values := _several(given, mark)) is not None:
            return "multi-valued", f"{values:,} values, separated by {mark!r}", mark
    rows, distinct = len(given), column.distinct
    if distinct > 0.5 * rows and rows >= _FEWEST:
        return None, f"nearly every row has a different text{_READ}", None
    if float(given.str.len_chars().mean() or 0) > 60:  # type: ignore[arg-type]
        return None, f"it is long text{_READ}", None
    return "categorical", f"{distinct:,} values", None


def _several(given: pl.Series, mark: str) -> int | None:
    """Return how many distinct values such texts combine, or None if they are single values."""
    marked = given.str.contains(mark, literal=True)
    if float(marked.mean() or 0) < 0.05:  # type: ignore[arg-type]
        return None
    if mark == " " and not bool(given.str.contains(r"^\w*\d\w*( \w*\d\w*)*$").all()):
        return None  # a sentence of words
    parts = given.str.split(mark)
    flat = parts.explode(empty_as_null=False, keep_nulls=False).str.strip_chars()
    flat = flat.filter(flat != "")
    values = int(flat.n_unique())
    if not len(flat) or 3 * values > len(flat) or values > given.n_unique() + 12:
        return None
    if mark != "|" and float(flat.str.len_chars().mean() or 0) > 30:  # type: ignore[arg-type]
        return None
    return values


def _number(column: Column) -> tuple[str | None, str, str | None]:
    given, distinct = column.given, column.distinct
    shown = column.reach
    if given.dtype.is_float() and not bool(given.is_finite().all()):
        return None, "not all of its numbers are finite", None
    if float(given.cast(pl.Float64).abs().max() or 0) > 1e15:  # type: ignore[arg-type]
        return None, "its numbers are too large", None
    if not column.is_whole:
        return "numeric", shown, None
    _, numbered = names.bare(column.words)
    coded = numbered or names.mentions(column.words, _CODES)
    if len(given) >= _FEWEST and distinct >= 0.95 * len(given) and (coded or not column.named):
        return None, "every row has a different number", None
    if column.is_binary or coded or (distinct <= 25 and not names.mentions(column.words, _COUNTS)):
        return "categorical", f"{distinct:,} values", None
    return "numeric", shown, None


_CODES = ("type", "category", "cat", "zip", "class", "group", "level", "occupation", "channel")
_COUNTS = (
    "age",
    "year",
    "price",
    "count",
    "num",
    "cnt",
    "rating",
    "stars",
    "size",
    "length",
    "cost",
)
