"""How do steps run on Spark? Spark partitions the rows and runs the same step functions."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shortlist import errors
from shortlist.errors import JobError, ShortlistError
from shortlist.jobs.engine import Part, stepped
from shortlist.jobs.local import bucket_of, files_in
from shortlist.spark.session import session

BUCKET = "_bucket"
"""Temporary column with the number of the part to which a row belongs."""

_ERROR = re.compile(r"ShortlistStep:(\w+):(.*?):ShortlistEnd", re.DOTALL)


@dataclass(frozen=True)
class Rows:
    """A table in parts.

    frame: a Spark DataFrame.
    steps: the steps, with the schemas of their results, that are still to be run on each part.
    """

    frame: Any
    steps: tuple[tuple[Part, pa.Schema], ...] = ()


@dataclass(frozen=True)
class Steps:
    """Runs steps one after another on a partition; it is the function given to `mapInArrow`.

    It is sent to the executors, which must have the same version of shortlist.

    steps: the steps, with the schemas of their results.
    key: the column by which rows are partitioned afterwards, or None.
    buckets: number of parts.
    dense: the keys are numbers from 0 on.
    made_by: version of shortlist on the driver.
    """

    steps: tuple[tuple[Part, pa.Schema], ...]
    key: str | None = None
    buckets: int = 0
    dense: bool = False
    made_by: str = field(default_factory=lambda: version("shortlist"))

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the result of the steps on all batches of a partition together."""
        given = [batch for batch in batches if batch.num_rows]
        if not given:
            return
        try:
            table = self._made(pa.Table.from_batches(given))
        except ShortlistError as error:
            said = f"ShortlistStep:{type(error).__name__}:{error}:ShortlistEnd"
            raise RuntimeError(said) from error
        yield from table.to_batches(max_chunksize=1 << 20)

    def _made(self, table: pa.Table) -> pa.Table:
        if self.made_by != (here := version("shortlist")):
            raise JobError(
                f"the executors have shortlist {here}, and the driver {self.made_by}: install the "
                "same version everywhere"
            )
        if BUCKET in table.column_names:
            table = table.drop_columns([BUCKET])
        for part, schema in self.steps:
            table = stepped(table, part, schema)
        if self.key is not None:
            bucket = bucket_of(table[self.key], self.buckets, dense=self.dense)
            table = table.append_column(BUCKET, pa.array(bucket, pa.int32()))
        return table


class Spark:
    """An `Engine` on Spark 4.1 or newer.

    The driver and the executors must see the same folders: they are on one machine, or share a
    disk.

    parts: number of parts into which rows are partitioned.
    master: Spark master URL; None takes that of spark-submit, else local[*].
    settings: further settings of Spark.
    """

    def __init__(
        self, parts: int, master: str | None = None, settings: dict[str, str] | None = None
    ) -> None:
        self.parts = parts
        self.session = session(master, settings or {})

    def rows(self, table: pa.Table) -> Rows:
        """Return a small table with about one row in each part."""
        frame = self.session.createDataFrame(table)
        return Rows(frame.repartition(max(table.num_rows, 1), table.column_names[0]))

    def read(self, folder: Path) -> Rows:
        """Return the Parquet files of a folder; each file is one part."""
        files = files_in(folder)
        paths = pa.table({"path": [str(path.absolute()) for path in files]})
        return self.each(self.rows(paths), read_files, pq.read_schema(files[0]))

    def each(self, frame: Rows, part: Part, schema: pa.Schema) -> Rows:
        """Add a step that runs on each part."""
        return replace(frame, steps=(*frame.steps, (part, schema)))

    def whole(
        self, frame: Rows, key: str, part: Part, schema: pa.Schema, *, dense: bool = False
    ) -> Rows:
        """Partition the rows by their key, and add a step that runs on each new part."""
        bucket = pa.field(BUCKET, pa.int32())
        given = frame.steps[-1][1]
        steps = Steps(frame.steps, key, self.parts, dense)
        made = self._mapped(frame, steps, given.append(bucket))
        from pyspark.sql import functions  # noqa: PLC0415

        dealt = made.repartitionById(self.parts, functions.col(BUCKET))
        return Rows(dealt, ((part, schema),))

    def kept(self, frame: Rows) -> Rows:
        """Return the frame unchanged: caching in Spark costs more than running steps again."""
        return frame

    def collected(self, frame: Rows) -> pa.Table:
        """Return all rows as one table on the driver."""
        schema = frame.steps[-1][1]
        with _own_errors():
            return self._done(frame).toArrow().cast(schema)

    def write(self, frame: Rows, folder: Path) -> None:
        """Write a file for each part that has rows, or one empty file if there are no rows."""
        with _own_errors():
            self._done(frame).write.mode("append").parquet(folder.absolute().as_uri())
        for path in folder.iterdir():
            if path.name.startswith((".", "_SUCCESS")):
                path.unlink()
        if not files_in(folder):
            pq.write_table(frame.steps[-1][1].empty_table(), folder / "part-00000.parquet")

    def close(self) -> None:
        """Stop the Spark session."""
        self.session.stop()

    def _done(self, frame: Rows) -> Any:
        return self._mapped(frame, Steps(frame.steps), frame.steps[-1][1])

    def _mapped(self, frame: Rows, steps: Steps, schema: pa.Schema) -> Any:
        return frame.frame.mapInArrow(steps, _spark(schema))


def read_files(table: pa.Table) -> pa.Table:
    """Step: return the rows of the Parquet files in column `path`."""
    return pa.concat_tables(
        pq.read_table(path, partitioning=None) for path in table["path"].to_pylist()
    )


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise a ShortlistError of a step as itself instead of as Spark's error."""
    try:
        yield
    except Exception as error:
        found = _ERROR.search(str(error))
        if found is None:
            raise
        raise getattr(errors, found[1], JobError)(found[2]) from None


def _spark(schema: pa.Schema) -> Any:
    """Return the schema in Spark's types."""
    from pyspark.sql.pandas.types import from_arrow_schema  # noqa: PLC0415

    return from_arrow_schema(schema)
