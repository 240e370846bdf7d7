"""What must a column of ids, weights or features look like? Columns are checked and typed.

Each function takes a column under its name in the file. It returns the column in the one form that
the library works on, or raises a DataError that names the file, the column, the row (1 is the first
row of data) and what to do. Nothing is changed silently.
"""

from functools import partial

import polars as pl

from shortlist.data.files import ManyFiles
from shortlist.data.lists import listed
from shortlist.data.lost_ids import NULL_WORDS, SCIENTIFIC
from shortlist.data.schema import Feature
from shortlist.errors import DataError

INT64_MAX = 2**63 - 1


LARGEST = 1e15
"""Largest number a tower is given: sums of squares of many such numbers still fit into float32."""

_SQUARED = 1e150
"""Larger numbers have no standard deviation in float64."""


def fault(where: str, column: str, message: str, row: int | None = None) -> DataError:
    """Return the error for a column, naming the file and the row if one is given."""
    if row is not None and isinstance(where, ManyFiles):
        where, row = where.place(row)
    place = f", row {row:,}" if row is not None else ""
    return DataError(f"{where}: column '{column}'{place}: {message}")


def first_row(mask: pl.Series) -> int:
    """Return the number of the first true row, counted from 1; at least one row must be true."""
    return int(mask.arg_true()[0]) + 1


# --- text -----------------------------------------------------------------------------------------


def exact_text(column: pl.Series) -> pl.Series:
    """Return text as Int64 if that keeps every value as it is written, else unchanged.

    '007', '+7', ' 7', '-0' and numbers beyond int64 would change. One such value keeps the whole
    column text, so that 7 and 007 stay two ids.

    >>> exact_text(pl.Series("id", ["7", "12"])).to_list()
    [7, 12]
    >>> exact_text(pl.Series("id", ["7", "007"])).to_list()
    ['7', '007']
    """
    numbers = column.cast(pl.Int64, strict=False)
    if numbers.null_count() != column.null_count():
        return column
    # Every other way to write a number takes more characters, so comparing the sums is enough.
    return numbers if _characters(numbers) == column.str.len_bytes().sum() else column


def _characters(numbers: pl.Series) -> int:
    """Return how many characters Int64 numbers take in their shortest form.

    >>> _characters(pl.Series([7, -12, 0, None]))
    5
    """
    if not (count := len(numbers) - numbers.null_count()):
        return 0
    low, high = int(numbers.min()), int(numbers.max())  # type: ignore[arg-type]
    written = count + int((numbers < 0).sum()) if low < 0 else count
    for power in (10**n for n in range(1, len(str(max(high, -low))))):
        written += count if low >= power else int((numbers >= power).sum())
        written += int((numbers <= -power).sum()) if low < 0 else 0
    return written


def typed_text(column: pl.Series) -> pl.Series:
    """Return text as Int64 where that is exact, else as Float64 if all values are numbers.

    Numbers with leading zeros are codes, such as 02138, and stay text.
    """
    exact = exact_text(column)
    if exact.dtype != pl.String or column.str.contains(r"^[+-]?0\d").any():
        return exact
    numbers = column.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


# --- ids ------------------------------------------------------------------------------------------


def checked_ids(column: pl.Series, where: str) -> pl.Series:
    """Return ids as Int64 or as byte-exact String: one type for the whole column.

    Ids of a text file have already passed `exact_text`. Integers of any width, and decimals without
    decimal places, become Int64, or text if one exceeds it. Categories become their text. Floats
    are refused, because distinct ids may have become equal as floats. Null, empty and blank ids are
    refused too; any other white space is part of the id.
    """
    refuse_null(column, where, "the id is missing or empty; every row needs one.")
    kind = column.dtype
    if kind.is_float():
        raise fault(
            where,
            column.name,
            f"ids are floats ({kind}), which cannot hold every id exactly. Give integers or text; "
            "a pandas column of integers turns to floats where a value is missing.",
        )
    if isinstance(kind, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    elif isinstance(kind, pl.Decimal) and kind.scale == 0:  # sums and keys from databases
        return _integer_ids(column.cast(pl.Int128))
    elif kind.is_integer():
        return _integer_ids(column)
    elif kind == pl.Object:
        raise fault(
            where, column.name, "ids are of mixed types; make all of them integers or all text."
        )
    elif kind != pl.String:
        raise fault(where, column.name, f"ids must be integers or text, not {kind}; convert them.")
    scientific = column.str.contains(SCIENTIFIC)
    if scientific.any():
        row = first_row(scientific)
        raise fault(
            where,
            column.name,
            f"the id {column[row - 1]!r} is a number as spreadsheets round it: its last digits are "
            "lost, and different ids may have become one. Export the ids again as text.",
            row,
        )
    blank = column.str.strip_chars() == ""
    if blank.any():
        raise fault(
            where,
            column.name,
            f"the id {column[first_row(blank) - 1]!r} is empty or only white space.",
            first_row(blank),
        )
    return column


def _integer_ids(column: pl.Series) -> pl.Series:
    if column.dtype in (pl.UInt64, pl.Int128):
        low, high = int(column.min()), int(column.max())  # type: ignore[arg-type]
        if low < -INT64_MAX - 1 or high > INT64_MAX:
            return column.cast(pl.String)
    return column.cast(pl.Int64)


# --- weights --------------------------------------------------------------------------------------


def checked_weights(column: pl.Series, where: str, min_weight: float | None) -> pl.Series:
    """Return weights as Float64: not missing, finite, and in kept rows not negative."""
    refuse_null(column, where, "the weight is missing; every row needs one.")
    weights = _numbers(column, where, "the weight").cast(pl.Float64)
    refuse_not_finite(weights, where)
    negative = weights < 0
    if min_weight is not None:
        negative &= weights >= min_weight
    if negative.any():
        row = first_row(negative)
        raise fault(
            where,
            column.name,
            f"the weight {weights[row - 1]} of a positive is negative; "
            "set min_weight to leave such rows out.",
            row,
        )
    return weights


def checked_split(column: pl.Series, where: str) -> pl.Series:
    """Return the name of the part (train, validation, test) of each row, as text."""
    refuse_null(column, where, "the split is missing; every row needs one.")
    return column.cast(pl.String)


# --- features -------------------------------------------------------------------------------------


def checked_feature(column: pl.Series, where: str, feature: Feature) -> pl.Series:
    """Return a feature's column in the form of its kind. Null means missing, where it is allowed.

    categorical: any scalar type, unchanged.
    numeric: integers, floats or booleans, unchanged.
    multi-valued: a List of scalars, empty for a row without values. Text is split at the separator;
        white space around the parts and empty parts are removed.
    vector: Array of Float32.
    text: text; a list of words is joined by spaces.
    """
    if column.dtype == pl.Object:
        raise fault(where, column.name, "values are of mixed types; make them one type.")
    if feature.kind == "categorical":
        return _categorical(column, where)
    if feature.kind == "numeric":
        numbers = _numbers(column, where, f"the numeric feature '{feature.name}'")
        refuse_not_finite(numbers, where)
        _refuse_larger(numbers.cast(pl.Float64).abs(), _SQUARED, where, "be standardised")
        return numbers
    if feature.kind == "multi-valued":
        return _multi_valued(column, where, feature)
    if feature.kind == "text":
        return _text(column, where)
    return _vector(column, where, feature)


def _text(column: pl.Series, where: str) -> pl.Series:
    if isinstance(column.dtype, pl.List | pl.Array) and not _inner(column).is_nested():
        column = column.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
    if column.dtype not in (pl.String, pl.Null, pl.Categorical, pl.Enum):
        raise fault(
            where,
            column.name,
            f"a text feature holds text or lists of words, not {column.dtype}; "
            "declare it categorical or numeric.",
        )
    return column.cast(pl.String)


def _categorical(column: pl.Series, where: str) -> pl.Series:
    if column.dtype.is_nested():
        raise fault(
            where,
            column.name,
            f"a categorical feature has one value a row, not {column.dtype}; "
            "declare it multi-valued or vector.",
        )
    refuse_not_finite(column, where)
    return column


def _multi_valued(column: pl.Series, where: str, feature: Feature) -> pl.Series:
    if isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    if column.dtype == pl.Null:
        column = column.cast(pl.List(pl.String))
    if column.dtype == pl.String:
        column = _split(column, where, feature)
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List) or _inner(column).is_nested():
        raise fault(
            where,
            column.name,
            f"a multi-valued feature is a list or text with a separator, not {column.dtype}.",
        )
    if _inner(column) == pl.String:
        _refuse_torn(column, where)
    flat = column.explode(empty_as_null=False, keep_nulls=False)
    if flat.null_count():
        row = first_row(column.list.eval(pl.element().is_null()).list.any().fill_null(False))
        raise fault(where, column.name, "a value in the list is null; leave it out.", row)
    if _inner(column).is_float():
        refuse_not_finite(flat, where, rows=False)
    return column.fill_null(pl.Series([[]], dtype=column.dtype))


def _refuse_torn(column: pl.Series, where: str) -> None:
    """Refuse bracketed lists that the file format has already split, as RecBole does at spaces."""
    filled = column.filter(column.list.len() > 0)
    first, last = filled.list.first(), filled.list.last()
    torn = first.str.starts_with("[") & last.str.ends_with("]")
    if len(filled) and torn.all() and (filled.list.len() > 1).any():
        raise fault(
            where,
            column.name,
            f"the values stand in brackets, and were split inside them: {filled[0].to_list()}; "
            "write them without brackets.",
        )


def _vector(column: pl.Series, where: str, feature: Feature) -> pl.Series:
    name, text = column.name, column.dtype == pl.String
    if text:
        column = _split(column, where, feature)
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        raise fault(where, name, f"a vector is a list of numbers, not {column.dtype}.")
    inner = _inner(column)
    floats = column.cast(pl.List(pl.Float64), strict=False)
    flat = floats.explode(empty_as_null=False, keep_nulls=False)
    if inner.is_nested() or not flat.is_finite().all(ignore_nulls=False):
        bad = floats.list.eval(~pl.element().is_finite().fill_null(False)).list.any()
        row = first_row(bad.fill_null(False)) if not inner.is_nested() else None
        wanted = "a vector holds numbers only, without NaN, inf or null"
        if row is not None:
            wanted += f", got {column[row - 1].to_list()}"
        wanted += f"; text is split at {feature.separator!r}." if text else "."
        raise fault(where, name, wanted, row)
    lengths = floats.list.len()
    present = lengths.drop_nulls()
    if not len(present) or present.max() == 0:
        raise fault(where, name, "no row has a vector." if not len(present) else "empty vectors.")
    usual = present.mode()  # blame the vector with the unusual length, even if it comes first
    width = int(present[0] if present[0] in usual else usual.min())  # type: ignore[arg-type]
    uneven = (lengths != width).fill_null(False)
    if uneven.any():
        row = first_row(uneven)
        raise fault(
            where,
            name,
            f"vectors must be equally long: {lengths[row - 1]} here, {width} in most rows.",
            row,
        )
    _refuse_larger(
        floats.list.eval(pl.element().abs()).list.max(), LARGEST, where, "be part of a vector"
    )
    return floats.cast(pl.List(pl.Float32)).list.to_array(width)


def _split(column: pl.Series, where: str, feature: Feature) -> pl.Series:
    parts = listed(column, partial(fault, where, column.name))
    if parts is None and feature.separator is None:
        raise fault(
            where, column.name, f"the feature is text; give feature '{feature.name}' a separator."
        )
    if parts is None:
        parts = column.str.split(feature.separator)
    return parts.list.eval(pl.element().str.strip_chars()).list.eval(
        pl.element().filter(pl.element() != "")
    )


def _inner(column: pl.Series) -> pl.DataType:
    inner = column.dtype.inner  # type: ignore[attr-defined]
    return inner if isinstance(inner, pl.DataType) else inner()


def checked_title(column: pl.Series, where: str) -> pl.Series:
    """Return titles as text; null means a missing title."""
    if isinstance(column.dtype, pl.List):  # RecBole keeps titles as lists of words
        return column.cast(pl.List(pl.String)).list.join(" ")
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise fault(where, column.name, f"a title must be text, not {column.dtype}.")
    return column.cast(pl.String)


def family(dtype: pl.DataType) -> str:
    """Return the group of types that can stand for each other, such as all numbers."""
    if dtype.is_numeric():
        return "number"
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if inner == pl.Null:
            return "list"
        return f"list of {family(inner if isinstance(inner, pl.DataType) else inner())}"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype)


# --- shared checks --------------------------------------------------------------------------------


def _numbers(column: pl.Series, where: str, what: str) -> pl.Series:
    kind = column.dtype
    if kind == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        bad = numbers.is_null() & column.is_not_null()
        if not bad.any():
            return numbers
        row = first_row(bad)
        value = column[row - 1]
        cure = " If all decimals have a comma, set data.decimal = ','." if "," in value else ""
        if value in NULL_WORDS:
            cure = f' If it means a missing value, set data.null_values = ["{value}"].'
        raise fault(where, column.name, f"{what} must be a number, got {value!r}.{cure}", row)
    if kind == pl.Null:
        return column.cast(pl.Float64)
    if kind.is_numeric() or kind == pl.Boolean:
        return column
    raise fault(where, column.name, f"{what} must be numbers, not {kind}.")


def refuse_null(column: pl.Series, where: str, message: str) -> None:
    """Refuse a column with nulls, naming the row of the first."""
    if column.null_count():
        raise fault(where, column.name, message, first_row(column.is_null()))


def _refuse_larger(sizes: pl.Series, most: float, where: str, what: str) -> None:
    """Refuse the first row with a value above `most`."""
    if (large := (sizes > most).fill_null(False)).any():
        row = first_row(large)
        message = f"{sizes[row - 1]:g} is too large to {what}: at most {most:g}; scale the column."
        raise fault(where, sizes.name, message, row)


def refuse_not_finite(column: pl.Series, where: str, *, rows: bool = True) -> None:
    """Refuse floats with NaN or inf. rows: whether the error names the row of the first."""
    if not column.dtype.is_float():
        return
    finite = column.is_finite()
    if finite.all():
        return
    row = first_row(~finite)
    message = f"{column[row - 1]} is not a finite number; leave the value empty if it is unknown."
    raise fault(where, column.name, message, row if rows else None)
