"""How tables come in: files and frames, read through polars, checked, and told what was left out.

The only door external ids come in by. Ids leave it as Int64 or as byte-exact String, never having
been floats.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from shortlist.data import json_lines, nested
from shortlist.data.columns import (
    checked_feature,
    checked_ids,
    checked_split,
    checked_weights,
    exact_text,
    fault,
    first_row,
    typed_text,
)
from shortlist.data.files import KINDS, ManyFiles, are_text, files_of, hive_values, is_path
from shortlist.data.schema import Feature, NullIds, Schema, Tie
from shortlist.data.text import (
    NULL_WORDS,
    RECBOLE,
    TextFormat,
    is_text_file,
    open_text,
    suffix_of,
    undecodable,
)
from shortlist.data.times import checked_times, refuse_beyond, told
from shortlist.durations import TimeUnit, WrittenUnit
from shortlist.errors import DataError, suggest

Source = Any  # a path, or a frame of polars, pandas, Arrow or anything with __arrow_c_stream__

Result = TypeVar("Result")

_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class ReadReport:
    """What became of each row of a log: `rows` = `rows_read` minus all that was left out.

    duplicates: rows equal to another in every column read, merged into one. conflicts: rows that
    differ from another in weight alone; one of them was kept (see `read_interactions`).
    zero_weight: rows kept although they weigh nothing. time_unit: what a step of the time column
    is, for `times.time_key`; None without a time column. times: what that column was taken for.
    null_ids: rows left out as their user or item is missing. text: how the file is written, None if
    it is no text. notes: what else was noticed in its values. beside: what became of other logs.
    warnings: what is wrong, most likely.
    """

    where: str
    rows_read: int
    rows: int
    duplicates: int = 0
    conflicts: int = 0
    below_min_weight: int = 0
    zero_weight: int = 0
    min_weight: float | None = None
    tie: Tie = "hash"
    time_unit: TimeUnit | None = None
    times: str | None = None
    null_ids: int = 0
    text: TextFormat | None = None
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the report as sentences; the first is always there.

        >>> ReadReport("log.csv", rows_read=5, rows=4, duplicates=1).lines()
        ('log.csv: 5 rows read, 4 kept.', '1 exact duplicate merged.')
        """
        said = [f"{self.where}: {_count(self.rows_read, 'row')} read, {self.rows:,} kept."]
        if self.text is not None:
            said.append(f"Written with {self.text.line()}.")
        if self.null_ids:
            said.append(f"{_count(self.null_ids, 'row')} without a user or an item left out.")
        if self.duplicates:
            said.append(f"{_count(self.duplicates, 'exact duplicate')} merged.")
        if self.conflicts:
            kept = "the last in the file" if self.tie == "file" else "the largest weight"
            said.append(
                f"{_count(self.conflicts, 'row')} repeated another with a different weight; "
                f"{kept} was kept."
            )
        if self.below_min_weight:
            said.append(
                f"{_count(self.below_min_weight, 'row')} below the smallest weight of a positive, "
                f"{self.min_weight:g}, left out of training; their users are known to have met "
                "these items."
            )
        if self.zero_weight:
            said.append(
                f"{_count(self.zero_weight, 'row')} of weight 0 counted as positives; "
                "set min_weight to leave them out."
            )
        if self.times is not None:
            said.append(f"Times: {self.times}.")
        warnings = (f"Warning: {warning}." for warning in self.warnings)
        return (*said, *self.notes, *self.beside, *warnings)


def read_frame(
    source: Source, name: str, *, ids: Collection[str] = (), text: TextFormat | None = None
) -> pl.DataFrame:
    """Read a table whole: a file (.csv, .tsv, .parquet, RecBole's .inter, .user, .item) or a frame.

    Columns of a text file become Int64 where that loses nothing, else Float64 where all of it is
    numbers, else String; those named in `ids` become Int64 or String only. An empty field is null,
    quoted or not, and so is `\\N`. text: how text is written; by default the file decides.
    RecBole's `name:type` headers lose their type; its sequences become lists. `name` is what errors
    call a frame, such as "items"; a file is called by its path.
    """
    table = _open(source, name, text)
    return table.typed(table.names, exact=ids)


class Log(NamedTuple):
    """A log as it was read: its positives, and what was met besides.

    met: rows below `schema.min_weight`, with the columns user, item, time and split that the schema
    names; None without a min_weight.
    """

    events: pl.DataFrame
    met: pl.DataFrame | None
    report: ReadReport


def read_interactions(source: Source, schema: Schema) -> tuple[pl.DataFrame, ReadReport]:
    """Read the positives of a log: `read_log` without what was met besides."""
    log = read_log(source, schema)
    return log.events, log.report


def read_log(source: Source, schema: Schema, *, only_met: bool = False) -> Log:
    """Read a log: columns user, item and those of time, weight, session, split the schema names.

    Rows stay in the order of the file. user, item, session: Int64 or String. time: Int64 or Float64
    (`times.checked_times`). weight: Float64. split: String. None of them holds a null.

    With order="file" the time is the number of the row.

    Rows equal in all of these are merged. Where the weight alone differs, the largest is kept, so
    that the order of rows changes nothing; with `tie="file"` the last row is kept in both cases, as
    in a log where a later rating replaces an earlier one. Then rows below `min_weight` are parted
    from the positives; a log without any positive is refused unless `only_met` is set.
    """
    table = _open(source, "interactions", schema.text)
    frame, unit, found = _checked_roles(
        table, schema.roles(), schema.min_weight, schema.null_ids, schema.time_unit
    )
    # New events may be dates where the bundle's are numbers: `data.updates` says so with ranges.
    if schema.time_unit not in ("auto", unit) and not only_met:
        raise fault(
            table.where,
            str(schema.time),
            f"data.time_unit = '{schema.time_unit}' is for numbers, and these are dates, which say "
            "what they are: leave it out.",
        )
    if unit == schema.time_unit and not only_met:
        refuse_beyond(table.where, str(schema.time), frame["time"], unit)
    if schema.order == "file":
        frame, unit = (
            frame.with_row_index("time").with_columns(pl.col("time").cast(pl.Int64)),
            "line",
        )
    times = told(frame["time"], unit) if unit is not None else None
    rows_read = frame.height + found.dropped
    frame, duplicates, conflicts = _merge_repeats(frame, schema.tie)
    met, zero = None, 0
    if schema.weight is not None:
        if schema.min_weight is not None:
            kept = [name for name in ("user", "item", "time", "split") if name in frame.columns]
            met = frame.filter(pl.col("weight") < schema.min_weight).select(kept)
            frame = frame.filter(pl.col("weight") >= schema.min_weight)
        zero = int((frame["weight"] == 0).sum())
    if not frame.height and not only_met:
        raise DataError(
            f"{table.where}: no row has a weight of at least {schema.min_weight:g}; "
            "lower min_weight."
        )
    report = ReadReport(
        where=table.where,
        rows_read=rows_read,
        rows=frame.height,
        duplicates=duplicates,
        conflicts=conflicts,
        below_min_weight=0 if met is None else met.height,
        zero_weight=zero,
        min_weight=schema.min_weight,
        tie=schema.tie,
        time_unit=unit,
        times=times,
        null_ids=found.dropped,
        text=table.text,
        notes=found.notes,
    )
    return Log(frame, met, report)


def read_roles(
    source: Source,
    roles: Mapping[str, str],
    name: str,
    schema: Schema,
    unit: TimeUnit | WrittenUnit = "auto",
) -> tuple[pl.DataFrame, TimeUnit | None, str]:
    """Read some columns of a log beside the main one, under the names of their roles.

    roles: role -> column, as `Schema.roles` gives them; checked and typed as in
    `read_interactions`, but nothing is merged, and only `schema.null_ids` leaves rows out. unit: of
    times that are numbers. Returns the rows in the order of the file, the unit of their times, and
    what errors call the source.
    """
    table = _open(source, name, schema.text_of(name))
    frame, unit_read, _ = _checked_roles(table, roles, None, schema.null_ids, unit)
    return frame, unit_read, table.where


def read_entities(
    source: Source,
    id_column: str,
    features: Iterable[Feature] = (),
    title: str | None = None,
    name: str = "items",
    *,
    text: TextFormat | None = None,
    null_ids: NullIds = "refuse",
    said: list[str] | None = None,
) -> pl.DataFrame:
    """Read the table of users or items: one row an id, the id first, as column `id`.

    All other columns are kept under their own names; declared features take the form of their kind
    (`columns.checked_feature`), the title is text, the rest is as `read_frame` types it. text,
    null_ids: as in `Schema`; said: a list that sentences about the table are added to.
    """
    features = tuple(features)
    table = _open(source, name, text)
    wanted = [feature.name for feature in features] + ([title] if title is not None else [])
    table.require([id_column, *wanted])
    if id_column != "id" and "id" in table.names:
        raise fault(table.where, "id", f"the ids are in '{id_column}'; rename this column.")
    exact = [id_column, *(feature.name for feature in features if feature.kind != "numeric")]
    inner = [name for name in (id_column, *wanted) if name not in table.names]
    frame = table.typed(
        [*table.names, *inner], exact=[*exact, title] if title is not None else exact
    )
    (frame, dropped), where = _with_ids(frame, [id_column], null_ids), table.where
    if dropped:
        where = _counted_without(where, dropped)
    ids = _checked_ids(frame[id_column], where, null_ids)
    if said is not None:
        said += _said_of(table, frame, ids, features, dropped)
    repeated = ids.is_duplicated()
    if repeated.any():
        rows = repeated.arg_true()
        again = ids.gather(rows)
        second = rows.filter(again == again[0])[1] + 1
        raise fault(
            where,
            id_column,
            f"the id {ids[int(rows[0])]!r} stands in row {rows[0] + 1:,} already; "
            "give each id one row.",
            int(second),
        )
    columns = {column.name: column for column in frame.get_columns() if column.name != ids.name}
    for feature in features:
        columns[feature.name] = checked_feature(columns[feature.name], where, feature)
    if title is not None:
        columns[title] = _title(columns[title], where)
    return pl.DataFrame([ids.alias("id"), *columns.values()])


def is_text(source: Source) -> bool:
    """Return whether the source is a text file, whose ids have no type of their own."""
    return are_text(source)


def refuse_idle_text(schema: Schema, *sources: Source) -> None:
    """Refuse what the schema says of text files where none of the sources is one.

    sources: interactions, users, items, and any others; None where there is none.
    """
    _, users, items, *_ = sources
    _refuse_idle_columns(schema.users_columns, users, "users")
    _refuse_idle_columns(schema.items_columns, items, "items")
    written = [source for source in sources if is_text(source)]
    plain = [source for source in written if _is_plain(source)]
    for key in schema.text.given():
        log_only = key == "columns" and not any(sources[0] is source for source in plain)
        if log_only or not (written if key == "null_values" else plain):
            raise DataError(
                f"data.{key} does nothing: it is about text files (.csv, .tsv, .txt, .dat), and "
                "none is given; remove it."
            )


def _is_plain(source: Source) -> bool:
    """Whether text files leave open how they are written: those of RecBole do not."""
    try:
        return not any(suffix_of(file) in RECBOLE for file in files_of(source))
    except DataError:  # what is not there is told by who reads it
        return True


def _refuse_idle_columns(columns: Iterable[str], source: Source, side: str) -> None:
    """Refuse names for the columns of a table that is no text file, or is not given."""
    if tuple(columns) and not (is_text(source) and _is_plain(source)):
        raise DataError(
            f"data.{side}_columns does nothing: the {side} table is no text file without a header; "
            "remove it."
        )


def align_ids(
    left: pl.Series, right: pl.Series, *, left_text: bool, right_text: bool, where: str
) -> tuple[pl.Series, pl.Series]:
    """Return two id columns in one type, or refuse: 1 and '1' are different ids.

    Only integers that came from a text file (`is_text`) may turn to text again: there the digits
    are all that was written, so nothing is lost. `where` says what is compared: "items.csv".

    >>> log, items = pl.Series([1, 2]), pl.Series(["1", "x2"])
    >>> align_ids(log, items, left_text=True, right_text=False, where="items")[0].to_list()
    ['1', '2']
    """
    if left.dtype == right.dtype:
        return left, right
    if left.dtype == pl.Int64 and left_text:
        return left.cast(pl.String), right
    if right.dtype == pl.Int64 and right_text:
        return left, right.cast(pl.String)
    number, text = (left, right) if left.dtype == pl.Int64 else (right, left)
    raise DataError(
        f"{where}: ids are integers ({number[0]!r}) in one table and text ({text[0]!r}) in the "
        "other, and 1 is not '1'; give both the same type."
    )


# --- sources --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A source opened, not read: its column names, and how to read some of them."""

    where: str
    names: list[str]
    load_columns: Callable[[list[str]], pl.DataFrame]
    text: TextFormat | None = None
    rows: int | None = None
    recbole_types: Mapping[str, str] | None = None
    inner: Mapping[str, nested.Inner] = field(default_factory=dict)

    def require(self, columns: Iterable[str]) -> None:
        """Refuse a table that lacks one of the columns, saying which it has."""
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
        """The line of the recipe that may mend a missing column."""
        if self.text is None or self.text.columns:
            return ""
        if len(self.names) > 1:
            return _headerless(self.names)
        return (
            f" The file was read with {self.text.line()}; data.separator and data.encoding set "
            "others."
        )

    def load(self, columns: list[str]) -> pl.DataFrame:
        """Read these columns, text still untyped; refuse a table without rows."""
        frame = self.load_columns(columns)
        if self.rows is not None:
            if frame.height < self.rows:
                raise DataError(
                    f"{self.where}: {frame.height:,} rows were parsed of {self.rows:,} in the "
                    "file; it may have changed while it was read."
                )
            frame = frame.head(self.rows)  # blank lines after the last row are none
        if not frame.height:
            raise DataError(f"{self.where}: there are no rows; nothing can be learned from it.")
        return frame

    def typed(self, columns: list[str], exact: Collection[str]) -> pl.DataFrame:
        """Read these columns, those of a text file in the types their values have."""
        frame = self.load(columns)
        if self.text is None:
            return frame
        return pl.DataFrame([self._typed(column, exact) for column in frame.get_columns()])

    def _typed(self, column: pl.Series, exact: Collection[str]) -> pl.Series:
        kind = (self.recbole_types or {}).get(column.name)
        if kind in ("token_seq", "float_seq"):
            parts = column.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
            return _float_lists(parts, self.where) if kind == "float_seq" else parts
        if kind == "token" or column.name in exact:
            return exact_text(column)
        return typed_text(self.with_points(column))

    def with_points(self, column: pl.Series) -> pl.Series:
        """Write 1,5 as 1.5, where that is how decimals are written and all values are numbers."""
        if self.text is None or self.text.decimal is None or column.dtype != pl.String:
            return column
        numbers = column.str.contains(r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$")
        return column.str.replace(",", ".", literal=True) if numbers.all() else column


def _open(source: Source, name: str, text: TextFormat | None = None) -> _Table:
    where = f"the {name} frame"
    if is_path(source):
        files = files_of(source)
        if len(files) > 1 or (hive_values(files[0]) and str(files[0]) != str(source)):
            return _open_files(files, source, text or TextFormat())
        return _open_file(files[0], text or TextFormat())
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        return _open_lazy(source.lazy(), where)
    # Only what is imported already can have made the frame; pandas itself is not needed here.
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _open_pandas(source, where, pandas)
    if hasattr(source, "__arrow_c_stream__"):
        try:
            return _open_lazy(pl.DataFrame(source).lazy(), where)
        except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
            raise DataError(f"{where} cannot be read through Arrow: {error}") from error
    raise DataError(
        f"{name}: expected a path or a frame (polars, pandas, Arrow), got {type(source).__name__}."
    )


def _open_file(path: Path, text: TextFormat) -> _Table:
    suffix = suffix_of(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if suffix == ".parquet":
        return _open_lazy(pl.scan_parquet(path, glob=False), str(path))
    if suffix in json_lines.SUFFIXES:
        return _open_lazy(_reading(str(path), lambda: json_lines.open_json(path)), str(path))
    if not is_text_file(path):
        raise DataError(f"{path}: cannot read '{path.suffix}' files; give {KINDS}.")
    found = _reading(str(path), lambda: open_text(path, text))
    return _open_lazy(
        found.lazy, str(path), text=found.format, rows=found.rows, recbole=suffix in RECBOLE
    )


def _open_files(files: list[Path], source: Source, text: TextFormat) -> _Table:
    """Open several files as one table: the same columns, written alike, the rows in order."""
    tables = [_open_file(file, text) for file in files]
    first, hive = tables[0], [hive_values(file) for file in files]
    shown = f"{len(files)} files" if isinstance(source, (list, tuple)) else str(source)
    where = ManyFiles(f"{shown} ({files[0].name} to {files[-1].name})")
    partitions = [name for name in hive[0] if name not in first.names]
    for table, values in zip(tables, hive, strict=True):
        if set(table.names) != set(first.names) or values.keys() != hive[0].keys():
            odd = set(table.names) ^ set(first.names) or values.keys() ^ hive[0].keys()
            raise DataError(
                f"{table.where}: column '{min(odd)}' is not in this file and in {first.where} "
                "both; files that are read as one need the same columns."
            )
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
            frame = table.load(own or table.names[:1])
            where.files.append((table.where, frame.height))
            given = {name: pl.lit(values[name]) for name in columns if name in partitions}
            frames.append(frame.with_columns(**given).select(columns))
        try:
            whole = pl.concat(frames)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{where}: the files do not hold the same types: {error}.") from error
        if first.text is None:  # folders are text, also those of Parquet files
            whole = whole.with_columns(exact_text(whole[name]) for name in given)
        return whole

    return replace(
        first, where=where, names=[*first.names, *partitions], load_columns=load, rows=None
    )


def _open_lazy(
    lazy: pl.LazyFrame,
    where: str,
    *,
    text: TextFormat | None = None,
    rows: int | None = None,
    recbole: bool = False,
) -> _Table:
    def load(columns: list[str]) -> pl.DataFrame:
        read: pl.DataFrame = _reading(
            where, lambda: nested.select(lazy, columns, inner).collect(), text
        )
        return read

    schema = _reading(where, lazy.collect_schema)
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
    return _Table(where, names, load, text=text, rows=rows, recbole_types=types, inner=inner)


def _open_pandas(source: Any, where: str, pandas: Any) -> _Table:
    names = list(source.columns)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{where}: column names must be text, got {name!r}.")
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: two columns are named '{again}'; rename one.")

    def load(columns: list[str]) -> pl.DataFrame:
        return pl.DataFrame([_from_pandas(source[name], where, pandas) for name in columns])

    return _Table(where, names, load)


def _from_pandas(column: Any, where: str, pandas: Any) -> pl.Series:
    """Convert one column; NaN is how pandas writes a missing value, so it becomes null."""
    name = str(column.name)
    if column.dtype == object:
        found = pandas.api.types.infer_dtype(column, skipna=True)
        # Lists and arrays are "mixed" to pandas as well; those convert or fail on their own below.
        if found.startswith("mixed-integer") or found == "bytes":
            raise fault(where, name, f"values are of mixed types ({found}); make them one type.")
    try:
        converted = pl.from_pandas(column.to_frame("column"))["column"]
    except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
        raise fault(
            where, name, f"the values cannot be read as one type ({error}); convert them."
        ) from error
    return converted.alias(name)


def _reading(where: str, read: Callable[[], Result], text: TextFormat | None = None) -> Result:
    """Run a read; what polars says about a broken file becomes one clear error."""
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
    """What to say in the recipe if the names of the columns look like a row."""
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


def _title(column: pl.Series, where: str) -> pl.Series:
    if isinstance(column.dtype, pl.List):  # RecBole keeps titles as lists of words
        return column.cast(pl.List(pl.String)).list.join(" ")
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise fault(where, column.name, f"a title must be text, not {column.dtype}.")
    return column.cast(pl.String)


class _Found(NamedTuple):
    """Rows dropped for a missing id, and what else was noticed."""

    dropped: int
    notes: tuple[str, ...]


def _checked_roles(
    table: _Table,
    roles: Mapping[str, str],
    min_weight: float | None,
    null_ids: NullIds,
    written: TimeUnit | WrittenUnit,
) -> tuple[pl.DataFrame, TimeUnit | None, _Found]:
    """Return the columns that play a role, checked, typed and named by it; and the times' unit."""
    table.require(roles.values())
    where, notes = table.where, []
    loaded, dropped = _with_ids(
        table.load(list(roles.values())),
        [roles[role] for role in ("user", "item") if role in roles],
        null_ids,
    )
    if dropped:
        where = _counted_without(where, dropped)
    columns = {column.name: column for column in loaded.get_columns()}
    del loaded
    unit: TimeUnit | None = None
    checked: list[pl.Series] = []
    for role, name in roles.items():
        column = columns.pop(name)  # let go of the raw column: a log may be most of the memory
        if role == "time":
            column = typed_text(table.with_points(column)) if table.text is not None else column
            column, unit = checked_times(column, where, written)
        elif role == "weight":
            column = checked_weights(table.with_points(column), where, min_weight)
        elif role == "split":
            column = checked_split(column, where)
        else:
            column = exact_text(column) if table.text is not None else column
            column = _checked_ids(column, where, null_ids)
            if table.text is not None:
                notes += _text_among_numbers(column, where)
        checked.append(column.alias(role))
    return pl.DataFrame(checked), unit, _Found(dropped, tuple(notes))


def _with_ids(frame: pl.DataFrame, ids: list[str], null_ids: NullIds) -> tuple[pl.DataFrame, int]:
    """Return the rows that have all of these ids, if missing ones may be dropped; and the others'.

    A table without any row left is refused by who reads on.
    """
    if null_ids != "drop" or not any(frame[name].null_count() for name in ids):
        return frame, 0
    kept = frame.filter(pl.all_horizontal(pl.col(ids).is_not_null()))
    return kept, frame.height - kept.height


def _counted_without(where: str, dropped: int) -> str:
    return f"{where} (rows counted without the {dropped:,} whose id is missing)"


def _checked_ids(column: pl.Series, where: str, null_ids: NullIds) -> pl.Series:
    """`checked_ids`; and words that mean a missing value are refused as ids."""
    if column.null_count():
        cure = 'data.null_ids = "drop" leaves such rows out and counts them'
        message = f"the id is missing or empty; every row needs one ({cure})."
        raise fault(where, column.name, message, first_row(column.is_null()))
    if not len(column):
        raise fault(where, column.name, "every id is missing.")
    ids = checked_ids(column, where)
    if ids.dtype != pl.String or null_ids == "keep":
        return ids
    if (words := ids.is_in(NULL_WORDS)).any():
        row = first_row(words)
        raise fault(
            where,
            column.name,
            f"the id {ids[row - 1]!r} looks like a missing value. If it is one, say "
            f'data.null_values = [{_toml(ids[row - 1])}] and data.null_ids = "drop"; if it is an '
            'id, data.null_ids = "keep".',
            row,
        )
    return ids


def _text_among_numbers(ids: pl.Series, where: str) -> list[str]:
    """Tell of a few ids of a text file that made all the others text: one in a hundred at most."""
    if ids.dtype != pl.String:
        return []
    odd = ids.cast(pl.Int64, strict=False).is_null()
    count = int(odd.sum())
    if not 0 < count * 100 <= len(ids):
        return []
    row = first_row(odd)
    return [
        f"{where}: column '{ids.name}': {_count(count, 'id')} of {len(ids):,} is text among "
        f"numbers, the first {ids[row - 1]!r} in row {row:,}; all are read as text."
    ]


def _said_of(
    table: _Table,
    frame: pl.DataFrame,
    ids: pl.Series,
    features: Iterable[Feature],
    dropped: int,
) -> list[str]:
    """Sentences about the table of one side: what was left out, and what looks like a gap."""
    said = [f"{table.where}: written with {table.text.line()}."] if table.text is not None else []
    if dropped:
        said.append(f"{table.where}: {_count(dropped, 'row')} without an id left out.")
    if table.text is not None:
        said += _text_among_numbers(ids, table.where)
    for feature in features:
        column = frame[feature.name]
        if feature.kind != "categorical" or column.dtype != pl.String:
            continue
        words = column.filter(column.is_in(NULL_WORDS))
        if len(words):
            said.append(
                f"{table.where}: column '{feature.name}': {words[0]!r} is taken as a value, "
                f"{_count(len(words), 'time')}; if it means a missing one, say "
                f"data.null_values = [{_toml(words[0])}]."
            )
    return said


def _toml(text: str) -> str:
    """Text as a recipe would have it."""
    return f"'{text}'" if "\\" in text else f'"{text}"'


# --- repeated rows --------------------------------------------------------------------------------


def _merge_repeats(frame: pl.DataFrame, tie: Tie) -> tuple[pl.DataFrame, int, int]:
    """Return the log without repeats, and the counts of duplicates and conflicts among them."""
    keys = [name for name in frame.columns if name != "weight"]
    hashes = frame.select(keys).hash_rows()
    ordered = np.sort(hashes.to_numpy())
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    del ordered
    if not len(repeated):
        return frame, 0, 0
    # Equal rows have equal hashes, so only these few need the exact, and costly, comparison.
    rows = hashes.is_in(repeated.implode()).arg_true()
    del hashes
    suspects = frame[rows].with_columns(rows.alias("row"))
    if tie == "file":
        order, descending = ["row"], [True]
    elif "weight" in frame.columns:
        order, descending = ["weight", "row"], [True, False]
    else:
        order, descending = ["row"], [False]
    ranked = suspects.sort(order, descending=descending)
    kept = ranked.unique(keys, keep="first", maintain_order=True)
    distinct = suspects.n_unique(frame.columns)
    mask = np.ones(frame.height, dtype=bool)
    mask[rows.to_numpy()] = False
    mask[kept["row"].to_numpy()] = True
    return frame.filter(pl.Series(mask)), suspects.height - distinct, distinct - kept.height


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
