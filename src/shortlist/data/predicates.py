"""Which items may be recommended? A condition on their columns, as a tree of plain values.

As JSON or Python: {"column": "genre", "in": ["Drama", "War"]}, {"column": "genre", "eq": "Drama"},
{"column": "price", "min": 1, "max": 9.5}, {"column": "day", "min": "2024-02-01"}, {"and": [...]},
{"or": [...]}, {"not": {...}}.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from math import isnan
from operator import and_, or_
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.ceilings import MOST_DEEP, MOST_NODES, MOST_VALUES
from shortlist.data.features import MultiValuedEncoder
from shortlist.data.times import moments
from shortlist.data.training_data import TrainingData
from shortlist.errors import DataError, QueryError, suggest

Scalar: TypeAlias = str | int | float | bool

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}($|[T ])")
"""How a written date begins. ISO weeks are excluded: 2024-W05 would be read as its Monday only."""


@dataclass(frozen=True)
class In:
    """The column holds one of the values; for a multi-valued column at least one of them."""

    column: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """The column's number or date lies between two limits, both included; None is no limit.

    Dates are ISO text, and a date without a time is the whole day. Errors: QueryError if the low
    limit is above the high one, so that nothing could lie between.
    """

    column: str
    low: float | str | None
    high: float | str | None

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if isinstance(low, str) and isinstance(high, str):
            what = f"column '{self.column}': a limit must be a date"
            empty = _span(low, what)[0] >= _span(high, what)[1]
        else:
            numbers = isinstance(low, int | float) and isinstance(high, int | float)
            empty = numbers and not low <= high  # type: ignore[operator]
        if empty:
            raise QueryError(
                f"column '{self.column}': min = {low!r} is above max = {high!r}, so no item would "
                "be left: change one of them"
            )


@dataclass(frozen=True)
class All:
    """All parts hold."""

    parts: tuple["Predicate", ...]


@dataclass(frozen=True)
class Some:
    """At least one part holds."""

    parts: tuple["Predicate", ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold. A missing value makes a comparison false, and so its `Not` true."""

    part: "Predicate"


Predicate: TypeAlias = In | Range | All | Some | Not


def parse(tree: object) -> Predicate:
    """Read a condition from plain values; QueryError names the place of the mistake.

    >>> parse({"not": {"column": "genre", "eq": "Drama"}})
    Not(part=In(column='genre', values=('Drama',)))
    """
    count = [0]
    return _parse(tree, "where", 1, count)


def allowed_rows(data: TrainingData, where: Predicate) -> Tensor:
    """Return the item rows that the condition holds for, bool [items + 1]; row 0 is False.

    Items that are not in the table have a missing value in every column. Errors: QueryError for a
    column that does not exist or has another type.
    """
    # The key is text, because 1, 1.0 and True are equal in Python but differ in a condition.
    return data.remembered.get(repr(where), lambda: _allowed_rows(data, where))


def _allowed_rows(data: TrainingData, where: Predicate) -> Tensor:
    frame = data.item_frame
    mask = torch.zeros(len(data.items) + 1, dtype=torch.bool)
    if frame is None:
        raise QueryError("the data have no table of items, so there is nothing to filter by")
    held = frame.select(_expression(where, frame, data).alias("held"))["held"].to_numpy()
    rows = data.items.rows(frame["id"])
    mask[torch.from_numpy(rows)] = torch.from_numpy(np.array(held))
    if _holds_for_nothing_known(where):
        listed = torch.zeros_like(mask)
        listed[torch.from_numpy(rows)] = True
        mask |= ~listed
    mask[0] = False
    return mask


def value_codes(data: TrainingData, column: str) -> NDArray[np.int64]:
    """Return a number for each item row's value in a column, [items + 1]; -1 for a missing value.

    Errors: QueryError for a column that does not exist, or that holds several values an item.
    """
    return data.remembered.get(("value codes", column), lambda: _value_codes(data, column))


def _value_codes(data: TrainingData, column: str) -> NDArray[np.int64]:
    frame = data.item_frame
    if frame is None:
        raise QueryError("the data have no table of items, so there is no column of them")
    held = _column(column, frame)
    encoder = data.item_features.encoders.get(column)
    if isinstance(held.dtype, pl.List | pl.Array) or isinstance(encoder, MultiValuedEncoder):
        raise QueryError(
            f"column '{column}' holds several values an item, and a quota needs a column "
            "with one: an item of two genres would count towards both"
        )
    try:
        ranks = held.rank("dense") if held.dtype != pl.Boolean else held.cast(pl.UInt8)
    except pl.exceptions.PolarsError as error:
        raise QueryError(f"column '{column}' has values that cannot be told apart") from error
    codes = np.full(len(data.items) + 1, -1, dtype=np.int64)
    codes[data.items.rows(frame["id"])] = ranks.cast(pl.Int64).fill_null(-1).to_numpy()
    codes[0] = -1
    return codes


def _parse(tree: object, at: str, depth: int, count: list[int]) -> Predicate:
    count[0] += 1
    if count[0] > MOST_NODES or depth > MOST_DEEP:
        raise QueryError(
            f"{at}: a condition has at most {MOST_NODES} parts, {MOST_DEEP} levels deep"
        )
    if not isinstance(tree, Mapping):
        raise QueryError(f"{at} must be a table such as {{'column': ..., 'eq': ...}}, got {tree!r}")
    keys = set(tree)
    for key, kind in (("and", All), ("or", Some)):
        if keys == {key}:
            parts = tree[key]
            if not isinstance(parts, list | tuple) or not parts:
                raise QueryError(f"{at}.{key} must be a list of at least one condition")
            return kind(
                tuple(
                    _parse(part, f"{at}.{key}[{number}]", depth + 1, count)
                    for number, part in enumerate(parts)
                )
            )
    if keys == {"not"}:
        return Not(_parse(tree["not"], f"{at}.not", depth + 1, count))
    column = tree.get("column")
    if not isinstance(column, str):
        raise QueryError(
            f"{at} must have one of the keys 'and', 'or', 'not', or a 'column' with 'eq', 'in', or "
            f"'min' and 'max'; got {sorted(map(str, keys))}"
        )
    if keys == {"column", "eq"}:
        return In(column, (_scalar(tree["eq"], f"{at}.eq"),))
    if keys == {"column", "in"}:
        values = tree["in"]
        if not isinstance(values, list | tuple) or len(values) > MOST_VALUES:
            raise QueryError(f"{at}.in must be a list of at most {MOST_VALUES:,} values")
        return In(column, tuple(_scalar(value, f"{at}.in[{n}]") for n, value in enumerate(values)))
    if keys in ({"column", "min"}, {"column", "max"}, {"column", "min", "max"}):
        return _range(column, tree, at)
    raise QueryError(
        f"{at}: beside 'column' there must be 'eq', 'in', or 'min' and 'max'; "
        f"got {sorted(map(str, keys))}"
    )


def _range(column: str, tree: Mapping[Any, Any], at: str) -> Range:
    low, high = (_limit(tree.get(key), f"{at}.{key}") for key in ("min", "max"))
    if low is None and high is None:
        raise QueryError(f"{at} needs a number or a date for min or max")
    try:
        return Range(column, low, high)
    except QueryError as error:
        raise QueryError(f"{at}: {error}") from None


def _scalar(value: object, at: str) -> Scalar:
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str | int | float | bool):
        raise QueryError(f"{at} must be a text, a number, true or false; got {value!r}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise QueryError(f"{at} must be a number of 64 bits")
    return value


def _limit(value: object, at: str) -> float | str | None:
    if value is None:
        return None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        _span(value, f"{at} must be a number, or a date")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise QueryError(f"{at} must be a number, got {value!r}")
    return float(value)


def _span(value: object, what: str) -> tuple[datetime, datetime]:
    """Return when a written date begins, and the first moment after it, in UTC without a zone."""
    try:
        if not isinstance(value, str) or not _DATE.match(value):
            raise ValueError
        start = datetime.fromisoformat(value)
        if start.tzinfo is not None:
            start = start.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"{what} such as '2024-02-01', got {value!r}") from error
    long = timedelta(days=1) if len(value) <= len("2024-02-01") else timedelta(microseconds=1)
    return start, start + long if start.year < 9999 else datetime.max


def _within_dates(
    column: str, low: float | str | None, high: float | str | None, frame: pl.DataFrame
) -> pl.Expr:
    """Return whether a column's dates lie between two dates; a date means all of its time span."""
    what = f"column '{column}' holds dates: a limit must be a date"
    try:
        times = moments(_column(column, frame), "the items table")
    except DataError as error:
        raise QueryError(f"column '{column}' is compared with a date: {error}") from error
    held = times.is_not_null()
    if low is not None:
        held &= times >= _span(low, what)[0]
    if high is not None:
        held &= times < _span(high, what)[1]
    return pl.lit(held.fill_null(False))


def _is_dated(dtype: pl.DataType) -> bool:
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def _expression(where: Predicate, frame: pl.DataFrame, data: TrainingData) -> pl.Expr:
    match where:
        case All(parts):
            return reduce(and_, (_expression(part, frame, data) for part in parts))
        case Some(parts):
            return reduce(or_, (_expression(part, frame, data) for part in parts))
        case Not(part):
            return ~_expression(part, frame, data)
        case Range(column, low, high):
            dtype = _column(column, frame).dtype
            written = isinstance(low, str) or isinstance(high, str)
            if _is_dated(dtype) or (dtype == pl.String and written):
                return _within_dates(column, low, high, frame)
            if not dtype.is_numeric():
                raise QueryError(
                    f"column '{column}' holds no numbers and no dates (as '2024-02-01'), so it has "
                    "no min and max"
                )
            if written:
                raise QueryError(f"column '{column}' holds numbers, so its limits are numbers")
            held = pl.col(column).is_not_null()
            if low is not None:
                held &= pl.col(column) >= low
            if high is not None:
                held &= pl.col(column) <= high
            return held.fill_null(False)
        case In(column, values):
            return _among(column, values, frame, data).fill_null(False)


def _among(
    column: str, values: tuple[Scalar, ...], frame: pl.DataFrame, data: TrainingData
) -> pl.Expr:
    dtype = _column(column, frame).dtype
    if _is_dated(dtype):
        for value in values:
            _span(value, f"column '{column}' is compared with a date")
        days = [_within_dates(column, str(value), str(value), frame) for value in values]
        return reduce(or_, days, pl.lit(False))
    one = pl.col(column)
    encoder = data.item_features.encoders.get(column)
    if isinstance(dtype, pl.List | pl.Array):
        kind, one = dtype.inner, one.cast(pl.List(dtype.inner))
    elif isinstance(encoder, MultiValuedEncoder) and dtype == pl.String:
        kind, one = (
            pl.String(),
            one.str.split(encoder.separator).list.eval(pl.element().str.strip_chars()),
        )
    else:
        kind = dtype
    wanted = (
        "a text" if kind == pl.String else "true or false" if kind == pl.Boolean else "a number"
    )
    for value in values:
        fits = {
            "a text": isinstance(value, str),
            "true or false": isinstance(value, bool),
            "a number": isinstance(value, int | float) and not isinstance(value, bool),
        }
        if not fits[wanted]:
            raise QueryError(f"column '{column}' is compared with {wanted}, got {value!r}")
    if wanted == "a number":
        whole = values
        if kind.is_integer():
            whole = tuple(v for v in values if abs(v) < 2**63 and v == int(v))  # type: ignore[arg-type]
        values = tuple(int(v) if kind.is_integer() else float(v) for v in whole)
    if kind == pl.Float32:  # a 32-bit column holds the number nearest to 0.1, so compare with that
        values = tuple(float(np.float32(value)) for value in values)
    if kind != dtype:
        return reduce(or_, (one.list.contains(value) for value in values), pl.lit(False))
    return one.is_in(list(values))


def _column(name: str, frame: pl.DataFrame) -> pl.Series:
    if name not in frame.columns or name == "id":
        known = [column for column in frame.columns if column != "id"]
        raise QueryError(f"the items table has no column '{name}'.{suggest(name, known)}")
    return frame[name]


def _holds_for_nothing_known(where: Predicate) -> bool:
    """Return whether the condition holds for an item whose columns are all missing."""
    match where:
        case All(parts):
            return all(map(_holds_for_nothing_known, parts))
        case Some(parts):
            return any(map(_holds_for_nothing_known, parts))
        case Not(part):
            return not _holds_for_nothing_known(part)
        case _:
            return False


def as_predicate(where: Predicate | Mapping[str, Any] | None) -> Predicate | None:
    """Return a condition as it is, or read it from plain values."""
    is_read = where is None or isinstance(where, In | Range | All | Some | Not)
    return where if is_read else parse(where)  # type: ignore[return-value]
