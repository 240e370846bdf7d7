"""What must an engine do for a batch step? Bring whole groups together, and call a function.

A step is a `Part`: a table of whole groups in, a table out, whatever order its rows came in. It is
the code of one machine, and knows no engine; so every engine gives the same tables.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shortlist.errors import JobError

Part: TypeAlias = Callable[[pa.Table], pa.Table]
"""A step: a function of a module, or a `functools.partial` of one, so that it can travel."""

MOST_ENTRIES = 2**31
"""Entries of all lists of one table from which their places are not known to Arrow."""

Frame: TypeAlias = Any
"""A table in parts, as the engine that made it has it."""


class Engine(Protocol):
    """Runs steps over tables in parts. `parts`: into how many whole groups are dealt."""

    parts: int

    def rows(self, table: pa.Table) -> Frame:
        """Return a small table as a frame of one row a part."""
        ...

    def read(self, folder: Path) -> Frame:
        """Return the files of a folder that `write` made, a part each."""
        ...

    def each(self, frame: Frame, part: Part, schema: pa.Schema) -> Frame:
        """Return what the step makes of each part."""
        ...

    def whole(
        self, frame: Frame, key: str, part: Part, schema: pa.Schema, *, dense: bool = False
    ) -> Frame:
        """Return what the step makes of parts in which all rows of a key are together.

        dense: the keys are numbers from 0 on, which are dealt by turns.
        """
        ...

    def kept(self, frame: Frame) -> Frame:
        """Return the parts for more than one use: made once, where that costs less than twice."""
        ...

    def collected(self, frame: Frame) -> pa.Table:
        """Return all rows, in any order: for tables of a row an item, or a row a part."""
        ...

    def write(self, frame: Frame, folder: Path) -> None:
        """Write a file of Parquet for each part into a folder that is there."""
        ...

    def close(self) -> None:
        """Let go of processes and files that are not a result."""
        ...


def stepped(table: pa.Table, part: Part, schema: pa.Schema) -> pa.Table:
    """Return what a step makes of a table, which must be of the schema it promised."""
    made = part(table)
    if set(made.column_names) != set(schema.names):
        raise JobError(
            f"a step gave the columns {', '.join(made.column_names)} where "
            f"{', '.join(schema.names)} were promised"
        )
    return made.select(schema.names).cast(schema)


def offsets_of(ends: NDArray[np.int64], longest: Callable[[], str]) -> pa.Array:
    """Return where the lists of a column start and end. longest: names the longest, for an error.

    Errors: JobError for more entries than a column can have.
    """
    if ends[-1] >= MOST_ENTRIES:
        raise JobError(
            f"the lists of one part hold {ends[-1]:,} entries, more than a table can have, the "
            f"longest that of {longest()}: give more --parts or fewer --blocks, or set most_items "
            "in the channel's options"
        )
    return pa.array(ends, pa.int32())


def blocks_of(table: pa.Table, key: str) -> Iterator[pa.Table]:
    """Yield the rows of each value of an integer column, values ascending."""
    column = table[key].to_numpy()
    order = np.argsort(column, kind="stable")
    ends = np.flatnonzero(np.diff(column[order])) + 1
    for rows in np.split(order, ends) if len(order) else ():
        yield table.take(pa.array(rows))
