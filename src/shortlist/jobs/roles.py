"""Which events are for training, validation and test? The one-machine splits, on parts of users."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shortlist.data import splits
from shortlist.data.dataset import Dataset, split_keys
from shortlist.data.event_columns import written
from shortlist.data.interactions import Interactions, Role
from shortlist.data.kind_column import named
from shortlist.data.log_features import ROW, VERSION
from shortlist.data.schema import Schema
from shortlist.data.vocabulary import hash_ids
from shortlist.errors import SplitError
from shortlist.jobs.engine import Engine, Frame
from shortlist.jobs.reading import Read
from shortlist.sections.kinds import ColdItems

SPLITS = ("leave-last-out", "global-time", "random", "cold-items", "column")
"""The kinds of splits that can be computed per part, from a few facts of the whole log."""

OF_MET = ("user", "item", "time", "split", "line", *VERSION.values())
"""The columns of events that only count as met."""

BUCKETS = 65_536
"""Number of ranges in which times are counted, to find the range of a quantile."""


@dataclass(frozen=True)
class Cuts:
    """The facts of the whole log that a split of some of its users needs.

    kind: kind of the split, one of SPLITS.
    at: `split.at` of the recipe, or None.
    seed: seed of random splits.
    carved: the split column names no validation rows, so that they are drawn.
    moments: global-time: the times from which events are for validation and for test.
    held: global-time: the times of the first events for validation and for test.
    which: cold-items: which items are held out, "random" or "newest".
    items: cold-items: Parquet file with columns item and role of the held-out items.
    """

    kind: str
    at: Any = None
    seed: int = 0
    carved: bool = False
    moments: tuple[Any, Any] = (None, None)
    held: tuple[Any, Any] = (None, None)
    which: ColdItems = "random"
    items: Path | None = None


def log_schema(read: pa.Schema, columns: Schema) -> pa.Schema:
    """Return the schema of a prepared log.

    read: schema of the rows before they get roles.
    columns: the schema for `Dataset.part`.
    """
    described = columns.user_features or columns.item_features
    kept = [field for field in read if described or field.name != "line"]
    added = [pa.field("place", pa.int32()), pa.field("role", pa.int8())]
    met = [pa.field("met", pa.bool_())] if _parts_met(columns) else []
    return pa.schema([*kept, *added, *met])


def _parts_met(columns: Schema) -> bool:
    """Return whether some events only count as met and are kept apart from the others."""
    apart = any(kind.seen and not kind.read for kind in columns.events.values())
    return apart or columns.min_weight is not None


def with_roles(table: pa.Table, *, columns: Schema, cuts: Cuts) -> pa.Table:
    """Step: return the events of whole users, merged and in order, with their places and roles.

    Events that only count as met (below min_weight, or of a kind that is not read) are marked in
    column `met`. They have places of their own, no event features and, with min_weight, a weight
    just below it. Column `kind` is the code in `Kinds`; for events that only count as met, -1 minus
    the kind's place in the recipe's table of kinds.

    columns: the schema for `Dataset.part`.
    cuts: the facts of the whole log that the split needs.
    """
    if not table.num_rows:
        return log_schema(table.schema, columns).empty_table()
    data, frame, others = _loaded(table, columns)
    log = _with_roles(data, cuts)
    events = frame.with_columns(
        place=pl.Series(_places(log)),
        role=pl.Series(log.role, dtype=pl.Int8),
        **written(data.log.columns, data.event_values),
    )
    if data.met is None or others is None:
        return events.select(log_schema(table.schema, columns).names).to_arrow()
    met, roles = data.met, _roles_of_met(data, log, cuts)
    below = 1.0
    if columns.min_weight is not None:
        below = float(np.nextafter(np.float32(columns.min_weight), np.float32(-np.inf)))
    besides = {
        **{name: others[name] for name in OF_MET if name in others},
        "weight": pl.Series([below], dtype=pl.Float64).new_from_index(0, len(met)),
        "place": _places(met),
        "role": roles,
        "met": np.ones(len(met), dtype=np.bool_),
    }
    if "kind" in others.columns:
        besides["kind"] = -1 - others["kind"]
    if "session" in events.columns:  # Not used for these events: any value of the type will do.
        besides["session"] = pl.Series([table["session"][0].as_py()]).new_from_index(0, len(met))
    names = log_schema(table.schema, columns).names
    events = events.with_columns(met=pl.lit(value=False)).select(names)
    missing = [pl.lit(None).alias(name) for name in data.log.columns]
    rest = pl.DataFrame(besides).with_columns(missing).select(names).cast(events.schema)
    return pl.concat([events, rest]).to_arrow()


def cuts_of(
    engine: Engine,
    frame: Frame,
    columns: Schema,
    scratch: Path,
    read: pa.Schema,
    plain: Cuts,
) -> Cuts:
    """Return the facts of the whole log that the split needs.

    global-time: exact quantiles; times are counted by ranges, then sorted within one range.
    cold-items: the held-out items, chosen from a table with one row per item.
    Other kinds need no facts.

    frame: parts of whole users.
    columns: the schema for `Dataset.part`.
    scratch: a folder for temporary files.
    read: schema of the rows.
    plain: the settings of the split.
    Errors: SplitError.
    """
    if plain.kind == "cold-items":
        return _cold_items(engine, frame, columns, scratch, read, plain)
    if plain.kind != "global-time":
        return plain
    time = read.field("time").type if columns.time is not None else None
    if time is None:
        raise SplitError("split.kind 'global-time' needs data.time")
    folder = scratch / "times"
    folder.mkdir()
    engine.write(
        engine.each(frame, partial(times_of, columns=columns), pa.schema([("time", time)])), folder
    )
    times = _Times(engine, engine.read(folder), time)
    at = 0.9 if plain.at is None else plain.at
    test = times.at(int(times.count * at)) if isinstance(at, float) and 0 < at < 1 else at
    before = times.before(test)
    splits.check_moment(at, before, times.count, times.low, times.high)
    validation = times.at(int(before * (before / times.count)))
    if times.before(validation) == 0 and not columns.events:
        raise SplitError(splits.NO_TRAINING_ROW)
    held = tuple(times.at(times.before(moment)) for moment in (validation, test))
    return Cuts(plain.kind, plain.at, plain.seed, plain.carved, (validation, test), held)


def _cold_items(
    engine: Engine, frame: Frame, columns: Schema, scratch: Path, read: pa.Schema, plain: Cuts
) -> Cuts:
    """Choose the items that are held out with all their events, and write them into a file."""
    newest = plain.which == "newest"
    if newest and columns.time is None:
        raise SplitError("split.items = 'newest' needs data.time")
    time = read.field("time").type if newest else pa.int64()
    schema = pa.schema(
        {"item": read.field("item").type, "target": pa.bool_()}
        | ({"first": time} if newest else {})
    )
    step = partial(items_of, columns=columns, newest=newest)
    found = engine.collected(
        engine.whole(engine.each(frame, step, schema), "item", add_items, schema)
    )
    items = pl.DataFrame(pl.from_arrow(found)).filter("target").sort("item")
    keys = items["first"].to_numpy() if newest else hash_ids(items["item"], plain.seed + 1)
    log = Interactions(np.zeros(len(items), np.int32), np.arange(len(items), dtype=np.int32), 1)
    roles = splits.cold_items(log, keys, 0.8 if plain.at is None else plain.at)
    held = items.select("item", role=pl.Series(roles)).filter(pl.col("role") > Role.TRAIN)
    held.write_parquet(scratch / "cold.parquet")
    return replace(plain, items=scratch / "cold.parquet")


def items_of(table: pa.Table, *, columns: Schema, newest: bool) -> pa.Table:
    """Step: return each item, whether it has a target and, if `newest`, its first time."""
    if not table.num_rows:
        empty = table.select(["item", "time"] if newest else ["item"])
        return empty.rename_columns(["item", "first"][: empty.num_columns]).append_column(
            "target", pa.array([], pa.bool_())
        )
    data, *_ = _loaded(table, columns)
    items = len(data.item_ids)
    found = pl.DataFrame(
        {"item": data.item_ids, "target": np.bincount(data.log.targets.item, minlength=items) > 0}
    )
    if newest:
        found = found.with_columns(first=splits.first_seen(items, data.log, data.met))
    return found.to_arrow()


def add_items(table: pa.Table) -> pa.Table:
    """Step: merge the rows of each item of several parts into one."""
    frame = pl.DataFrame(pl.from_arrow(table))
    first = [pl.col("first").min()] if "first" in frame.columns else []
    return frame.group_by("item").agg(pl.col("target").any(), *first).to_arrow()


def refuse_grouped(engine: Engine, read: Read, users: Frame, plain: Cuts) -> None:
    """Refuse lines that are grouped by user where the split needs an order across users.

    Lines are grouped if there are as many runs of lines of one user as users.

    read: the log in the order of its lines.
    users: its rows in parts of whole users.
    Errors: SplitError, as `Dataset.split` raises it.
    """
    user = read.schema.field("user").type
    schema = pa.schema(
        {"line": pa.int64(), "first": user, "last": user, "runs": pa.int64(), "events": pa.int64()}
    )
    step = partial(runs_of, columns=read.columns, starts=read.starts)
    found = engine.collected(engine.each(read.frame, step, schema))
    runs = pl.DataFrame(pl.from_arrow(found)).sort("line")
    joined = int((runs["first"][1:] == runs["last"][:-1]).sum())
    counted = pa.schema({"users": pa.int64()})
    sizes = engine.collected(engine.each(users, partial(users_of, columns=read.columns), counted))
    number = sum(sizes["users"].to_pylist())
    if runs["events"].sum() > number > 1 and runs["runs"].sum() - joined == number:
        newest = plain.kind == "cold-items"
        raise splits.grouped_by_user(*(splits.OF_NEWEST if newest else splits.AT_A_MOMENT))


def runs_of(table: pa.Table, *, columns: Schema, starts: tuple[int, ...]) -> pa.Table:
    """Step: return a row for each slice with events: its first line and user, last user, and runs.

    starts: the first line of each slice of the log. A part can hold slices that are not neighbours.
    """
    data, *_ = _loaded(table, columns)
    line = data.log.time
    assert line is not None
    order = np.argsort(line)
    line, user = line[order], data.log.user[order]
    _, first = np.unique(np.searchsorted(starts, line, side="right"), return_index=True)
    ends = np.append(first[1:], len(line))[: len(first)]
    changes = np.concatenate([[0], np.cumsum(np.diff(user) != 0)])
    return pl.DataFrame(
        {
            "line": line[first],
            "first": data.user_ids.gather(user[first]),
            "last": data.user_ids.gather(user[ends - 1]),
            "runs": 1 + changes[ends - 1] - changes[first],
            "events": ends - first,
        }
    ).to_arrow()


def users_of(table: pa.Table, *, columns: Schema) -> pa.Table:
    """Step: return how many users of a part have events of the log."""
    if not table.num_rows:
        return pa.table({"users": [0]})
    data, *_ = _loaded(table, columns)
    return pa.table({"users": [int(np.count_nonzero(np.diff(data.log.indptr)))]})


def times_of(table: pa.Table, *, columns: Schema) -> pa.Table:
    """Step: return the times of the targets of whole users."""
    if not table.num_rows:
        return table.select(["time"])
    data, *_ = _loaded(table, columns)
    return pa.table({"time": data.log.targets.time})


def times_in_ranges(table: pa.Table, *, edges: tuple[Any, ...]) -> pa.Table:
    """Step: count the times in each range, from its edge (included) to the next (excluded)."""
    time = table["time"].to_numpy()
    place = np.searchsorted(np.array(edges, dtype=time.dtype), time, side="right") - 1
    ranges, counts = np.unique(place, return_counts=True)
    return pa.table({"range": ranges.astype(np.int64), "count": counts.astype(np.int64)})


def times_within(table: pa.Table, *, low: Any, high: Any) -> pa.Table:
    """Step: return the distinct times from `low` to `high`, both included, with their counts."""
    time = table["time"].to_numpy()
    values, counts = np.unique(time[(time >= low) & (time <= high)], return_counts=True)
    return pa.table({"time": values, "count": counts.astype(np.int64)})


class _Times:
    """The times of a log in parts, used as one sorted array.

    low: the lowest time.
    high: the highest time.
    count: number of times.
    """

    def __init__(self, engine: Engine, frame: Frame, kind: pa.DataType) -> None:
        self._engine, self._frame, self._kind = engine, frame, kind
        ends = pa.schema([("low", kind), ("high", kind), ("count", pa.int64())])
        found = engine.collected(engine.each(frame, ends_of, ends))
        self.low, self.high = min(found["low"].to_pylist()), max(found["high"].to_pylist())
        self.count = sum(found["count"].to_pylist())
        whole = pa.types.is_integer(kind)
        steps = range(BUCKETS + 1)
        if whole:
            edges = {self.low + (self.high - self.low) * step // BUCKETS for step in steps}
        else:
            edges = set(np.linspace(self.low, self.high, BUCKETS + 1).tolist())
        self._edges = tuple(sorted(edges))
        counted = pa.schema([("range", pa.int64()), ("count", pa.int64())])
        step = partial(times_in_ranges, edges=self._edges)
        table = engine.collected(engine.each(frame, step, counted))
        self._upto = np.zeros(len(self._edges) + 1, dtype=np.int64)
        np.add.at(self._upto, table["range"].to_numpy() + 1, table["count"].to_numpy())
        self._upto = np.cumsum(self._upto)

    def at(self, place: int) -> Any:
        """Return the time at a position of the sorted times."""
        here = int(np.searchsorted(self._upto, place, side="right")) - 1
        values, counts = self._within(here)
        upto = self._upto[here] + np.cumsum(counts)
        return values[np.searchsorted(upto, place, side="right")].item()

    def before(self, moment: Any) -> int:
        """Return how many times are below a moment."""
        here = int(np.searchsorted(np.array(self._edges), moment, side="right")) - 1
        if here < 0:
            return 0
        values, counts = self._within(here)
        return int(self._upto[here] + counts[values < moment].sum())

    def _within(self, here: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the distinct times of a range, ascending, and their counts."""
        low = self._edges[here]
        high = self._edges[here + 1] if here + 1 < len(self._edges) else self.high
        schema = pa.schema([("time", self._kind), ("count", pa.int64())])
        step = partial(times_within, low=low, high=high)
        table = self._engine.collected(self._engine.each(self._frame, step, schema))
        values, place = np.unique(table["time"].to_numpy(), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, place, table["count"].to_numpy())
        return values, counts


def ends_of(table: pa.Table) -> pa.Table:
    """Step: return the lowest and the highest time and the count, or no row without times."""
    time = np.sort(table["time"].to_numpy())
    ends = {"low": time[:1], "high": time[::-1][:1]}
    return pa.table({**ends, "count": np.array([len(time)])[: len(time[:1])]})


def _loaded(table: pa.Table, columns: Schema) -> tuple[Dataset, pl.DataFrame, pl.DataFrame | None]:
    """Return a part as `Dataset.part` does: the data set, and its events and met rows as tables."""
    frame = pl.DataFrame(pl.from_arrow(table))
    lines = None
    if "line" in frame.columns:
        frame = frame.sort("line")
        lines, frame = frame["line"], frame.drop("line")
    if columns.events:
        frame = frame.with_columns(kind=named(frame["kind"].to_numpy(), columns.events))
    data, events, met = Dataset.part(frame, columns)
    if lines is None or not data.described:
        return data, events, met
    events = events.with_columns(lines.gather(events[ROW]).alias("line"))
    if met is not None:
        met = met.with_columns(lines.gather(met[ROW]).alias("line"))
    for side, said in data.described.items():
        of = said.table[VERSION[side]]  # The version in the whole log, read as a feature of a part.
        events = events.with_columns(of.gather(said.log))
        met = met if met is None or said.met is None else met.with_columns(of.gather(said.met))
    return data, events, met


def _with_roles(data: Dataset, cuts: Cuts) -> Interactions:
    """Return the log with the roles of `Dataset.split`, which here takes facts from `cuts`."""
    log = data.log
    if cuts.kind == "leave-last-out":
        roles = splits.leave_last_out(log)
    elif cuts.kind == "global-time":
        assert log.time is not None
        roles = splits.at_moments(log.time, *cuts.moments)
    elif cuts.kind == "random":
        keys = split_keys(data, log, cuts.seed)
        roles = splits.random_hold_out(log, keys, 0.8 if cuts.at is None else cuts.at)
    elif cuts.kind == "cold-items":
        roles = _roles_of_items(data, cuts)[log.item]
    else:
        assert data.split_values is not None
        roles = splits.from_column(data.split_values, data.schema.split or "split", ())
        if cuts.carved:
            roles, _ = splits.drawn_validation(log, roles, split_keys(data, log, cuts.seed))
    return replace(log, role=roles)


def _roles_of_met(data: Dataset, log: Interactions, cuts: Cuts) -> NDArray[np.int8]:
    """Return the roles of the events that only count as met."""
    met = data.met
    assert met is not None
    if cuts.kind == "column":
        assert data.met_split_values is not None
        return splits.from_column(data.met_split_values, data.schema.split or "split", ())
    if cuts.kind == "cold-items":
        return _roles_of_items(data, cuts)[met.item]
    if cuts.kind == "random":
        return splits.random_hold_out(
            met, split_keys(data, met, cuts.seed), 0.8 if cuts.at is None else cuts.at
        )
    if cuts.kind == "global-time":
        assert met.time is not None
        roles = np.zeros(len(met), dtype=np.int8)
        for role, moment in zip((Role.VALIDATION, Role.TEST), cuts.held, strict=True):
            roles[met.time >= moment] = role
        return roles
    return splits.known_before(log.targets, met, one_moment=False)


def _roles_of_items(data: Dataset, cuts: Cuts) -> NDArray[np.int8]:
    """Return the role of each item of a part, int8 [items]; train if it is not held out."""
    assert cuts.items is not None
    held = pl.read_parquet(cuts.items)
    ids = data.item_ids.alias("item").to_frame()
    role = ids.join(held, on="item", how="left", maintain_order="left")["role"]
    return role.fill_null(int(Role.TRAIN)).to_numpy()


def _places(log: Interactions) -> NDArray[np.int32]:
    """Return the position of each event among those of its user, int32 [events]."""
    return (np.arange(len(log)) - log.indptr[log.user]).astype(np.int32)
