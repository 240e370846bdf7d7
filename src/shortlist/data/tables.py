"""How is a source opened, whether it is a file, several files, or a frame in memory?

An opened `Table` knows the names of its columns, and reads columns on request.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from shortlist.data import json_lines, nested
from shortlist.data.columns import exact_text, fault, first_row, typed_text
from shortlist.data.files import (
    KINDS,
    ManyFiles,
    SlicedFile,
    files_of,
    hive_values,
    is_path,
)
from shortlist.data.text import (
    TextFormat,
    is_recbole,
    is_text_file,
    open_text,
    suffix_of,
    undecodable,
)
from shortlist.errors import DataError, suggest

Source = Any  # a path, or a frame of polars, pandas, Arrow or anything with __arrow_c_stream__


@dataclass(frozen=True)
class Slice:
    """A source that is a part of a Parquet file: `rows` rows from position `first` on."""

    path: Path
    first: int
    rows: int

    def open(self) -> "Table":
        """Open it. Errors name the file, and number rows as in the whole file."""
        where = SlicedFile(self.path)
        where.first = self.first
        lazy = pl.scan_parquet(self.path, glob=False).slice(self.first, self.rows)
        return _open_lazy(lazy, where)


Result = TypeVar("Result")

EXPORTED = "shortlist.events"
"""Metadata key of a Parquet file written by `events export`; it says which events the file has."""

HEAD_ROWS = 50_000
"""How many rows of a Parquet file are read as its head."""

_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class Table:
    """A source that is opened but not read.

    where: its name in errors.
    names: its columns.
    load_columns: reads some of them.
    text: the format of a text file; None for other sources.
    rows: the number of rows of a text file.
    recbole_types: the types in the header of a RecBole file, by column.
    inner: values within structs, by path.
    """

    where: str
    names: list[str]
    load_columns: Callable[[list[str]], pl.DataFrame]
    text: TextFormat | None = None
    rows: int | None = None
    recbole_types: Mapping[str, str] | None = None
    inner: Mapping[str, nested.Inner] = field(default_factory=dict)

    def require(self, columns: Iterable[str]) -> None:
        """Refuse a table that lacks one of the columns, and list those it has."""
        for column in columns:
            known = [*self.names, *self.inner]
            if column not in known:
                listed = ", ".join(known)
                near = suggest(column, known)
                hint = near if near.startswith(" Did") else ""
                raise DataError(
                    f"{self.where}: no column '{column}'.{hint} The columns are: {listed}."
                    f"{self._mended()}"
                )

    def _mended(self) -> str:
        """Return advice on recipe settings that may fix a missing column."""
        if self.text is None or self.text.columns:
            return ""
        if len(self.names) > 1:
            return _headerless(self.names)
        return (
            f" The file was read with {self.text.line()}; data.separator and data.encoding set "
            "others."
        )

    def load(self, columns: list[str]) -> pl.DataFrame:
        """Read these columns, text still untyped. Errors: DataError for a table without rows."""
        frame = self.load_columns(columns)
        if self.rows is not None:
            if frame.height < self.rows:
                raise DataError(
                    f"{self.where}: {frame.height:,} rows were parsed of {self.rows:,} in the "
                    "file; it may have changed while it was read."
                )
            frame = frame.head(self.rows)  # blank lines after the last row do not count
        if not frame.height:
            raise DataError(f"{self.where}: there are no rows; nothing can be learned from it.")
        return frame

    def typed(self, columns: list[str], exact: Collection[str]) -> pl.DataFrame:
        """Read these columns; those of a text file get the types of their values.

        exact: columns whose numbers stay integers or text.
        """
        frame = self.load(columns)
        if self.text is None:
            return frame
        return pl.DataFrame(
            [self.typed_column(column, exact=column.name in exact) for column in frame]
        )

    def typed_column(self, column: pl.Series, *, exact: bool) -> pl.Series:
        """Give a loaded column the type of its values. exact: numbers stay integers or text."""
        if self.text is None:
            return column
        kind = (self.recbole_types or {}).get(column.name)
        if kind in ("token_seq", "float_seq"):
            parts = column.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
            return _float_lists(parts, self.where) if kind == "float_seq" else parts
        if kind == "token" or exact:
            return exact_text(column)
        return typed_text(self.with_points(column))

    def with_points(self, column: pl.Series) -> pl.Series:
        """Write 1,5 as 1.5 if the format has decimal commas and all values are numbers."""
        if self.text is None or self.text.decimal is None or column.dtype != pl.String:
            return column
        numbers = column.str.contains(r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$")
        return column.str.replace(",", ".", literal=True) if numbers.all() else column


def open_table(
    source: Source, name: str, text: TextFormat | None = None, most: int | None = None
) -> Table:
    """Open a path, several paths or a frame. Errors: DataError.

    name: what errors call a frame.
    text: the format of text files; by default it is inferred.
    most: read only the head of each file: this many bytes of text, or `HEAD_ROWS` rows of Parquet.
    """
    where = f"the {name} frame"
    if isinstance(source, Slice):
        return source.open()
    if is_path(source):
        files = files_of(source)
        if len(files) > 1 or (hive_values(files[0]) and str(files[0]) != str(source)):
            return _open_files(files, source, text or TextFormat(), most)
        return _open_file(files[0], text or TextFormat(), most)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        return _open_lazy(source.lazy(), where)
    # A pandas frame exists only if pandas is imported, so pandas need not be imported here.
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _open_pandas(source, where, pandas)
    if hasattr(source, "__arrow_c_stream__"):
        return _open_stream(source, where)
    raise DataError(
        f"{name}: expected a path or a frame (polars, pandas, Arrow), got {type(source).__name__}."
    )


def _open_file(path: Path, text: TextFormat, most: int | None) -> Table:
    suffix = suffix_of(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if suffix == ".parquet":
        rows = None if most is None else HEAD_ROWS
        return _open_lazy(pl.scan_parquet(path, glob=False, n_rows=rows), str(path))
    if suffix in json_lines.SUFFIXES:
        objects = reading(str(path), lambda: json_lines.open_json(path, most))
        return _open_parts(str(path), objects.schema, objects.parts)
    if not is_text_file(path):
        raise DataError(f"{path}: cannot read '{path.suffix}' files; give {KINDS}.")
    found = reading(str(path), lambda: open_text(path, text, most))
    return _open_lazy(
        found.lazy, str(path), text=found.format, rows=found.rows, recbole=is_recbole(path)
    )


def _open_files(files: list[Path], source: Source, text: TextFormat, most: int | None) -> Table:
    """Open several files as one table; they need the same columns and the same format.

    An export of events has only the columns that its bundle reads, so for these a missing column is
    noticed only when it is read.
    """
    tables = [_open_file(file, text, most) for file in files]
    exported = [_is_export(file) for file in files]
    first, hive = (
        tables[exported.index(False) if False in exported else 0],
        [hive_values(file) for file in files],
    )
    shown = f"{len(files)} files" if isinstance(source, (list, tuple)) else str(source)
    where = ManyFiles(f"{shown} ({files[0].name} to {files[-1].name})")
    partitions = [name for name in hive[0] if name not in first.names]
    for table, values, export in zip(tables, hive, exported, strict=True):
        odd = set[str]() if export else set(table.names) ^ set(first.names)
        if odd or values.keys() != hive[0].keys():
            raise _not_in_both(min(odd or values.keys() ^ hive[0].keys()), table, first)
        if first.text and table.text and (other := first.text.differences(table.text)):
            raise DataError(
                f"{table.where}: its {other[0]} is {getattr(table.text, other[0])!r}, that of "
                f"{first.where} {getattr(first.text, other[0])!r}; write all files alike, or set "
                f"data.{other[0]}."
            )

    def load(columns: list[str]) -> pl.DataFrame:
        own = [name for name in columns if name not in partitions]
        frames = []
        where.files.clear()
        for table, values in zip(tables, hive, strict=True):
            if missing := [name for name in own if name not in table.names]:
                raise _not_in_both(missing[0], table, first)
            frame = table.load(own or table.names[:1])
            if first.text is not None and table.text is None:
                frame = as_written(frame)
            where.files.append((table.where, frame.height))
            given = {name: pl.lit(values[name]) for name in columns if name in partitions}
            frames.append(frame.with_columns(**given).select(columns))
        try:
            whole = pl.concat(_in_one_type(frames, exported))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{where}: the files do not hold the same types: {error}.") from error
        if first.text is None:  # values from folder names are text even beside Parquet files
            whole = whole.with_columns(exact_text(whole[name]) for name in given)
        return whole

    return replace(
        first, where=where, names=[*first.names, *partitions], load_columns=load, rows=None
    )


def _is_export(path: Path) -> bool:
    return suffix_of(path) == ".parquet" and EXPORTED in pl.read_parquet_metadata(path)


def _not_in_both(name: str, table: Table, first: Table) -> DataError:
    return DataError(
        f"{table.where}: column '{name}' is not in this file and in {first.where} both; files that "
        "are read as one need the same columns."
    )


def as_written(frame: pl.DataFrame) -> pl.DataFrame:
    """Return numbers, dates and times as the text that a file would hold; other columns stay.

    >>> as_written(pl.DataFrame({"a": [1], "b": [0.5]})).row(0)
    ('1', '0.5')
    """
    plain = pl.selectors.numeric() | pl.selectors.date()
    moments = pl.selectors.datetime(time_zone=None)
    return frame.with_columns(
        plain.cast(pl.String), moments.dt.strftime("%Y-%m-%dT%H:%M:%S%.f").name.keep()
    )


def _in_one_type(frames: list[pl.DataFrame], exported: list[bool]) -> list[pl.DataFrame]:
    """Cast numbers of several types to one: integers to Int64, and with fractions to Float64.

    Kinds and categories that are text in an export become text in the other files too.
    """
    texts = {
        name
        for name in frames[0].columns
        if {frame[name].dtype for frame, export in zip(frames, exported, strict=True) if export}
        == {pl.String}
    }
    frames = [
        frame if export else frame.with_columns(as_written(frame.select(sorted(texts))))
        for frame, export in zip(frames, exported, strict=True)
    ]
    wider: dict[Any, Any] = {}
    for name in frames[0].columns:
        kinds = {frame[name].dtype for frame in frames}
        if len(kinds) == 1 or not all(kind.is_numeric() for kind in kinds):
            continue
        if all(kind.is_integer() and kind not in (pl.UInt64, pl.Int128) for kind in kinds):
            wider[name] = pl.Int64
        elif all(kind.is_integer() or kind in (pl.Float32, pl.Float64) for kind in kinds):
            wider[name] = pl.Float64
    return [frame.cast(wider) for frame in frames]


def _open_lazy(
    lazy: pl.LazyFrame,
    where: str,
    *,
    text: TextFormat | None = None,
    rows: int | None = None,
    recbole: bool = False,
) -> Table:
    def load(columns: list[str]) -> pl.DataFrame:
        read: pl.DataFrame = reading(
            where, lambda: nested.select(lazy, columns, inner).collect(), text
        )
        return read

    schema = reading(where, lazy.collect_schema)
    names = schema.names()
    inner = {path: at for path, at in nested.inner_columns(schema).items() if path not in names}
    types: dict[str, str] = {}
    if text is not None:
        _refuse_repeated_names(names, where)
    if recbole:
        parts = {name: name.rpartition(":") for name in names}
        types = {part[0]: part[2] for part in parts.values() if part[2] in _RECBOLE_TYPES}
        lazy = lazy.rename({name: parts[name][0] for name in names if parts[name][0] in types})
        names = [parts[name][0] if parts[name][0] in types else name for name in names]
    return Table(where, names, load, text=text, rows=rows, recbole_types=types, inner=inner)


def _open_parts(
    where: str, schema: json_lines.Kinds, parts: Callable[[list[str]], Iterator[pl.DataFrame]]
) -> Table:
    """Open a source that comes in parts. parts: yields the given columns, some rows at a time."""
    inner = {path: at for path, at in nested.inner_columns(schema).items() if path not in schema}

    def load(columns: list[str]) -> pl.DataFrame:
        held = [
            inner[name].value.meta.root_names()[0] if name in inner else name for name in columns
        ]
        tops = list(dict.fromkeys(held))

        def read() -> pl.DataFrame:
            nothing = pl.DataFrame(schema={name: schema[name] for name in tops})
            found = (
                nested.select(part.lazy(), columns, inner) for part in chain([nothing], parts(tops))
            )
            return pl.concat([part.collect() for part in found])

        return reading(where, read)

    return Table(where, list(schema), load, inner=inner)


def _open_stream(source: Any, where: str) -> Table:
    """Open an object with an Arrow stream: a table, a reader, a relation of DuckDB."""
    import pyarrow as pa  # noqa: PLC0415

    try:
        unread = [pa.RecordBatchReader.from_stream(source)]
        schema = dict(pl.DataFrame(unread[0].schema.empty_table()).schema)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"{where} cannot be read through Arrow: {error}") from error

    def parts(columns: list[str]) -> Iterator[pl.DataFrame]:
        try:
            # A reader can be streamed once; other sources give a new stream each time.
            reader = unread.pop() if unread else pa.RecordBatchReader.from_stream(source)
            for batch in reader:
                yield pl.DataFrame(pa.Table.from_batches([batch.select(columns)]))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(f"{where} cannot be read through Arrow: {error}") from error

    return _open_parts(where, schema, parts)


def _open_pandas(source: Any, where: str, pandas: Any) -> Table:
    names = list(source.columns)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{where}: column names must be text, got {name!r}.")
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: two columns are named '{again}'; rename one.")

    def load(columns: list[str]) -> pl.DataFrame:
        return pl.DataFrame([_from_pandas(source[name], where, pandas) for name in columns])

    return Table(where, names, load)


def _from_pandas(column: Any, where: str, pandas: Any) -> pl.Series:
    """Convert one column of pandas; NaN means missing there and becomes null."""
    name = str(column.name)
    if column.dtype == object:
        found = pandas.api.types.infer_dtype(column, skipna=True)
        # pandas also calls lists and arrays "mixed"; those convert, or fail with their own error.
        if found.startswith("mixed-integer") or found == "bytes":
            raise fault(where, name, f"values are of mixed types ({found}); make them one type.")
    try:
        converted = pl.from_pandas(column.to_frame("column"))["column"]
    except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
        raise fault(
            where, name, f"the values cannot be read as one type ({error}); convert them."
        ) from error
    return converted.alias(name)


def reading(where: str, read: Callable[[], Result], text: TextFormat | None = None) -> Result:
    """Run a read, and turn the errors of polars about a broken file into a DataError."""
    try:
        return read()
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{where}: the file is empty.") from error
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        if text is not None and (why := undecodable(Path(where), where)) is not None:
            raise why from error
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{where}: cannot be read; it is damaged, cut short or not what its name says: {said}."
        ) from error


def _refuse_repeated_names(names: list[str], where: str) -> None:
    for name in names:
        original = re.fullmatch(r"(.*)_duplicated_\d+", name)
        if original and original[1] in names:
            raise DataError(
                f"{where}: two columns are named '{original[1]}'; rename one.{_headerless(names)}"
            )


def _headerless(names: list[str]) -> str:
    """Return advice if the names of the columns look like a row of data."""
    if not any(re.fullmatch(r"[-+]?\d+([.,]\d+)?", name) for name in names):
        return ""
    wanted = ", ".join(f'"name_{n + 1}"' for n in range(len(names)))
    return (
        " If the first line is a row and no header, name the columns in the recipe: data.columns "
        f"(or data.users_columns, data.items_columns) = [{wanted}]."
    )


def _float_lists(parts: pl.Series, where: str) -> pl.Series:
    floats = parts.cast(pl.List(pl.Float64), strict=False)
    unread = floats.list.eval(pl.element().is_null()).list.any().fill_null(False)
    if unread.any():
        row = first_row(unread)
        value = " ".join(parts[row - 1])
        message = f"the header says float_seq, and {value!r} holds something that is no number."
        raise fault(where, parts.name, message, row)
    return floats
