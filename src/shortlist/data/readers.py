"""How are tables read? Files and frames come in through polars and are checked and reported.

External ids enter only here. They become Int64 or byte-exact String and never pass through floats.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from shortlist.data.columns import (
    checked_feature,
    checked_split,
    checked_title,
    checked_weights,
    exact_text,
    fault,
    typed_text,
)
from shortlist.data.event_columns import PREFIX, Values, checked_column, names_of, read_columns
from shortlist.data.files import are_text, files_of
from shortlist.data.id_columns import (
    as_toml,
    counted_without,
    given_ids,
    text_among_numbers,
    with_ids,
)
from shortlist.data.kind_column import coded
from shortlist.data.kinds import read_codes
from shortlist.data.log_features import (
    BESIDE,
    ROW,
    VERSION,
    Side,
    Versions,
    columns_of,
    read_versions,
)
from shortlist.data.lost_ids import NULL_WORDS
from shortlist.data.reports import ReadReport, counted
from shortlist.data.schema import EventFeature, Feature, NullIds, Schema, Tie
from shortlist.data.tables import Source, Table, open_table
from shortlist.data.text import TextFormat, is_recbole
from shortlist.data.times import checked_times, refuse_beyond, told
from shortlist.data.unfolding import unfolded
from shortlist.durations import TimeUnit, WrittenUnit
from shortlist.errors import DataError
from shortlist.sections.events import Events

NO_EVENTS: Events = {}


def read_frame(
    source: Source, name: str, *, ids: Collection[str] = (), text: TextFormat | None = None
) -> pl.DataFrame:
    """Read a whole table: a file (.csv, .tsv, .parquet, RecBole's .inter, .user, .item) or a frame.

    A column of a text file becomes Int64 where nothing is lost, else Float64 where all values are
    numbers, else String. An empty field, quoted or not, and `\\N` are null. RecBole's `name:type`
    headers lose their type, and its sequences become lists.

    name: what errors call a frame, such as "items"; a file is called by its path.
    ids: columns that become Int64 or String, never Float64.
    text: how text is written; by default it is inferred from the file.
    """
    table = open_table(source, name, text)
    return table.typed(table.names, exact=ids)


@dataclass(frozen=True)
class Log:
    """A log as it was read.

    events: the positives, and with kinds of events also those that are only read. `kind` is Int8,
        the code in `Kinds.of(schema.events)`.
    met: rows that train nothing but count as seen: below `schema.min_weight`, or of kinds that are
        not read. They have the columns user, item, time and split that the schema names, and the
        position of the kind in `schema.events`. None where the schema has no such rows.
    versions: what the rows say about the sides without a table; then both frames also have the
        columns `log_features.BESIDE`.
    values: the values of the event features, which `events` holds as columns.
    """

    events: pl.DataFrame
    met: pl.DataFrame | None
    report: ReadReport
    versions: Mapping[Side, Versions] = field(default_factory=dict)
    values: Values = field(default_factory=dict)


def read_interactions(source: Source, schema: Schema) -> tuple[pl.DataFrame, ReadReport]:
    """Read the events of a log: `read_log` without its `met` rows."""
    log = read_log(source, schema)
    return log.events, log.report


def lighter(weights: pl.Series, least: float) -> pl.Series:
    """Return which weights are below the least, [n] bool.

    Weights are stored and compared in 32 bits, as a 32-bit column holds 0.7 only approximately.
    """
    return weights.cast(pl.Float32).cast(pl.Float64) < float(np.float32(least))


def read_log(
    source: Source, schema: Schema, *, only_met: bool = False, described: Collection[Side] = ()
) -> Log:
    """Read a log: columns user, item, and those of time, weight, session, split in the schema.

    Rows stay in the order of the file, and no column holds a null:

    user, item, session: Int64 or String.
    time: Int64 or Float64 (`times.checked_times`); with order="file" the number of the row.
    weight: Float64.
    split: String.

    Rows that are equal in all of these are merged. If only the weight differs, the largest is kept,
    so that the order of rows changes nothing; with `tie="file"` the last row is kept, as in a log
    where a later rating replaces an earlier one. Rows below `min_weight` are then separated from
    the positives. Events of two kinds are never equal, and events of kinds to be dropped are left
    out before.

    only_met: the rows are additions to a known log: rows without any positive are accepted, and
        the caller checks the unit of their times.
    described: the sides whose features are columns of the log, returned in `Log.versions`. These
        columns and event features do not influence the merging: a kept row keeps its values.

    Errors: DataError naming the column and row of what cannot be used.
    """
    table = open_table(source, "interactions", schema.text)
    beside = [name for side in described for name in columns_of(schema, side)]
    _require_described(table, beside)
    of_events = names_of(schema)
    _require_of_events(table, of_events)
    frame, unit, found = _checked_roles(
        table,
        schema.roles(),
        schema.min_weight,
        schema.null_ids,
        schema.time_unit,
        schema.events,
        dict.fromkeys([*beside, *of_events]),
        of_events,
    )
    columns, values = read_columns(table, found.beside, frame, schema, found.where)
    frame = frame.hstack(columns)
    versions: dict[Side, Versions] = {}
    for side in described:
        versions[side], said = read_versions(
            table, frame[side].alias(schema.roles()[side]), found.beside, schema, side, found.where
        )
        found.notes.extend(said)
        frame = frame.with_columns(pl.Series(VERSION[side], versions[side].of))
    if described:
        frame = frame.with_row_index(ROW).select(pl.exclude(ROW), ROW)
    # New events may hold dates where the bundle has numbers; `data.updates` reports that.
    if not only_met:
        refuse_unit_of_dates(table.where, schema, unit)
    if unit == schema.time_unit and not only_met:
        refuse_beyond(table.where, str(schema.time), frame["time"], unit)
    if schema.order == "file":
        frame, unit = (
            frame.with_row_index("time").with_columns(pl.col("time").cast(pl.Int64)),
            "line",
        )
    times = told(frame["time"], unit) if unit is not None else None
    rows_read = frame.height + found.dropped
    if schema.events:
        dropped = [code for code, kind in enumerate(schema.events.values()) if kind.drop]
        frame = frame.filter(~pl.col("kind").is_in(dropped)) if dropped else frame
    frame, duplicates, conflicts = _merge_repeats(frame, schema.tie)
    met, zero, kinds = None, 0, _Kinds()
    besides = [n for n in ("user", "item", "time", "split", *BESIDE) if n in frame.columns]
    if schema.min_weight is not None:
        below = lighter(frame["weight"], schema.min_weight)
        met, frame = frame.filter(below).select(besides), frame.filter(~below)
    elif schema.events:
        kinds = _kinds(frame["kind"], found.kinds, schema)
        if not kinds.targets and not only_met:
            raise fault(
                table.where,
                str(schema.event),
                f"no row is of a kind that is a target: there are {', '.join(kinds.listed())}.",
            )
        places = frame["kind"].to_numpy()
        code = read_codes(schema.events)[places]
        frame, read = frame.with_columns(kind=pl.Series(code)), pl.Series(code >= 0)
        if any(kind.seen and not kind.read for kind in schema.events.values()):
            met = frame.filter(~read).select(*besides, pl.Series("kind", places).filter(~read))
        frame = frame.filter(read)
    if schema.weight is not None:
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
        below_min_weight=0 if met is None or schema.events else met.height,
        zero_weight=zero,
        min_weight=schema.min_weight,
        tie=schema.tie,
        time_unit=unit,
        times=times,
        null_ids=found.dropped,
        text=table.text,
        kinds=kinds.found,
        notes=tuple(found.notes),
        warnings=() if only_met else kinds.absent(str(schema.event)),
    )
    return Log(frame, met, report, versions, values)


def read_described(
    source: Source, roles: Mapping[str, str], schema: Schema, sides: Iterable[Side]
) -> tuple[dict[Side, pl.DataFrame], Table, str]:
    """Return what each row of a log says about its user or item, not yet checked.

    roles: role -> column for user and item.

    Returns a frame by side, with `id` and the describing columns in the order of the file; the
    opened log; and what errors call its rows.
    """
    table = open_table(source, "interactions", schema.text)
    names = [name for side in sides for name in columns_of(schema, side)]
    _require_described(table, names)
    if "id" in names:
        side = next(side for side in sides if "id" in columns_of(schema, side))
        raise fault(table.where, "id", f"the ids are in '{roles[side]}'; rename this column.")
    ids = {side: roles[side] for side in ("user", "item")}
    frame, _, found = _checked_roles(
        *(table, ids, None, schema.null_ids, "auto", NO_EVENTS, dict.fromkeys(names))
    )
    raw: dict[Side, pl.DataFrame] = {
        side: found.beside.select(columns_of(schema, side)).insert_column(
            0, frame[side].alias("id")
        )
        for side in sides
    }
    return raw, table, found.where


def refuse_unit_of_dates(where: str, schema: Schema, unit: TimeUnit | None) -> None:
    """Refuse a time_unit for a log whose times are dates. unit: the unit that was read."""
    if schema.time_unit not in ("auto", unit):
        raise fault(
            where,
            str(schema.time),
            f"data.time_unit = '{schema.time_unit}' is for numbers, and these are dates, which "
            "need no unit: leave it out.",
        )


def read_roles(
    source: Source,
    roles: Mapping[str, str],
    name: str,
    schema: Schema,
    unit: TimeUnit | WrittenUnit = "auto",
    min_weight: float | None = None,
    events: Events = NO_EVENTS,
    features: Collection[EventFeature] = (),
) -> tuple[pl.DataFrame, TimeUnit | None, str]:
    """Read some columns of a log, named by their roles.

    The columns are checked and typed as by `read_interactions`, but nothing is merged, and only
    `schema.null_ids` leaves rows out.

    roles: role -> column, as `Schema.roles` gives them.
    unit: the unit of times that are numbers.
    min_weight: weights may be negative below it.
    events: the kinds of events, if `roles` has their column. It becomes "kind", with positions in
        this table.
    features: event features to read as well, as columns PREFIX + name (`checked_column`).

    Returns the rows in the order of the file, the unit of their times, and what errors call the
    source.
    """
    table = open_table(source, name, schema.text_of(name))
    names = [feature.name for feature in features]
    _require_of_events(table, names)
    frame, unit_read, found = _checked_roles(
        *(table, roles, min_weight, schema.null_ids, unit, events, names, names)
    )
    columns = [
        checked_column(table, found.beside[feature.name], feature, found.where).alias(
            PREFIX + feature.name
        )
        for feature in features
    ]
    return frame.hstack(columns), unit_read, table.where


def open_entities(
    source: Source, id_column: str, wanted: Sequence[str], name: str, text: TextFormat | None
) -> Table:
    """Open the table of users or items, and read none of its values.

    wanted: the columns that features and the title name.
    Errors: DataError for a column that is not there, also for the ids; and for a column called id
    that is wanted, but does not hold the ids.
    """
    table = open_table(source, name, text)
    try:
        table.require([id_column])
    except DataError as error:
        raise DataError(
            f"{error} If its id column has another name, set data.{name}_id."
        ) from error
    table.require(wanted)
    if id_column != "id" and "id" in wanted:
        raise fault(table.where, "id", f"the ids are in '{id_column}'; rename this column.")
    return table


def read_entities(
    source: Source,
    id_column: str,
    features: Iterable[Feature] = (),
    title: str | None = None,
    name: str = "items",
    *,
    text: TextFormat | None = None,
    null_ids: NullIds = "refuse",
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """Read the table of users or items: one row an id, with the ids as first column `id`.

    All other columns keep their names; a column called id that does not hold the ids is left out.
    Declared features take the form of their kind (`columns.checked_feature`), the title becomes
    text, and other columns are typed as by `read_frame`.

    text, null_ids: as in `Schema`.
    notes: a list that sentences about the table are added to.

    Errors: DataError naming the column and row, also for an id with two rows.
    """
    features = tuple(features)
    wanted = [feature.name for feature in features] + ([title] if title is not None else [])
    table = open_entities(source, id_column, wanted, name, text)
    exact = [id_column, *(feature.name for feature in features if feature.kind != "numeric")]
    inner = [name for name in (id_column, *wanted) if name not in table.names]
    others = [name for name in table.names if name != "id" or id_column == "id"]
    frame = table.typed([*others, *inner], exact=[*exact, title] if title is not None else exact)
    (frame, dropped), where = with_ids(frame, [id_column], null_ids), table.where
    if dropped:
        where = counted_without(where, dropped)
    ids = given_ids(frame[id_column], where, null_ids)
    if notes is not None and len(others) < len(table.names):
        notes.append(f"{table.where}: column 'id' left out: the ids are in '{id_column}'.")
    if notes is not None:
        notes += _lines_of(table, frame, ids, features, dropped)
    repeated = ids.is_duplicated()
    if repeated.any():
        rows = repeated.arg_true()
        again = ids.gather(rows)
        second = rows.filter(again == again[0])[1] + 1
        raise fault(
            where,
            id_column,
            f"the id {ids[int(rows[0])]!r} is already in row {rows[0] + 1:,}; "
            "give each id one row.",
            int(second),
        )
    columns = {column.name: column for column in frame.get_columns() if column.name != ids.name}
    for feature in features:
        columns[feature.name] = checked_feature(columns[feature.name], where, feature)
    if title is not None:
        columns[title] = checked_title(columns[title], where)
    return pl.DataFrame([ids.alias("id"), *columns.values()])


def is_text(source: Source) -> bool:
    """Return whether the source is a text file, whose ids have no type of their own."""
    return are_text(source)


def refuse_idle_text(schema: Schema, *sources: Source) -> None:
    """Refuse settings for text files where none of the sources is a text file.

    sources: interactions, users, items, and any others; None for one that is not given.
    """
    _, users, items, *_ = sources
    _refuse_idle_columns(schema.users_columns, users, "users")
    _refuse_idle_columns(schema.items_columns, items, "items")
    written = [source for source in sources if is_text(source)]
    plain = [source for source in written if _is_plain(source)]
    for key in schema.text.given():
        of_log = key in ("columns", "item_separator")
        log_only = of_log and not any(sources[0] is source for source in plain)
        if log_only or not (written if key == "null_values" else plain):
            raise DataError(
                f"data.{key} does nothing: it is about text files (.csv, .tsv, .txt, .dat), and "
                "none is given; remove it."
            )


def _is_plain(source: Source) -> bool:
    """Return whether a text file's format is open; RecBole's files have a fixed one."""
    try:
        return not any(is_recbole(file) for file in files_of(source))
    except DataError:  # the reader reports a file that is not there
        return True


def _refuse_idle_columns(columns: Iterable[str], source: Source, side: str) -> None:
    """Refuse names for the columns of a table that is no text file, or is not given."""
    if tuple(columns) and not (is_text(source) and _is_plain(source)):
        raise DataError(
            f"data.{side}_columns does nothing: the {side} table is no text file without a header; "
            "remove it."
        )


def _require_described(table: Table, columns: list[str]) -> None:
    """Refuse a log without the feature columns of a side that has no table."""
    try:
        table.require(columns)
    except DataError as error:
        raise DataError(
            f"{error} Features and titles of a side without a table (data.users, data.items) are "
            "columns of the log."
        ) from None


def _require_of_events(table: Table, columns: list[str]) -> None:
    """Refuse a log that lacks the column of an event feature."""
    try:
        table.require(columns)
    except DataError as error:
        raise DataError(
            f"{error} Features of events (features.events) are columns of the log."
        ) from None


class _Found(NamedTuple):
    """What reading the columns of a log found besides their values.

    dropped: number of rows dropped for a missing id.
    kinds: number of rows of each kind of event.
    notes: sentences for the report.
    where: what errors call the remaining rows.
    beside: the other columns, unchecked.
    """

    dropped: int
    kinds: tuple[int, ...]
    notes: list[str]
    where: str
    beside: pl.DataFrame


class _Kinds(NamedTuple):
    """What became of the kinds of events.

    found: name, rows and use of each kind, as `ReadReport.kinds`.
    targets: how many rows are targets.
    """

    found: tuple[tuple[str, int, str], ...] = ()
    targets: int = 0

    def listed(self) -> list[str]:
        """Return each kind with its number of rows."""
        return [f"{name!r} ({rows:,})" for name, rows, _ in self.found]

    def absent(self, column: str) -> tuple[str, ...]:
        """Return a warning about kinds in the schema that no row has."""
        names = [repr(name) for name, rows, _ in self.found if not rows]
        if not names:
            return ()
        return (f"no row of column '{column}' is of the kind {' or '.join(names)} (data.events)",)


def _kinds(codes: pl.Series, read: Sequence[int], schema: Schema) -> _Kinds:
    """Return what became of each kind.

    codes: the kinds of the kept rows.
    read: how many rows of each kind were read.
    """
    kept = np.bincount(codes.to_numpy(), minlength=len(schema.events))
    found = tuple(
        (name, int(before if kind.drop else after), kind.use())
        for (name, kind), before, after in zip(schema.events.items(), read, kept, strict=True)
    )
    return _Kinds(found, sum(rows for _, rows, use in found if use == "target"))


def _checked_roles(
    table: Table,
    roles: Mapping[str, str],
    min_weight: float | None,
    null_ids: NullIds,
    written: TimeUnit | WrittenUnit,
    events: Events,
    beside: Iterable[str] = (),
    along: Collection[str] = (),
) -> tuple[pl.DataFrame, TimeUnit | None, _Found]:
    """Return the columns that play a role, checked, typed and named by it, and the unit of times.

    The column of kinds is named "kind" and holds positions in the table `events`.

    written: the unit that the schema gives.
    beside: other columns to read.
    along: those of them that are event features, and may hold lists where the items are lists.
    """
    table.require(roles.values())
    kinds: tuple[int, ...] = ()
    apart = None if table.text is None else table.text.item_separator
    if (table.recbole_types or {}).get(roles.get("item", "")) == "token_seq":
        apart = " "
    loaded, where, notes = unfolded(
        table.load([*dict.fromkeys(roles.values()), *beside]), roles, apart, table.where, along
    )
    loaded, dropped = with_ids(
        loaded,
        [roles[role] for role in ("user", "item") if role in roles],
        null_ids,
    )
    if dropped:
        where = counted_without(where, dropped)
    columns = {column.name: column for column in loaded.get_columns()}
    del loaded
    unit: TimeUnit | None = None
    checked: list[pl.Series] = []
    for role, name in roles.items():
        # Drop the raw column: one log may take most of the memory.
        shared = role == "weight" and roles.get("event") == name
        column = columns[name] if shared else columns.pop(name)
        if role == "time":
            column = typed_text(table.with_points(column)) if table.text is not None else column
            column, unit = checked_times(column, where, written)
        elif role == "weight":
            column = checked_weights(table.with_points(column), where, min_weight)
        elif role == "split":
            column = checked_split(column, where)
        elif role == "event":
            column = typed_text(table.with_points(column)) if table.text is not None else column
            column, kinds = coded(column, events, where)
        else:
            column = exact_text(column) if table.text is not None else column
            column = given_ids(column, where, null_ids)
            if table.text is not None:
                notes += text_among_numbers(column, where)
        checked.append(column.alias("kind" if role == "event" else role))
    others = pl.DataFrame(list(columns.values()))
    return pl.DataFrame(checked), unit, _Found(dropped, kinds, notes, where, others)


def _lines_of(
    table: Table,
    frame: pl.DataFrame,
    ids: pl.Series,
    features: Iterable[Feature],
    dropped: int,
) -> list[str]:
    """Return sentences about the table of one side: what was left out, and words like NULL."""
    notes = [f"{table.where}: written with {table.text.line()}."] if table.text is not None else []
    if dropped:
        notes.append(f"{table.where}: {counted(dropped, 'row')} without an id left out.")
    if table.text is not None:
        notes += text_among_numbers(ids, table.where)
    for feature in features:
        column = frame[feature.name]
        if feature.kind != "categorical" or column.dtype != pl.String:
            continue
        words = column.filter(column.is_in(NULL_WORDS))
        if len(words):
            notes.append(
                f"{table.where}: column '{feature.name}': {words[0]!r} is read as a value, "
                f"{counted(len(words), 'time')}; if it means a missing one, set "
                f"data.null_values = [{as_toml(words[0])}]."
            )
    return notes


def _merge_repeats(frame: pl.DataFrame, tie: Tie) -> tuple[pl.DataFrame, int, int]:
    """Return the log without repeated rows, and the numbers of duplicates and of conflicts."""
    of_events = [name for name in frame.columns if name.startswith(PREFIX)]
    aside = (*of_events, *BESIDE)
    keys = [name for name in frame.columns if name not in ("weight", *aside)]
    hashes = frame.select(keys).hash_rows()
    ordered = np.sort(hashes.to_numpy())
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    del ordered
    if not len(repeated):
        return frame, 0, 0
    # Equal rows have equal hashes, so only these few need the exact but slow comparison.
    rows = hashes.is_in(repeated.implode()).arg_true()
    del hashes
    suspects = frame[rows].with_columns(rows.alias("place"))
    # Candidates are sorted by their values, so that the order of rows changes nothing.
    largest = [name for name in ("weight", *of_events, *VERSION.values()) if name in frame.columns]
    order = ["place"] if tie == "file" else [*largest, "place"]
    descending = [True] if tie == "file" else [*(True for _ in largest), False]
    ranked = suspects.sort(order, descending=descending, nulls_last=True)
    kept = ranked.unique(keys, keep="first", maintain_order=True)
    distinct = suspects.n_unique([name for name in frame.columns if name not in aside])
    mask = np.ones(frame.height, dtype=bool)
    mask[rows.to_numpy()] = False
    mask[kept["place"].to_numpy()] = True
    return frame.filter(pl.Series(mask)), suspects.height - distinct, distinct - kept.height
