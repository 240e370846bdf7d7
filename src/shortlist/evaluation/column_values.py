"""Which values does a column of users or items have, and which rows have each? For slices."""

from datetime import time
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.channels.counting.attributes import value_lists
from shortlist.data.features import FeatureTable, MultiValuedEncoder
from shortlist.data.schema import Feature
from shortlist.data.times import parse_iso
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import DataError, ModelError

RANGES = 4
"""Number of ranges for a numeric column with many values; each has about as many events."""

Rows = NDArray[np.int64]


class ColumnValues(NamedTuple):
    """The values of a column; row r has names[c] for each c in codes[starts[r]:starts[r + 1]].

    names: the values as text.
    starts: int64 [rows + 2], because row 0 stands for an unknown id.
    codes: positions in names, int64.
    ordered: True if the names have an order, as ranges of numbers do.
    """

    names: tuple[str, ...]
    starts: Rows
    codes: Rows
    ordered: bool


def column_values(
    column: str,
    frame: pl.DataFrame,
    features: FeatureTable,
    vocabulary: Vocabulary,
    rows: Rows,
    most: int,
) -> ColumnValues:
    """Return the values of a column of a table; more than `most` numbers or times become ranges.

    column: its name. A declared feature is read by its declared kind.
    frame: the table; values of all rows count, also of those not trained on.
    features: the declared features of the table.
    vocabulary: numbers the rows of the table.
    rows: row of each event, [E]; each range holds about as many events.
    most: largest number of values before ranges.
    Errors: ModelError for a column of vectors or records.
    """
    encoder = features.encoders.get(column)
    dtype = frame[column].dtype
    kind = None if encoder is None or encoder.kind == "text" else encoder.kind
    listed = isinstance(dtype, pl.List | pl.Array)
    vectors = kind == "vector" or (listed and dtype.inner in (pl.Float32, pl.Float64))  # type: ignore[attr-defined]
    if vectors or isinstance(dtype, pl.Struct) or (listed and dtype.inner.is_nested()):  # type: ignore[attr-defined]
        raise ModelError(
            f"by: column '{column}' holds {'vectors' if vectors else dtype}, which cannot be "
            "grouped: give a column of names or numbers"
        )
    if kind is None and dtype == pl.String:
        frame = _with_times(frame, column, most)
        dtype = frame[column].dtype
    if kind == "numeric" or (kind is None and (dtype.is_numeric() or dtype.is_temporal())):
        return _ranges(frame, column, vocabulary, rows, most)
    if kind is None:
        kind = "multi-valued" if listed else "categorical"
        text = pl.List(pl.String) if listed else pl.String
        frame = frame.with_columns(pl.col(column).cast(text))
    separator = encoder.separator if isinstance(encoder, MultiValuedEncoder) else None
    whole = Vocabulary(vocabulary.ids, len(vocabulary), vocabulary.name)
    table = FeatureTable.fit([Feature(column, kind, separator)], frame, whole.ids, len(whole))
    if not frame[column].null_count() < len(frame):
        return ColumnValues((), np.zeros(len(whole) + 2, np.int64), np.zeros(0, np.int64), False)
    names, starts, codes = value_lists(column, frame, table, whole)
    return ColumnValues(names, starts, codes - 1, ordered=False)


def _with_times(frame: pl.DataFrame, column: str, most: int) -> pl.DataFrame:
    """Return the table with a text column of many dates or times read as such, if it is one."""
    text = frame[column]
    given = text.drop_nulls()
    if given.n_unique() <= most:
        return frame
    try:
        times = parse_iso(given, f"column '{column}'")
    except DataError:
        return frame
    if not (times.dt.time() != time(0)).any():
        times = times.dt.date()
    known = pl.DataFrame({"row": text.is_not_null().arg_true(), column: times})
    rows = pl.DataFrame({"row": pl.arange(len(text), dtype=pl.UInt32, eager=True)})
    return frame.with_columns(rows.join(known, on="row", how="left", maintain_order="left")[column])


def _ranges(
    frame: pl.DataFrame, column: str, vocabulary: Vocabulary, rows: Rows, most: int
) -> ColumnValues:
    """Return the values of a column of numbers or times in ascending order, or ranges of them."""
    raw = frame[column]
    numbers = raw.to_physical().cast(pl.Float64, strict=False).fill_nan(None)
    place = np.full(len(vocabulary) + 1, -1, dtype=np.int64)  # position of each row in the table
    place[vocabulary.rows(frame["id"])] = np.arange(len(frame))
    place[0] = -1
    value = np.full(len(place), np.nan)
    value[place >= 0] = numbers.fill_null(np.nan).to_numpy()[place[place >= 0]]
    asked = value[rows]
    asked = asked[~np.isnan(asked)]
    distinct = np.unique(asked)
    upper = distinct
    if len(distinct) > most:
        cuts = np.arange(1, RANGES + 1) / RANGES
        upper = np.unique(np.quantile(asked, cuts, method="lower"))
    code = np.searchsorted(upper, value)
    known = ~np.isnan(value) & (code < len(upper))
    # A range is named by the smallest and largest value that events have in it.
    names = []
    for number in range(len(upper)):
        inside = distinct[np.searchsorted(upper, distinct) == number]
        low, high = (_written(raw, place, value, end) for end in (inside[0], inside[-1]))
        names.append(low if low == high else f"{low} to {high}")
    starts = np.concatenate([[0], np.cumsum(known)])
    return ColumnValues(tuple(names), starts, code[known], ordered=True)


def _written(raw: pl.Series, place: Rows, value: NDArray[np.float64], end: float) -> str:
    """Return a number as text, as its column shows it: a number or a date."""
    found: Any = raw[int(place[np.flatnonzero(value == end)[0]])]
    return f"{found:g}" if isinstance(found, float) else str(found)
