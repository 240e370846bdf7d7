"""New or changed items for fitted data, checked as strictly as the items table."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.columns import checked_feature, checked_ids, family
from shortlist.data.features import MultiValuedEncoder, refuse_far
from shortlist.data.remembered import Remembered
from shortlist.data.schema import Feature
from shortlist.data.training_data import TrainingData
from shortlist.data.updates import features_of, grown
from shortlist.errors import DataError, suggest

WHERE = "the new items"


def item_table(data: TrainingData, items: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Read items given as plain values, {"id": ..., column: value}, as rows of the items table.

    A column that is absent or None is missing. Errors: DataError naming the column, for a column
    that the table lacks, a value or id of another type, and an id given twice.
    """
    frame = data.item_frame
    if frame is None:
        raise DataError("the data have no table of items, so a new one cannot be described")
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise DataError(
                f"{WHERE}: number {number} must be a table such as {{'id': ...}}, got {item!r:.60}"
            )
        if "id" not in item:
            raise DataError(f"{WHERE}: number {number} has no 'id'")
        for name in item:
            if name not in frame.columns:
                known = [column for column in frame.columns if column != "id"]
                raise DataError(
                    f"{WHERE}: the items table has no column '{name}'.{suggest(name, known)}"
                )
    columns = [
        column_of(data, name, [item.get(name) for item in items], dtype)
        for name, dtype in frame.schema.items()
    ]
    table = pl.DataFrame(columns)
    for name, encoder in data.item_features.encoders.items():
        refuse_far(encoder, table[name], table["id"])
    if (twice := table["id"].is_duplicated()).any():
        raise DataError(f"{WHERE}: the id {table['id'].filter(twice)[0]!r} is given twice")
    return table


def with_items(data: TrainingData, table: pl.DataFrame) -> TrainingData:
    """Return the data with these rows in the items table, replacing rows with the same id.

    table: as `item_table` returns it. New ids get rows after the others; existing rows stay.
    """
    assert data.item_frame is not None
    items, _ = grown(data.items, table["id"])
    frame = pl.concat([data.item_frame.join(table, on="id", how="anti"), table])
    return _same_log(
        data,
        items=items,
        item_frame=frame,
        item_features=features_of(data.item_features, frame, items),
    )


def new_values(data: TrainingData, name: str, ids: list[Any], values: list[Any]) -> pl.Series:
    """Check new values of one column for known items, in the table's type. Errors: DataError."""
    frame = data.item_frame
    if frame is None:
        raise DataError("the data have no table of items, so no column of it can change")
    if name not in frame.columns or name == "id":
        known = [column for column in frame.columns if column != "id"]
        raise DataError(f"the items table has no column '{name}'.{suggest(name, known)}")
    column = column_of(data, name, values, frame.schema[name])
    if (encoder := data.item_features.encoders.get(name)) is not None:
        refuse_far(encoder, column, pl.Series(ids))
    return column


def with_values(
    data: TrainingData, columns: Mapping[str, tuple[NDArray[np.int64], pl.Series]]
) -> TrainingData:
    """Return the data with new values in the items table.

    columns: by column name, item rows and their values, [n] each, as `new_values` returns them. An
        item that the table does not list is added to it.

    The cache of conditions and quotas starts empty, as it depends on the values.
    """
    frame = data.item_frame
    assert frame is not None
    place = np.full(len(data.items) + 1, -1)
    place[data.items.rows(frame["id"])] = np.arange(len(frame))
    rows = np.unique(np.concatenate([rows for rows, _ in columns.values()]))
    missing = rows[place[rows] < 0]
    place[missing] = len(frame) + np.arange(len(missing))
    if len(missing):
        unlisted = pl.DataFrame({"id": data.items.external(missing)})
        frame = pl.concat([frame, unlisted], how="diagonal")
    for name, (rows, values) in columns.items():
        taken = np.arange(len(frame))
        taken[place[rows]] = len(frame) + np.arange(len(rows))
        frame = frame.with_columns(pl.concat([frame[name], values.alias(name)]).gather(taken))
    features = data.item_features
    if columns.keys() & features.encoders.keys():
        features = features_of(features, frame, data.items)
    changed = copy(data)
    if len(missing):  # only this cached property depends on which items the table lists
        changed.__dict__.pop("_placed_by_features", None)
    changed.__dict__.update(item_frame=frame, item_features=features, remembered=Remembered())
    return changed


def with_removed(data: TrainingData, removed: frozenset[int]) -> TrainingData:
    """Return the data with exactly these item rows excluded from the candidates."""
    return _same_log(data, removed=removed)


def _same_log(data: TrainingData, **changes: Any) -> TrainingData:
    """Replace fields but keep the log, and with it the cached training log."""
    changed = replace(data, remembered=Remembered(), **changes)
    changed.__dict__["training_log"] = data.training_log
    return changed


def column_of(data: TrainingData, name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """Return plain values of one column in the type of the table; None is missing.

    Dates are read from ISO text. Errors: DataError for values of another type.
    """
    try:
        if dtype == pl.Date or isinstance(dtype, pl.Datetime):
            return pl.Series(name, [_moment(value, dtype) for value in values], dtype=dtype)
        if len(_kinds_of(values)) > 1:  # polars would turn true into 1 and 5 into "5"
            raise TypeError
        if dtype.is_float():  # JSON writes 2 and 2.5 alike
            values = [float(value) if type(value) is int else value for value in values]
        column = pl.Series(name, values, strict=True)
        if column.dtype == pl.Null and name != "id":
            return column.cast(dtype)
        encoder = data.item_features.encoders.get(name)
        if encoder is not None:
            separator = encoder.separator if isinstance(encoder, MultiValuedEncoder) else "|"
            column = checked_feature(column, WHERE, Feature(name, encoder.kind, separator))
        elif name == "id":
            column = checked_ids(column, WHERE)
        if family(column.dtype) != family(dtype) or _loses(column, dtype):
            raise DataError(f"{WHERE}: column '{name}': expected {dtype}, got {column.dtype}")
        return column.cast(dtype, strict=True)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{WHERE}: column '{name}': a value cannot be read as {dtype}: it must be as in the "
            "items table"
        ) from error


def _kinds_of(values: Any) -> set[type]:
    """Return the types of plain values, also inside lists; int counts as float."""
    kinds: set[type] = set()
    for value in values:
        if isinstance(value, list):
            kinds |= _kinds_of(value)
        elif value is not None:
            kinds.add(float if type(value) is int else type(value))
    return kinds


def _moment(value: Any, dtype: pl.DataType) -> date | datetime | None:
    """Read a date or a time from ISO text. Errors: ValueError, TypeError."""
    if value is None:
        return None
    if not isinstance(dtype, pl.Datetime):
        return date.fromisoformat(value)
    moment = datetime.fromisoformat(value)
    moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return moment if dtype.time_zone is not None else moment.replace(tzinfo=None)


def _loses(column: pl.Series, dtype: pl.DataType) -> bool:
    """Return whether fractional numbers would lose their fraction in an integer column."""
    return dtype.is_integer() and column.dtype.is_float() and bool((column % 1 != 0).any())


def rows_of(data: TrainingData, ids: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the rows of distinct known ids, [n]. Errors: DataError for unknown or repeated ids."""
    rows = data.items.rows(ids)
    listed = list(ids)
    for id_, row in zip(listed, rows, strict=True):
        if row == 0:
            raise DataError(f"item {id_!r:.40} is unknown")
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        twice = data.items.external(values[counts > 1][:1])[0]
        raise DataError(f"item {twice!r:.40} is given twice")
    return rows
