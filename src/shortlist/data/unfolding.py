"""Does one row of a log hold several events? A list of items becomes one event an item."""

from collections.abc import Iterable, Mapping

import polars as pl

from shortlist.data.columns import fault, first_row
from shortlist.data.lists import listed
from shortlist.data.reports import counted
from shortlist.errors import DataError


def unfolded(
    frame: pl.DataFrame,
    roles: Mapping[str, str],
    separator: str | None,
    where: str,
    others: Iterable[str] = (),
) -> tuple[pl.DataFrame, str, list[str]]:
    """Turn each list of items into one row an item.

    Lists are list columns, columns of text that writes lists (`lists.listed`), and text whose items
    are divided by `separator`. Other list columns are unfolded along with the items if their lists
    are equally long. A row without items gives no event.

    roles: role -> column.
    others: further columns that may be unfolded along.

    Returns the rows, what errors call them, and remarks. Errors: DataError with the row.
    """
    name = roles.get("item", "")
    if name not in frame.columns:
        return frame, where, []
    items = _as_lists(frame[name], separator, where)
    if items is None:
        return frame, where, []
    along = {name: items}
    for other in dict.fromkeys([*roles.values(), *others]):
        if other not in (name, roles.get("user")):
            values = _as_lists(frame[other], None, where)
            if values is not None:
                along[other] = _as_long(values, items, where)
    frame = frame.with_columns(along.values())
    filled = frame.filter(pl.col(name).list.len() > 0)
    rows = filled.explode(list(along))
    notes = [
        f"{where}: each item of a list is an event: {rows.height:,} events from "
        f"{frame.height:,} rows."
    ]
    if filled.height < frame.height:
        notes.append(
            f"{where}: {counted(frame.height - filled.height, 'row')} without any item left out."
        )
    return rows, f"{where} (each item of a list counted as a row)", notes


def _as_long(values: pl.Series, items: pl.Series, where: str) -> pl.Series:
    """Return `values`, or refuse a row whose two lists are not equally long."""
    held = items.list.len().fill_null(0)  # a row without items is no event
    uneven = (values.list.len().fill_null(0) != held) & (held > 0)
    if uneven.any():
        row = first_row(uneven)
        given = 0 if values[row - 1] is None else len(values[row - 1])
        raise fault(
            where,
            values.name,
            f"{counted(given, 'value')} for {counted(len(items[row - 1]), 'item')}; "
            "lists of one row must be equally long.",
            row,
        )
    return values


def may_unfold(kind: pl.DataType) -> bool:
    """Return whether the type of an item column means lists."""
    return isinstance(kind, (pl.List, pl.Array))


def _as_lists(column: pl.Series, separator: str | None, where: str) -> pl.Series | None:
    """Return the values as lists, or None if each row holds one value."""
    if isinstance(column.dtype, pl.Array):
        return column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        return column
    if column.dtype != pl.String:
        return None
    if separator is not None:
        parts = column.str.split(separator).list.eval(pl.element().str.strip_chars())
        return parts.list.eval(pl.element().filter(pl.element() != ""))
    given = column.drop_nulls()
    if not len(given) or not str(given[0]).lstrip().startswith("["):
        return None  # parsing every value would be slow

    def refuse(message: str, row: int) -> DataError:
        return fault(where, column.name, message, row)

    return listed(column, refuse)
