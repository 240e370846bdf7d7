"""How is a log read in parts? Facts about the whole log first, then the rows of slices of files."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shortlist.data import splits
from shortlist.data.event_columns import PREFIX, names_of
from shortlist.data.files import files_of, hive_values
from shortlist.data.id_columns import align_ids, with_ids
from shortlist.data.interactions import Role
from shortlist.data.kind_column import coded, named
from shortlist.data.log_features import (
    VERSION,
    Side,
    Versions,
    columns_of,
    described_sides,
    distinct_rows,
    read_versions,
)
from shortlist.data.readers import (
    is_text,
    lighter,
    read_described,
    read_entities,
    read_roles,
    refuse_unit_of_dates,
)
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.tables import Slice, Table, open_table
from shortlist.data.text import TextFormat, suffix_of
from shortlist.data.times import TimeSizes, refuse_beyond
from shortlist.data.unfolding import may_unfold
from shortlist.durations import TimeUnit, WrittenUnit
from shortlist.errors import DataError, JobError
from shortlist.jobs.engine import Engine, Frame

ROWS = 4_000_000
"""Approximate upper limit of the rows in a slice."""

SHARES = 16
"""A slice has at least about ROWS / SHARES rows, so that there are slices for all parts."""

KNOWN = {"user", "item", "time", "weight", "session", "split", "event"}
"""The roles of columns that steps can read."""

VERSIONS = pa.schema([("side", pa.string()), ("frame", pa.binary())])
"""Schema of descriptions of a side: a data frame as bytes, whatever types its columns have."""

TEXT = pa.schema([("json", pa.string())])
"""Schema of small tables with one JSON text per row: a slice, or facts about a slice."""

Roles = Mapping[str, str]


@dataclass(frozen=True)
class Read:
    """A log in parts.

    frame: columns user and item, time, weight, session, split and kind if the log has them, and
        `event: NAME` for each event feature that has a column of its own (text or Float64).
    schema: Arrow schema of the frame.
    columns: the schema for `Dataset.part`.
    unit: unit of the times, or None.
    text: format of the log if it is a text file, else None.
    rows: number of rows in the files.
    carved: the split column names no validation rows, so that they are drawn from the training
    rows.
    starts: the number of rows before each slice that was read.
    versions: what the log says about the sides without a table; the frame then has the lines and
        `log_features.VERSION` of its rows.
    """

    frame: Frame
    schema: pa.Schema
    columns: Schema
    unit: TimeUnit | None
    text: TextFormat | None
    rows: int
    carved: bool
    starts: tuple[int, ...]
    versions: Mapping[Side, Versions]


def read_in_parts(
    engine: Engine,
    source: Path | list[Path],
    schema: Schema,
    scratch: Path,
    tables: Mapping[str, Path | None],
) -> Read:
    """Read a log in slices, with the checks of `read_log`.

    The parts read Parquet files. This process reads other sources whole, because the types of a
    text file are known only after reading all of it.

    source: the log's file, files or folder.
    schema: the recipe's schema.
    scratch: a folder for temporary files.
    tables: paths of the tables "users" and "items", whose ids must have the types of the log's.
    Errors: DataError with file and row; JobError for a column that jobs cannot read.
    """
    table = open_table(source, "interactions", schema.text)
    table.require(schema.roles().values())
    if unknown := sorted(schema.roles().keys() - KNOWN):
        raise JobError(f"jobs do not read the column of data.{unknown[0]}: use shortlist train")
    sides = described_sides(schema, tables["users"], tables["items"])
    of_events = {PREFIX + feature.name: feature for feature in event_columns(schema)}
    log = _Sliced(source, schema.roles(), of_events, None, {})
    own = _is_sliced(log, sides, schema)
    if not own:
        log = _copied(log, table, sides, schema, scratch)
    roles, features, unit, versions = log.roles, log.features, log.unit, log.versions
    found = _facts(engine, _slices(log.source, engine.parts), roles, schema, sides)
    if own and "time" in roles:
        unit = _unit(found, table.where, schema)
    kept = [part for part in found if part["kept"]]
    if not kept:
        raise DataError(f"{table.where}: there are no rows; nothing can be learned from it.")
    reading: WrittenUnit | TimeUnit = unit or "auto" if own else "number"
    first = Slice(Path(kept[0]["path"]), kept[0]["first"], kept[0]["rows"])
    sample, unit_read, _ = read_roles(
        first if schema.null_ids == "drop" else Slice(first.path, first.first, 1),
        *(roles, "interactions", schema, reading, schema.min_weight, schema.events),
        features.values(),
    )
    sample = _renamed(sample, features)
    unit = unit or unit_read
    if "time" in roles and own:
        refuse_unit_of_dates(table.where, schema, unit_read)
    types = dict(sample.schema) | _id_types(sample, schema, source, tables)
    if schema.order == "file":
        types["time"], unit = pl.Int64(), "line"
    if _needs_lines(schema, sides):
        types["line"] = pl.Int64()
    types |= {VERSION[side]: pl.Int32() for side in sides}
    files: dict[Side, Path] = {}
    if sides and own:
        versions, files = _versions(engine, kept, roles, schema, types, sides, scratch)
    empty = pl.DataFrame(schema=types).to_arrow()
    arrow = pa.schema([(field.name, _plain(field.type)) for field in empty.schema])
    typed = partial(
        typed_rows,
        roles=dict(roles),
        schema=schema,
        unit=reading,
        types={name: str(kind) for name, kind in types.items()},
        features=features,
        versions=files,
    )
    slices = _numbered(kept)
    frame = engine.each(engine.rows(_texts(slices)), typed, arrow)
    return Read(
        frame,
        arrow,
        _of_parts(schema, types),
        unit,
        table.text,
        rows=sum(part["rows"] for part in found),
        carved=_carved(found, roles, schema),
        starts=tuple(part["before"] for part in slices),
        versions=versions,
    )


@dataclass(frozen=True)
class _Sliced:
    """A log whose slices can be read: its own files, or a copy in one Parquet file.

    source: the files.
    roles: column names by role.
    features: event features, named as in the files, by their columns in the result.
    unit: unit of the times, if it is known.
    versions: what the log says about the sides without a table, if it is known.
    """

    source: Path | list[Path]
    roles: Roles
    features: Mapping[str, EventFeature]
    unit: TimeUnit | None
    versions: Mapping[Side, Versions]


def _copied(
    log: _Sliced, table: Table, sides: Sequence[Side], schema: Schema, scratch: Path
) -> _Sliced:
    """Read a log whole, and return a copy of its checked columns. table: the opened log."""
    frame, unit, _ = read_roles(
        *(log.source, log.roles, "interactions", schema, schema.time_unit, schema.min_weight),
        *(schema.events, log.features.values()),
    )
    refuse_unit_of_dates(table.where, schema, unit)
    if unit is not None and unit == schema.time_unit:
        refuse_beyond(table.where, str(schema.time), frame["time"], unit)
    features = {name: replace(feature, name=name) for name, feature in log.features.items()}
    versions: dict[Side, Versions] = {}
    if sides:
        raw, opened, where = read_described(log.source, log.roles, schema, sides)
        for side, rows in raw.items():
            versions[side] = _checked(opened, rows, log.roles[side], schema, side, where)
            name = VERSION[side]
            frame = frame.with_columns(pl.Series(name, versions[side].of))
            features[name] = EventFeature(name, "numeric", known="after")
    if "kind" in frame.columns:
        frame = frame.with_columns(kind=named(frame["kind"].to_numpy(), schema.events))
    frame.write_parquet(scratch / "log.parquet")
    roles = {role: "kind" if role == "event" else role for role in log.roles}
    return _Sliced(scratch / "log.parquet", roles, features, unit, versions)


def event_columns(schema: Schema) -> list[EventFeature]:
    """Return the event features that have a column of their own, beside those of the roles."""
    names = names_of(schema)
    return [feature for feature in schema.event_features if feature.name in names]


def _checked(
    table: Table, raw: pl.DataFrame, id_column: str, schema: Schema, side: Side, where: str
) -> Versions:
    """Return the versions of a side from rows of `read_described`. id_column: for errors."""
    versions, _ = read_versions(
        *(table, raw["id"].alias(id_column), raw.drop("id"), schema, side, where)
    )
    return versions


def _versions(
    engine: Engine,
    kept: Sequence[Mapping[str, Any]],
    roles: Roles,
    schema: Schema,
    types: Mapping[str, Any],
    sides: Sequence[Side],
    scratch: Path,
) -> tuple[dict[Side, Versions], dict[Side, Path]]:
    """Return what slices say about sides without a table, and files of it for `typed_rows`.

    Each slice gives its distinct descriptions, which this process merges and checks.
    """
    ids = {side: str(types[side]) for side in sides}
    step = partial(versions_of, roles=dict(roles), schema=schema, sides=tuple(sides), types=ids)
    made = engine.collected(engine.each(engine.rows(_texts(kept)), step, VERSIONS))
    versions: dict[Side, Versions] = {}
    files: dict[Side, Path] = {}
    for side in sides:
        told = made.filter(pc.equal(made["side"], side))["frame"].to_pylist()
        distinct, _ = distinct_rows(pl.concat([pl.read_ipc(frame) for frame in told]))
        files[side] = scratch / f"{side}.arrow"
        distinct.write_ipc(files[side])
        _, table, where = read_described(_slice(kept[0]), roles, schema, (side,))
        try:
            versions[side] = _checked(table, distinct, roles[side], schema, side, where)
        except DataError:
            for part in kept:  # The slice's own error has the row in its file.
                raw, table, where = read_described(_slice(part), roles, schema, (side,))
                _checked(table, raw[side], roles[side], schema, side, where)
            raise
    return versions, files


def versions_of(
    table: pa.Table,
    *,
    roles: Roles,
    schema: Schema,
    sides: tuple[Side, ...],
    types: Mapping[Side, str],
) -> pa.Table:
    """Step: return the distinct descriptions in each slice, a row for each side and slice.

    table: one slice per row, as JSON.
    types: polars types of the ids.
    """
    columns: dict[str, list[Any]] = {"side": [], "frame": []}
    for text in table["json"].to_pylist():
        raw, _, where = read_described(_slice(json.loads(text)), roles, schema, sides)
        for side, rows in raw.items():
            ids = _of_type(rows["id"], types[side], where, roles[side])
            distinct, _ = distinct_rows(rows.with_columns(ids))
            written = io.BytesIO()
            distinct.write_ipc(written)
            columns["side"].append(side)
            columns["frame"].append(written.getvalue())
    return pa.table(columns, schema=VERSIONS)


def _renamed(frame: pl.DataFrame, features: Mapping[str, EventFeature]) -> pl.DataFrame:
    """Return rows whose event features are named as in the result. features: by that name."""
    return frame.rename({PREFIX + feature.name: name for name, feature in features.items()})


def _of_parts(schema: Schema, types: Mapping[str, Any]) -> Schema:
    """Return the schema with which `Dataset.part` reads rows of these columns."""
    there: Any = {name: name for name in ("time", "weight", "session", "split") if name in types}
    there |= {"event": "kind", "events": schema.events} if "kind" in types else {}
    return Schema(
        user="user",
        item="item",
        **there,
        time_unit="number" if "time" in types else "auto",
        min_weight=schema.min_weight,
        tie=schema.tie,
        null_ids="keep",
        user_features=_version_of("user", types),
        item_features=_version_of("item", types),
        event_features=tuple(
            replace(feature, name=PREFIX + feature.name) for feature in event_columns(schema)
        ),
    )


def _version_of(side: Side, types: Mapping[str, Any]) -> tuple[Feature, ...]:
    """Return the feature of a side that stands for its description, if the log describes it."""
    return (Feature(VERSION[side], "numeric"),) if VERSION[side] in types else ()


def facts_of(
    table: pa.Table, *, roles: Roles, schema: Schema, sized: bool, counted: bool
) -> pa.Table:
    """Step: return the facts about slices that are needed before their rows are read.

    table: one slice per row, as JSON.
    roles: column names by role.
    schema: the recipe's schema.
    sized: also return the range of the times, which tells their unit.
    counted: also count the rows that are kept.
    """
    facts = []
    for text in table["json"].to_pylist():
        part = json.loads(text)
        wanted = {"time"} if sized else set()
        wanted |= {"user", "item"} if counted else set()
        if "split" in roles:
            wanted |= {"split", "weight"} if schema.min_weight is not None else {"split"}
            wanted |= {"event"} & {*roles}
        facts.append(part | {"kept": part["rows"], "sizes": None, "splits": []})
        if not wanted:
            continue
        names = [roles[role] for role in sorted(wanted)]
        loaded = open_table(_slice(part), "interactions").load(names)
        if counted:
            loaded, _ = with_ids(loaded, [roles["user"], roles["item"]], schema.null_ids)
            facts[-1]["kept"] = loaded.height
        if sized:
            times = loaded[roles["time"]]
            whole = times.dtype.is_integer()
            times = times.cast(pl.Int64 if whole else pl.Float64, strict=False).drop_nulls()
            times = times if whole else times.filter(times.is_finite())
            facts[-1]["sizes"] = asdict(TimeSizes.of(times)) if len(times) else None
        if "split" in roles:
            if schema.min_weight is not None:
                loaded = loaded.filter(~lighter(loaded[roles["weight"]], schema.min_weight))
            if "event" in roles:
                aimed = np.array([kind.target for kind in schema.events.values()])
                places = coded(loaded[roles["event"]], schema.events, part["path"]).codes
                loaded = loaded.filter(pl.Series(aimed[places.to_numpy()]))
            names = loaded[roles["split"]].cast(pl.String).drop_nulls().unique().sort().to_list()
            facts[-1]["splits"] = names
    return _texts(facts)


def typed_rows(
    table: pa.Table,
    *,
    roles: Roles,
    schema: Schema,
    unit: WrittenUnit | TimeUnit,
    types: Mapping[str, str],
    features: Mapping[str, EventFeature],
    versions: Mapping[Side, Path],
) -> pa.Table:
    """Step: return the rows of slices, checked, with columns named by their roles.

    table: one slice per row, as JSON.
    roles: column names by role.
    schema: the recipe's schema.
    unit: unit of the times.
    types: polars types of the result's columns, by role.
    features: event features, named as in the slices, by their columns in the result.
    versions: the file with the descriptions of each side that the slices describe.
    """
    frames = []
    for text in table["json"].to_pylist():
        part = json.loads(text)
        frame, _, where = read_roles(
            *(_slice(part), roles, "interactions", schema, unit, schema.min_weight),
            *(schema.events, features.values()),
        )
        frame = _renamed(frame, features)
        if versions:
            raw, *_ = read_described(_slice(part), roles, schema, versions)
            frame = frame.with_columns(_coded(raw[side], versions[side], side) for side in raw)
        frame = frame.with_columns(
            pl.col(name).cast(pl.Int32) for name in VERSION.values() if name in frame.columns
        )
        line = pl.int_range(part["before"], part["before"] + frame.height, dtype=pl.Int64)
        for name in ("time", "line"):
            if name in types and name not in roles:
                frame = frame.with_columns(line.alias(name))
        for role, kind in types.items():
            if str(frame.schema[role]) != kind:
                typed = _of_type(frame[role], kind, where, roles.get(role, role))
                frame = frame.with_columns(typed)
        frames.append(frame.select(list(types)))
    return pl.concat(frames).to_arrow()


def _of_type(column: pl.Series, kind: str, where: str, name: str) -> pl.Series:
    """Return a column in the type of the first file, which can be text where ids are numbers.

    name: name of the column in errors.
    Errors: DataError for another type.
    """
    given = str(column.dtype)
    if given == kind:
        return column
    if column.name not in ("id", "user", "item") or (given, kind) != ("Int64", "String"):
        raise DataError(
            f"{where}: column '{name}' is {given} here and {kind} in the first file; files that "
            "are read as one need the same types."
        )
    return column.cast(pl.String)


def _coded(rows: pl.DataFrame, path: Path, side: Side) -> pl.Series:
    """Return the version of each row of a slice: its place in the file of all descriptions."""
    known = pl.read_ipc(path)
    rows = rows.with_columns(pl.col("id").cast(known["id"].dtype))
    near = known["id"].is_in(rows["id"].unique().implode())
    few = known.filter(near)
    # Distinct rows are sorted, so that those of the file stay in order.
    _, of = distinct_rows(pl.concat([few, rows]))
    return near.arg_true().gather(of[few.height :]).cast(pl.Int32).alias(VERSION[side])


def _needs_lines(schema: Schema, sides: Collection[Side]) -> bool:
    """Return whether parts order rows by their lines before anything else.

    Rows that are equal in user, item, time and kind differ in their split or session, if at all,
    and nothing but their lines says which one comes first.
    """
    differ = schema.order != "file" and (schema.split or schema.session) is not None
    return schema.tie == "file" or bool(sides) or differ


def _is_sliced(log: _Sliced, sides: Collection[Side], schema: Schema) -> bool:
    """Return whether each slice can be read alone.

    All files must be Parquet with all columns, and one row one event. Categorical features of
    events and features of users and items must have one type in all files, as values are compared.
    """
    roles, features, files = log.roles, log.features.values(), files_of(log.source)
    if not all(suffix_of(file) == ".parquet" and not hive_values(file) for file in files):
        return False
    schemas = [pl.read_parquet_schema(file) for file in files]
    compared = {feature.name for feature in features if feature.kind == "categorical"}
    compared |= {name for side in sides for name in columns_of(schema, side)}
    columns = {*roles.values(), *(feature.name for feature in features), *compared}
    if not all(columns <= set(types) and not may_unfold(types[roles["item"]]) for types in schemas):
        return False
    return all(len({types[name] for types in schemas}) == 1 for name in compared)


def _slices(source: Path | list[Path], parts: int) -> list[dict[str, Any]]:
    """Return slices of whole row groups; at least as many as parts, if there are enough rows."""
    found: list[dict[str, Any]] = []
    files = {file: pq.read_metadata(file) for file in files_of(source)}
    share = sum(about.num_rows for about in files.values()) / parts
    wanted = min(max(share, ROWS / SHARES), ROWS)
    for file, about in files.items():
        first, rows = 0, 0
        for group in range(about.num_row_groups):
            rows += about.row_group(group).num_rows
            if rows and (rows >= wanted or group == about.num_row_groups - 1):
                found.append({"path": str(file.absolute()), "first": first, "rows": rows})
                first, rows = first + rows, 0
    return found


def _slice(part: Mapping[str, Any]) -> Slice:
    return Slice(Path(part["path"]), part["first"], part["rows"])


def _facts(
    engine: Engine,
    slices: Sequence[Mapping[str, Any]],
    roles: Roles,
    schema: Schema,
    sides: Collection[Side],
) -> list[dict[str, Any]]:
    """Return the result of `facts_of` for each slice, in the order of the slices."""
    kinds = (
        {pl.read_parquet_schema(part["path"])[roles["time"]] for part in slices[:1]}
        if ("time" in roles)
        else set()
    )
    sized = bool(kinds) and all(kind.is_numeric() for kind in kinds)
    lines = schema.order == "file" or _needs_lines(schema, sides)
    step = partial(
        facts_of,
        roles=dict(roles),
        schema=schema,
        sized=sized,
        counted=lines and schema.null_ids == "drop",
    )
    made = engine.collected(engine.each(engine.rows(_texts(slices)), step, TEXT))
    found = [json.loads(text) for text in made["json"].to_pylist()]
    place = {(part["path"], part["first"]): number for number, part in enumerate(slices)}
    return sorted(found, key=lambda part: place[part["path"], part["first"]])


def _numbered(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the slices, each with the number of rows kept before it."""
    before = np.concatenate([[0], np.cumsum([part["kept"] for part in parts])]).tolist()
    return [
        {"path": part["path"], "first": part["first"], "rows": part["rows"], "before": at}
        for part, at in zip(parts, before, strict=False)
    ]


def _unit(found: Sequence[Mapping[str, Any]], where: str, schema: Schema) -> TimeUnit | None:
    """Return the unit of numeric times; None for dates, whose type tells the unit."""
    name = str(schema.time)
    sizes = [TimeSizes(**part["sizes"]) for part in found if part["sizes"] is not None]
    if not sizes:
        return None if schema.time_unit == "auto" else schema.time_unit
    joined = TimeSizes.joined(sizes)
    if schema.time_unit == "auto":
        return joined.unit(name, where)
    refuse_beyond(where, name, pl.Series(name, [joined.low, joined.high]), schema.time_unit)
    return schema.time_unit


def _id_types(
    sample: pl.DataFrame, schema: Schema, source: Any, tables: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Return the types of ids after they were aligned with the tables of users and items.

    The tables are read with their features, so that a value of the wrong kind is refused here, as
    in a training, and not by a later stage.
    """
    found = {}
    for side in ("user", "item"):
        found[side] = sample.schema[side]
        path = tables.get(f"{side}s")
        if path is None:
            continue
        ids = read_entities(
            path,
            schema.id_of(f"{side}s"),
            getattr(schema, f"{side}_features"),
            schema.title if side == "item" else None,
            name=f"{side}s",
            text=schema.text_of(f"{side}s"),
            null_ids=schema.null_ids,
        )["id"]
        aligned, _ = align_ids(
            sample[side],
            ids,
            left_text=is_text(source),
            right_text=is_text(path),
            where=f"the {side}s table",
        )
        found[side] = aligned.dtype
    return found


def _carved(found: Sequence[Mapping[str, Any]], roles: Roles, schema: Schema) -> bool:
    """Return whether a split column names no validation rows. Errors: SplitError."""
    if "split" not in roles:
        return False
    names = sorted({name for part in found for name in part["splits"]})
    drawn = splits.from_column(np.array(names), schema.split or "split")
    return not bool((drawn == Role.VALIDATION).any())


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that engines use: text has 32-bit offsets."""
    return pa.string() if pa.types.is_large_string(kind) or kind == pa.string_view() else kind


def _texts(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.table({"json": [json.dumps(row) for row in rows]}, schema=TEXT)
