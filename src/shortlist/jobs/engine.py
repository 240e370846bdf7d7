"""What must an engine do for a batch step? Bring the rows of each group together, call a function.

A step is a `Part`: a function of one table, which has all rows of each of its groups in any order,
that returns a table. Steps do not depend on the engine, so every engine gives the same tables.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shortlist.errors import JobError

Part: TypeAlias = Callable[[pa.Table], pa.Table]
"""A step: a module-level function or a `functools.partial` of one, so that it can be pickled."""

MOST_ENTRIES = 2**31
"""Entries of a list column from which Arrow's 32-bit offsets overflow."""

Frame: TypeAlias = Any
"""A table in parts, in the representation of the engine that made it."""


class Engine(Protocol):
    """Contract of the engines, which run steps on tables in parts.

    parts: number of parts into which rows are partitioned.
    """

    parts: int

    def rows(self, table: pa.Table) -> Frame:
        """Return a small table as a frame with one row in each part."""
        ...

    def read(self, folder: Path) -> Frame:
        """Return the files of a folder written by `write`; each file is one part."""
        ...

    def each(self, frame: Frame, part: Part, schema: pa.Schema) -> Frame:
        """Return the frame with a step that runs on each part.

        schema: schema of the step's result.
        """
        ...

    def whole(
        self, frame: Frame, key: str, part: Part, schema: pa.Schema, *, dense: bool = False
    ) -> Frame:
        """Partition the rows by a column and return the frame with a step on each new part.

        key: the column; all rows with the same value are in one part.
        schema: schema of the step's result.
        dense: the keys are numbers from 0 on, and key i goes to part i modulo the number of parts.
        """
        ...

    def kept(self, frame: Frame) -> Frame:
        """Return the frame for repeated use; the engine stores it if that is worth the cost."""
        ...

    def collected(self, frame: Frame) -> pa.Table:
        """Return all rows in any order; for tables with at most one row per item."""
        ...

    def write(self, frame: Frame, folder: Path) -> None:
        """Write the parts as Parquet files into an existing folder."""
        ...

    def close(self) -> None:
        """End processes and remove temporary files."""
        ...


def stepped(table: pa.Table, part: Part, schema: pa.Schema) -> pa.Table:
    """Return the result of a step. Errors: JobError if its columns are not those of the schema."""
    made = part(table)
    if set(made.column_names) != set(schema.names):
        raise JobError(
            f"a step returned the columns {', '.join(made.column_names)} instead of "
            f"{', '.join(schema.names)}"
        )
    return made.select(schema.names).cast(schema)


def offsets_of(ends: NDArray[np.int64], longest: Callable[[], str]) -> pa.Array:
    """Return the offsets of a list column as an Arrow array.

    ends: int64 [lists + 1], 0 and then the end of each list.
    longest: returns the name of the longest list, for the error.
    Errors: JobError for more entries than a list column can have.
    """
    if ends[-1] >= MOST_ENTRIES:
        raise JobError(
            f"the lists of one part hold {ends[-1]:,} entries, more than a table can have, the "
            f"longest that of {longest()}: give more --parts or fewer --blocks, or set most_items "
            "in the channel's options"
        )
    return pa.array(ends, pa.int32())


def blocks_of(table: pa.Table, key: str) -> Iterator[pa.Table]:
    """Yield a table for each value of an integer column, in ascending order of the values."""
    column = table[key].to_numpy()
    if len(column) and (column == column[0]).all():
        yield table
        return
    order = np.argsort(column, kind="stable")
    ends = np.flatnonzero(np.diff(column[order])) + 1
    for rows in np.split(order, ends) if len(order) else ():
        yield table.take(pa.array(rows))
