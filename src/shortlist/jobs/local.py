"""How do steps run on one machine? Parts are files, processed in this process or in several."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shortlist import outputs
from shortlist.data.vocabulary import hash_ids
from shortlist.errors import JobError
from shortlist.jobs.engine import Part, stepped

Step = tuple[Part, pa.Schema]

SAMPLE = 16_384
"""Rows of a column that are compressed to find out whether compression is worth its time."""

THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")
"""Environment variables that limit the threads of a worker process."""


@dataclass(frozen=True)
class Parts:
    """A table in parts.

    sources: for each part, the files to read, a small table, or parts to compute and to join.
    schema: schema of the result; None for files before the first step.
    steps: the steps that are still to be run on each part.
    """

    sources: tuple["Source", ...]
    schema: pa.Schema | None = None
    steps: tuple[Step, ...] = ()


Source: TypeAlias = tuple[Path, ...] | pa.Table | Parts


class Local:
    """An `Engine` on one machine.

    scratch: folder for temporary files, several times the size of the log; removed at the end.
    processes: number of worker processes; 1 runs everything in this process.
    parts: number of parts into which rows are partitioned. Each process must have enough memory for
    the largest part. None: the number of processes.
    """

    def __init__(self, scratch: Path, processes: int = 1, parts: int | None = None) -> None:
        self.processes, self.parts = processes, parts or processes
        self._root, self._scratch = scratch, ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def rows(self, table: pa.Table) -> Parts:
        """Return a small table with one row in each part."""
        return Parts(tuple(table.slice(row, 1) for row in range(table.num_rows)), table.schema)

    def read(self, folder: Path) -> Parts:
        """Return the Parquet files of a folder; each file is one part."""
        return Parts(tuple((path,) for path in files_in(folder)))

    def each(self, frame: Parts, part: Part, schema: pa.Schema) -> Parts:
        """Add a step that runs on each part."""
        return replace(frame, schema=schema, steps=(*frame.steps, (part, schema)))

    def whole(
        self, frame: Parts, key: str, part: Part, schema: pa.Schema, *, dense: bool = False
    ) -> Parts:
        """Write the rows into new parts by their key, and add a step that runs on each new part."""
        if self.parts == 1 and (self.processes == 1 or len(frame.sources) == 1):
            return self.each(Parts((frame,), frame.schema), part, schema)
        folder = self._folder()
        tasks = [
            (source, frame.steps, folder, number, key, self.parts, dense)
            for number, source in enumerate(frame.sources)
        ]
        schemas = self._all(_deal, tasks)
        sources = tuple(
            tuple(_bucket(folder, number, bucket) for number in range(len(tasks)))
            for bucket in range(self.parts)
        )
        dealt = frame.schema or (schemas[0] if schemas else None)
        return self.each(Parts(sources, dealt), part, schema)

    def kept(self, frame: Parts) -> Parts:
        """Run the steps now and store the parts in files, which are read by memory mapping."""
        folder = self._folder()
        tasks = [
            (source, frame.steps, folder / f"{number:05}.arrow")
            for number, source in enumerate(frame.sources)
        ]
        self._all(_keep, tasks)
        return Parts(tuple((path,) for *_, path in tasks), frame.schema)

    def collected(self, frame: Parts) -> pa.Table:
        """Return all rows as one table."""
        tables = self._all(_made, [(source, frame.steps) for source in frame.sources])
        if not tables:
            return pa.table({}) if frame.schema is None else frame.schema.empty_table()
        return pa.concat_tables(tables)

    def write(self, frame: Parts, folder: Path) -> None:
        """Write one Parquet file for each part."""
        tasks = [
            (source, frame.steps, folder / f"part-{number:05}.parquet")
            for number, source in enumerate(frame.sources)
        ]
        self._all(_write, tasks)

    def close(self) -> None:
        """End the worker processes and remove the temporary files."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._scratch.close()

    def _all(self, function: Any, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.processes == 1:
            return [function(*task) for task in tasks]
        if self._pool is None:
            # A fork would copy locks that threads of polars and torch may hold.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, context)
        try:
            with _one_thread_each():
                return list(self._pool.map(function, *zip(*tasks, strict=True))) if tasks else []
        except BrokenProcessPool as error:
            raise JobError(
                "a process of the job was ended from outside, most likely because memory ran out: "
                "give more --parts, or fewer --processes"
            ) from error

    def _folder(self) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        return self._scratch.enter_context(outputs.temporary_in(self._root, "folder"))


def files_in(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, ordered by name."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".parquet")


def bucket_of(column: pa.ChunkedArray, buckets: int, *, dense: bool = False) -> NDArray[np.int64]:
    """Return the part of each key, int64 [n], by a hash that is the same on every machine.

    buckets: number of parts.
    dense: the keys are numbers from 0 on, and key i belongs to part i modulo buckets.
    """
    if dense:
        return np.asarray(column.to_numpy() % buckets, dtype=np.int64)
    keys = pl.from_arrow(column)
    assert isinstance(keys, pl.Series)
    return (hash_ids(keys, 7) % np.uint64(buckets)).astype(np.int64)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit processes that start in this block to one thread; libraries read it when they load."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _table(source: Source) -> pa.Table:
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, Parts):
        tables = [_made(each, source.steps) for each in source.sources]
    else:
        tables = [_read(path) for path in source]
    return pa.concat_tables(tables) if len(tables) != 1 else tables[0]


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path, memory_map=True) as file:
            return file.read()
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _made(source: Source, steps: Iterable[Step]) -> pa.Table:
    table = _table(source)
    for part, schema in steps:
        table = stepped(table, part, schema)
    return table


def _deal(
    source: Source,
    steps: Iterable[Step],
    folder: Path,
    number: int,
    key: str,
    buckets: int,
    dense: bool,
) -> pa.Schema:
    """Run the steps on one part and write its rows into one file for each bucket."""
    table = _made(source, steps)
    ends = np.array([0, table.num_rows])
    if buckets > 1:
        bucket = bucket_of(table[key], buckets, dense=dense)
        ends = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=buckets))])
        if buckets <= 2**16:
            bucket = bucket.astype(np.uint16)  # numpy uses a radix sort for 16-bit integers.
        table = table.take(pa.array(np.argsort(bucket, kind="stable")))
    for at in range(buckets):
        _store(table.slice(ends[at], ends[at + 1] - ends[at]), _bucket(folder, number, at))
    return table.schema


def _bucket(folder: Path, number: int, bucket: int) -> Path:
    return folder / f"{number:05}-{bucket:05}.arrow"


def _keep(source: Source, steps: Iterable[Step], path: Path) -> None:
    _store(_made(source, steps), path)


def _store(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def _write(source: Source, steps: Iterable[Step], path: Path) -> None:
    table = _made(source, steps)
    # No dictionary encoding of numbers: it takes twice the time and saves no space.
    texts = [field.name for field in table.schema if not pa.types.is_primitive(field.type)]
    packed = {name: "lz4" if _shrinks(table[name]) else "none" for name in table.column_names}
    pq.write_table(table, path, compression=packed, use_dictionary=texts, write_statistics=False)


def _shrinks(column: pa.ChunkedArray) -> bool:
    """Return whether compression is worth its time: a sample of numbers shrinks to a half.

    Times and scores hardly shrink; texts always count as worth it.
    """
    if not pa.types.is_primitive(column.type) or not len(column):
        return True
    values = column.slice(0, SAMPLE).combine_chunks()
    data = values.buffers()[1]
    width = column.type.bit_width
    sample = data.slice(values.offset * width // 8, -(-len(values) * width // 8))
    return bool(len(pa.compress(sample, codec="lz4", asbytes=True)) < sample.size / 2)
