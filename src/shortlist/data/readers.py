"""How tables come in: files and frames, read through polars, checked, and told what was left out.

The only door external ids come in by. Ids leave it as Int64 or as byte-exact String, never having
been floats.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from shortlist.data.columns import (
    checked_feature,
    checked_ids,
    checked_split,
    checked_weights,
    exact_text,
    fault,
    typed_text,
)
from shortlist.data.schema import Feature, Schema, Tie
from shortlist.data.times import checked_times, told
from shortlist.durations import TimeUnit, WrittenUnit
from shortlist.errors import DataError, suggest

Source = Any  # a path, or a frame of polars, pandas, Arrow or anything with __arrow_c_stream__

Result = TypeVar("Result")

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".user": "\t", ".item": "\t"}
_RECBOLE_SUFFIXES = (".inter", ".user", ".item")
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
_FILE_KINDS = ".csv, .tsv, .parquet, .inter, .user or .item"


@dataclass(frozen=True)
class ReadReport:
    """What became of each row of a log: `rows` = `rows_read` minus all that was left out.

    duplicates: rows equal to another in every column read, merged into one. conflicts: rows that
    differ from another in weight alone; one of them was kept (see `read_interactions`).
    zero_weight: rows kept although they weigh nothing. time_unit: what a step of the time column
    is, for `times.time_key`; None without a time column. times: what that column was taken for.
    beside: what became of other logs.
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
    beside: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the report as sentences; the first is always there.

        >>> ReadReport("log.csv", rows_read=5, rows=4, duplicates=1).lines()
        ('log.csv: 5 rows read, 4 kept.', '1 exact duplicate merged.')
        """
        said = [f"{self.where}: {_count(self.rows_read, 'row')} read, {self.rows:,} kept."]
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
        return (*said, *self.beside)


def read_frame(source: Source, name: str, *, ids: Collection[str] = ()) -> pl.DataFrame:
    """Read a table whole: a file (.csv, .tsv, .parquet, RecBole's .inter, .user, .item) or a frame.

    Columns of a text file become Int64 where that loses nothing, else Float64 where all of it is
    numbers, else String; those named in `ids` become Int64 or String only. An empty field is null,
    quoted or not. RecBole's `name:type` headers lose their type; its sequences become lists.
    `name` is what errors call a frame, such as "items"; a file is called by its path.
    """
    table = _open(source, name)
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

    Rows equal in all of these are merged. Where the weight alone differs, the largest is kept, so
    that the order of rows changes nothing; with `tie="file"` the last row is kept in both cases, as
    in a log where a later rating replaces an earlier one. Then rows below `min_weight` are parted
    from the positives; a log without any positive is refused unless `only_met` is set.
    """
    table = _open(source, "interactions")
    frame, unit = _checked_roles(table, schema.roles(), schema.min_weight, schema.time_unit)
    # New events may be dates where the bundle's are numbers: `data.updates` says so with ranges.
    if schema.time_unit not in ("auto", unit) and not only_met:
        raise fault(
            table.where,
            str(schema.time),
            f"data.time_unit = '{schema.time_unit}' is for numbers, and these are dates, which say "
            "what they are: leave it out.",
        )
    times = told(frame["time"], unit) if unit is not None else None
    rows_read = frame.height
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
    )
    return Log(frame, met, report)


def read_roles(
    source: Source, roles: Mapping[str, str], name: str, unit: TimeUnit | WrittenUnit = "auto"
) -> tuple[pl.DataFrame, TimeUnit | None, str]:
    """Read some columns of a log beside the main one, under the names of their roles.

    roles: role -> column, as `Schema.roles` gives them; checked and typed as in
    `read_interactions`, but nothing is merged or left out. unit: of times that are numbers. Returns
    the rows in the order of the file, the unit of their times, and what errors call the source.
    """
    table = _open(source, name)
    return *_checked_roles(table, roles, None, unit), table.where


def read_entities(
    source: Source,
    id_column: str,
    features: Iterable[Feature] = (),
    title: str | None = None,
    name: str = "items",
) -> pl.DataFrame:
    """Read the table of users or items: one row an id, the id first, as column `id`.

    All other columns are kept under their own names; declared features take the form of their kind
    (`columns.checked_feature`), the title is text, the rest is as `read_frame` types it.
    """
    features = tuple(features)
    table = _open(source, name)
    wanted = [feature.name for feature in features] + ([title] if title is not None else [])
    table.require([id_column, *wanted])
    if id_column != "id" and "id" in table.names:
        raise fault(table.where, "id", f"the ids are in '{id_column}'; rename this column.")
    exact = [id_column, *(feature.name for feature in features if feature.kind != "numeric")]
    frame = table.typed(table.names, exact=[*exact, title] if title is not None else exact)
    ids = checked_ids(frame[id_column], table.where)
    repeated = ids.is_duplicated()
    if repeated.any():
        rows = repeated.arg_true()
        again = ids.gather(rows)
        second = rows.filter(again == again[0])[1] + 1
        raise fault(
            table.where,
            id_column,
            f"the id {ids[int(rows[0])]!r} stands in row {rows[0] + 1:,} already; "
            "give each id one row.",
            int(second),
        )
    columns = {column.name: column for column in frame.get_columns() if column.name != ids.name}
    for feature in features:
        columns[feature.name] = checked_feature(columns[feature.name], table.where, feature)
    if title is not None:
        columns[title] = _title(columns[title], table.where)
    return pl.DataFrame([ids.alias("id"), *columns.values()])


def is_text(source: Source) -> bool:
    """Return whether the source is a text file, whose ids have no type of their own."""
    return isinstance(source, (str, Path)) and _suffix(Path(source)) in _SEPARATORS


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
    text: bool = False
    recbole_types: Mapping[str, str] | None = None

    def require(self, columns: Iterable[str]) -> None:
        """Refuse a table that lacks one of the columns, saying which it has."""
        for column in columns:
            if column not in self.names:
                listed = ", ".join(self.names)
                near = suggest(column, self.names)
                hint = near if near.startswith(" Did") else ""
                raise DataError(
                    f"{self.where}: no column '{column}'.{hint} The columns are: {listed}."
                )

    def load(self, columns: list[str]) -> pl.DataFrame:
        """Read these columns, text still untyped; refuse a table without rows."""
        frame = self.load_columns(columns)
        if self.text:
            frame = _without_blank_end(frame)
        if not frame.height:
            raise DataError(f"{self.where}: there are no rows; nothing can be learned from it.")
        return frame

    def typed(self, columns: list[str], exact: Collection[str]) -> pl.DataFrame:
        """Read these columns, those of a text file in the types their values have."""
        frame = self.load(columns)
        if not self.text:
            return frame
        return pl.DataFrame([self._typed(column, exact) for column in frame.get_columns()])

    def _typed(self, column: pl.Series, exact: Collection[str]) -> pl.Series:
        kind = (self.recbole_types or {}).get(column.name)
        if kind in ("token_seq", "float_seq"):
            parts = column.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
            return _float_lists(parts, self.where) if kind == "float_seq" else parts
        if kind == "token" or column.name in exact:
            return exact_text(column)
        return typed_text(column)


def _open(source: Source, name: str) -> _Table:
    where = f"the {name} frame"
    if isinstance(source, (str, Path)):
        return _open_file(Path(source))
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


def _open_file(path: Path) -> _Table:
    if not path.exists():
        near = ""
        if path.parent.is_dir():
            files = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
            hint = suggest(path.name, files)
            near = hint if hint.startswith(" Did") else ""
        raise DataError(f"{path}: there is no such file.{near}")
    if not path.is_file():
        raise DataError(f"{path}: expected a file ({_FILE_KINDS}), but this is a folder.")
    suffix = _suffix(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if suffix == ".parquet":
        return _open_lazy(pl.scan_parquet(path, glob=False), str(path))
    if suffix not in _SEPARATORS:
        raise DataError(f"{path}: cannot read '{path.suffix}' files; give {_FILE_KINDS}.")
    recbole = suffix in _RECBOLE_SUFFIXES
    lazy = pl.scan_csv(
        path,
        separator=_SEPARATORS[suffix],
        quote_char=None if recbole else '"',
        infer_schema=False,
        null_values=[""],
        glob=False,
    )
    return _open_lazy(lazy, str(path), text=True, recbole=recbole)


def _open_lazy(
    lazy: pl.LazyFrame, where: str, *, text: bool = False, recbole: bool = False
) -> _Table:
    def load(columns: list[str]) -> pl.DataFrame:
        return _reading(where, lambda: lazy.select(columns).collect())

    names = _reading(where, lambda: lazy.collect_schema().names())
    types: dict[str, str] = {}
    if text:
        _refuse_repeated_names(names, where)
    if recbole:
        parts = {name: name.rpartition(":") for name in names}
        types = {part[0]: part[2] for part in parts.values() if part[2] in _RECBOLE_TYPES}
        lazy = lazy.rename({name: parts[name][0] for name in names if parts[name][0] in types})
        names = [parts[name][0] if parts[name][0] in types else name for name in names]
    return _Table(where, names, load, text=text, recbole_types=types)


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


def _reading(where: str, read: Callable[[], Result]) -> Result:
    """Run a read; what polars says about a broken file becomes one clear error."""
    try:
        return read()
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{where}: the file is empty.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{where}: cannot be read; it is damaged, cut short or not what its name says: {said}."
        ) from error


def _refuse_repeated_names(names: list[str], where: str) -> None:
    for name in names:
        original = re.fullmatch(r"(.*)_duplicated_\d+", name)
        if original and original[1] in names:
            raise DataError(f"{where}: two columns are named '{original[1]}'; rename one.")


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop blank lines after the last row, which many programs write; within the file they stay."""
    if not frame.height or any(value is not None for value in frame.row(-1)):
        return frame
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    return frame.head(int(filled[-1]) + 1 if len(filled) else 0)


def _suffix(path: Path) -> str:
    suffixes = path.suffixes
    packed = len(suffixes) > 1 and suffixes[-1].lower() in (".gz", ".zst")
    return (suffixes[-2] if packed else path.suffix).lower()


def _float_lists(parts: pl.Series, where: str) -> pl.Series:
    try:
        return parts.cast(pl.List(pl.Float64))
    except pl.exceptions.PolarsError as error:
        raise fault(where, parts.name, "the header says float_seq; not all are numbers.") from error


def _title(column: pl.Series, where: str) -> pl.Series:
    if isinstance(column.dtype, pl.List):  # RecBole keeps titles as lists of words
        return column.cast(pl.List(pl.String)).list.join(" ")
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise fault(where, column.name, f"a title must be text, not {column.dtype}.")
    return column.cast(pl.String)


def _checked_roles(
    table: _Table,
    roles: Mapping[str, str],
    min_weight: float | None,
    written: TimeUnit | WrittenUnit,
) -> tuple[pl.DataFrame, TimeUnit | None]:
    """Return the columns that play a role, checked, typed and named by it; and the times' unit."""
    table.require(roles.values())
    columns = {column.name: column for column in table.load(list(roles.values())).get_columns()}
    unit: TimeUnit | None = None
    checked: list[pl.Series] = []
    for role, name in roles.items():
        column = columns.pop(name)  # let go of the raw column: a log may be most of the memory
        if role == "time":
            column = typed_text(column) if table.text else column
            column, unit = checked_times(column, table.where, written)
        elif role == "weight":
            column = checked_weights(column, table.where, min_weight)
        elif role == "split":
            column = checked_split(column, table.where)
        else:
            column = exact_text(column) if table.text else column
            column = checked_ids(column, table.where)
        checked.append(column.alias(role))
    return pl.DataFrame(checked), unit


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
