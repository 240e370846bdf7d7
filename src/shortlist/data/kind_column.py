"""Which kind is each event of a log? The column of kinds is compared with the recipe's table."""

import json
import re
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.columns import fault, first_row, refuse_null
from shortlist.sections.events import RANGE, RANGES, Events, is_nearly_range, ranges

SHOWN = 12
"""The most kinds of a file that an error lists."""


class Coded(NamedTuple):
    """The kinds of n events.

    codes: [n] int8, the position of each event's kind in the recipe's table.
    counts: the number of events of each kind.
    """

    codes: pl.Series
    counts: tuple[int, ...]


def coded(column: pl.Series, events: Events, where: str) -> Coded:
    """Return the kind of each event from the column that names it. Errors: DataError.

    A column of numbers is compared as numbers, and names in the table may be ranges: "4.." means 4
    and more, "..4" less than 4, "1..4" from 1 to less than 4. Text must be equal to a name.
    """
    refuse_null(column, where, "the kind of the event is missing; every row needs one.")
    if column.dtype == pl.Enum(list(events)):  # written by `named`
        codes = column.to_physical().cast(pl.Int8)
    elif column.dtype.is_numeric():
        codes = _of_numbers(column, events, where)
    elif column.dtype == pl.Boolean or column.dtype in (pl.String, pl.Categorical, pl.Enum):
        codes = _of_text(column, events, where)
    else:
        raise fault(where, column.name, f"kinds are text or numbers, not {column.dtype}.")
    if codes.null_count():
        _refuse_unnamed(column, codes, events, where)
    found = np.bincount(codes.to_numpy(), minlength=len(events))
    return Coded(codes.alias("kind"), tuple(int(count) for count in found))


def named(places: NDArray[np.int8], events: Events) -> pl.Series:
    """Return the column that `coded` reads as these positions in the table of kinds, [n]."""
    return pl.Series(list(events), dtype=pl.Enum(list(events))).gather(places.astype(np.int64))


def _of_numbers(column: pl.Series, events: Events, where: str) -> pl.Series:
    for name in events:
        if is_nearly_range(name):
            raise fault(
                where,
                column.name,
                f"the column holds numbers, and {name!r} of data.events is neither a number nor a "
                f"range: {RANGES}.",
            )
    values = column.cast(pl.Float64).to_numpy()
    own = np.float32 if column.dtype == pl.Float32 else np.float64  # round limits like the column
    codes = np.full(len(values), -1, dtype=np.int8)
    for code, span in enumerate(ranges(events)):
        if span is not None:
            codes[(values >= own(span[0])) & (values < own(span[1]))] = code
    return pl.Series(column.name, codes).set(pl.Series(codes < 0), None)


def _of_text(column: pl.Series, events: Events, where: str) -> pl.Series:
    for name in events:
        if RANGE.fullmatch(name):
            raise fault(
                where,
                column.name,
                f"data.events has the range {name!r}, and the column holds text such as "
                f"{str(column[0])!r}: name its values.",
                1,
            )
    places = {name: code for code, name in enumerate(events)}
    text = column.cast(pl.String)
    codes = text.replace_strict(
        list(places), list(places.values()), default=None, return_dtype=pl.Int8
    )
    return codes.alias(column.name)


def _refuse_unnamed(column: pl.Series, codes: pl.Series, events: Events, where: str) -> None:
    """Refuse a kind that the table does not name, and list all kinds of the file."""
    text = column.cast(pl.String)
    counts = text.value_counts().sort(["count", text.name], descending=[True, False])
    listed = [f"{name!r} ({count:,})" for name, count in counts.head(SHOWN).iter_rows()]
    if len(counts) > SHOWN:
        listed.append(f"{len(counts) - SHOWN:,} more")
    row = first_row(codes.is_null())
    name = text[row - 1]
    ends = [kind for kind in events if (found := RANGE.fullmatch(kind)) and found[2] == name]
    hint = f" The end {name} is no part of the range {ends[0]!r}: {RANGES}." if ends else ""
    raise fault(
        where,
        column.name,
        f"the kind {name!r} is not in data.events, which names "
        f"{', '.join(map(repr, events))}. The file has {', '.join(listed)}. Give it a table "
        f"[data.events.{_key(name)}], with drop = true if its rows are to be left out; "
        f"an existing bundle knows it only after the next training.{hint}",
        row,
    )


def _key(name: str) -> str:
    """Return a name as a key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
