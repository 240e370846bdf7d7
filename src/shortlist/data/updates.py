"""New events for fitted data: the log and the vocabularies grow, and existing rows stay."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.event_columns import PREFIX, Values, taken_from, unknown_of
from shortlist.data.features import FeatureTable, encode
from shortlist.data.id_columns import align_ids
from shortlist.data.interactions import Interactions, Role
from shortlist.data.kinds import Kinds
from shortlist.data.log_features import ROW, VERSION, Side, Versions, ages_of, as_told, renewed
from shortlist.data.readers import is_text, read_log
from shortlist.data.remembered import Remembered
from shortlist.data.reports import ReadReport
from shortlist.data.schema import Schema
from shortlist.data.tables import Source
from shortlist.data.times import refuse_far, told
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Vocabulary, hash_ids, mix
from shortlist.durations import STEPS, in_units
from shortlist.errors import DataError, ModelError

SESSION_GAP = "30min"
"""New events without sessions start another session after this time without an event."""

NONE = np.zeros(0, dtype=np.bool_)


class Update(NamedTuple):
    """Data with new events, and what was added.

    data: the data, including the new events.
    events: number of events added to the log.
    repeated: number of events left out because they were there already.
    new_users, new_items: number of new ids.
    met: number of events added to `data.met`.
    described: number of users and items whose features the new events state.
    warnings: what is probably a mistake.
    fresh: which events of the log are new, bool [n].
    fresh_met: which events of `data.met` are new, bool.
    """

    data: TrainingData
    events: int
    repeated: int
    new_users: int
    new_items: int
    met: int = 0
    described: int = 0
    warnings: tuple[str, ...] = ()
    fresh: NDArray[np.bool_] = NONE
    fresh_met: NDArray[np.bool_] = NONE

    def line(self) -> str:
        """Return a sentence about what was added."""
        why = "below min_weight" if self.data.log.kinds is None else "of kinds that are not read"
        met = f"{self.met:,} {why}, kept as seen items of their users; " if self.met else ""
        described = f"{self.described:,} users and items described; " if self.described else ""
        return (
            f"{self.events:,} new events, {self.repeated:,} that were there already left out; "
            f"{met}{described}{self.new_users:,} new users, {self.new_items:,} new items "
            "(candidates after the next fit)."
            + "".join(f" Warning: {warning}." for warning in self.warnings)
        )


def read_events(
    data: TrainingData,
    source: Source,
    schema: Schema,
    *,
    described: Collection[Side] = (),
    learns: bool = False,
    of_store: bool = False,
) -> Update:
    """Read new events with the columns of the log and add them. Errors: DataError, ModelError.

    described: the sides whose features are columns of the log. Known users get the latest values.
        Known items keep theirs until the next fit, because their vectors were made from them; new
        items get those of the events.
    learns: as for `with_events`.
    of_store: the events come from a store in the log's unit, so times far from the log's are
        accepted: the log may be old.
    """
    # Use the unit of the log, whatever the new events alone suggest.
    known: Any = data.time_unit if data.time_unit not in (None, "line") else "auto"
    schema = replace(schema, split=None, time_unit=known)
    read = read_log(source, schema, only_met=True, described=described)
    frame, met, report = read.events, read.met, read.report
    _refuse_rewritten(data, report)
    frame = _coded_as(data, frame, schema)
    frame = _encoded_as(data, frame, read.values, report.where)
    if report.time_unit != data.time_unit:
        own = (
            "none"
            if data.log.time is None
            else told(pl.Series(data.log.time), data.time_unit or "number")
        )
        raise DataError(
            f"{report.where}: column '{schema.time}': its times run from {report.times}; those "
            f"of the bundle's log from {own}: give both in one unit"
        )
    if data.time_unit == "line":
        frame, met = _after(data, frame), None if met is None else _after(data, met)
    elif data.log.time is not None:
        times = frame["time"] if met is None else pl.concat([frame["time"], met["time"]])
        _refuse_fractions(report.where, str(schema.time), times, data.log.time)
        if not of_store:
            refuse_far(report.where, str(schema.time), times, data.log.time, known)
    strange: list[str] = []
    for side, known_ids in (("user", data.users.ids), ("item", data.items.ids)):
        given = frame[side] if met is None else pl.concat([frame[side], met[side]])
        _, ids = align_ids(
            known_ids, given, left_text=False, right_text=is_text(source), where=report.where
        )
        frame = frame.with_columns(ids.head(len(frame)).alias(side))
        met = None if met is None else met.with_columns(ids.tail(len(met)).alias(side))
        if len(ids) and not ids.is_in(known_ids.implode()).any():
            strange.append(
                f"0 of {ids.n_unique():,} {side}s of {report.where} are known (the bundle has "
                f"{known_ids[0]!r}, the file {ids[0]!r})"
            )
    if data.met is None:
        met = None
    found = {
        side: _newly_described(data, side, versions, frame, met, report)
        for side, versions in read.versions.items()
    }
    if "user" in found:
        data = replace(data, user_frame=found["user"][0])
    if "item" in found:
        data = replace(data, item_frame=found["item"][0])
    count = sum(count for _, count in found.values())
    came = with_events(data, frame, met, learns=learns)
    return came._replace(described=count, warnings=tuple(strange))


def _refuse_fractions(where: str, name: str, times: pl.Series, log: NDArray[Any]) -> None:
    """Refuse fractional times for a log of whole ones: rounding could make two events equal."""
    if log.dtype.kind != "i" or not times.dtype.is_float():
        return
    if (cut := times != times.floor()).any():
        raise DataError(
            f"{where}: column '{name}': {times.filter(cut)[0]} has a fraction, and the times of "
            "the bundle's log are whole: write new events as the log was written"
        )


def _newly_described(
    data: TrainingData,
    side: Side,
    versions: Versions,
    events: pl.DataFrame,
    met: pl.DataFrame | None,
    report: ReadReport,
) -> tuple[pl.DataFrame, int]:
    """Return a side's table with what new events say, and the number of ids they describe."""
    table = data.user_frame if side == "user" else data.item_frame
    if table is None:
        raise DataError(f"the data have no table of {side}s, so new events cannot add to it")
    ids: Vocabulary = getattr(data, f"{side}s")
    both = events if met is None else pl.concat([events, met], how="diagonal")
    time = both["time"].to_numpy() if "time" in both.columns else None
    keys = mix(hash_ids(both["user"]) * np.uint64(3) + hash_ids(both["item"], 1))
    ages, of = ages_of(time, keys, both[ROW].to_numpy()), both[VERSION[side]].to_numpy()
    newer = np.ones(len(of), dtype=bool)
    if time is not None:
        newer = time >= _last_times(data, side, len(ids))[ids.rows(both[side])]
    text = report.text is not None

    def told(by: NDArray[np.bool_]) -> pl.DataFrame:
        frame = as_told(versions.table, of[by], ages[by])
        _, known = align_ids(
            ids.ids, frame["id"], left_text=False, right_text=text, where=report.where
        )
        frame = frame.with_columns(known.alias("id"))
        if side == "user":
            return frame
        rows = ids.rows(frame["id"])
        described = frame["id"].is_in(table["id"].implode()).to_numpy()
        return frame.filter(((rows == 0) | (rows > ids.trained)) & ~described)

    older, newest = told(~newer), told(newer)
    encoders = (data.user_features if side == "user" else data.item_features).encoders
    count = pl.concat([older["id"], newest["id"]]).n_unique()
    return renewed(table, older, newest, encoders, report.where, text=text), count


def _last_times(data: TrainingData, side: Side, count: int) -> NDArray[np.float64]:
    """Return the time of the last event of each row of a side, [count + 1]; -inf for none."""
    last = np.full(count + 1, -np.inf)
    for log in (data.log, data.met):
        if log is not None and log.time is not None:
            np.maximum.at(last, getattr(log, side), log.time)
    return last


def _coded_as(data: TrainingData, events: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Translate the codes of kinds to those of the data, by name."""
    if data.log.kinds is None:
        return events
    names = Kinds.of(schema.events).names
    if set(names) != set(data.log.kinds.names):
        raise DataError(
            f"data.events reads the kinds {', '.join(names) or '(none)'}, and the data were fitted "
            f"with {', '.join(data.log.kinds.names)}: give the same table"
        )
    codes = np.array([data.log.kinds.names.index(name) for name in names], dtype=np.int8)
    return events.with_columns(kind=pl.Series(codes[events["kind"].to_numpy()]))


def _encoded_as(
    data: TrainingData, events: pl.DataFrame, values: Values, where: str
) -> pl.DataFrame:
    """Encode the event features of new events as the data do."""
    given, held = taken_from(events), data.event_features.held
    if set(given) != set(held):
        raise DataError(
            f"features.events names {', '.join(given) or '(none)'}, and the data were fitted with "
            f"{', '.join(held) or '(none)'}: give the same columns"
        )
    try:
        columns = data.event_features.encoded(given, values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return events.with_columns(pl.Series(PREFIX + name, column) for name, column in columns.items())


def _after(data: TrainingData, events: pl.DataFrame) -> pl.DataFrame:
    """Continue the line numbers that serve as times after the last line of the data."""
    known = [log.time for log in (data.log, data.met) if log is not None and log.time is not None]
    last = max((int(times.max()) for times in known if len(times)), default=-1)
    return events.with_columns(pl.col("time") + last + 1)


def _refuse_rewritten(data: TrainingData, report: ReadReport) -> None:
    """Refuse a text file in another format than the log of the bundle."""
    if data.text is None or report.text is None:
        return
    if other := data.text.differences(report.text):
        key = other[0]
        raise DataError(
            f"{report.where}: its {key} is {getattr(report.text, key)!r}, that of the bundle's "
            f"log {getattr(data.text, key)!r}: write new events as the log was written."
        )


def with_events(
    data: TrainingData,
    events: pl.DataFrame,
    met: pl.DataFrame | None = None,
    *,
    learns: bool = False,
) -> Update:
    """Return the data with new events; the rows of known ids stay, new ids get rows after them.

    An event that is already there (same user, item, time and kind) is left out and counted.

    events: columns user and item, with ids in the vocabularies' types; time, weight and kind (codes
        of `data.log.kinds`) where the log has them; event features (`event_columns.PREFIX` and the
        name), unknown if absent; and session. Events without a session join their user's by time.
    met: such events that only count as seen; ignored for data without them (`data.met` is None).
    learns: the caller trains again and holds out other rows (`renewal`), so that any fit and a log
        with sessions are accepted.

    Errors: ModelError for data not fitted on all rows, unless `learns`: held-out rows would become
    known, and every figure measured on them worthless.
    """
    data.require_log("taking new events")
    if data.fit != "all" and not learns:
        raise ModelError(
            f"these data were fitted on '{data.fit}', and rows are held out to measure on: new "
            "events are for a model fitted on all rows (training.refit = 'all'), or for `refresh`"
        )
    if data.log.session is not None and not learns:
        raise ModelError(
            "the log has sessions, and new events cannot join them without a fit: take `refresh`, "
            "or train again"
        )
    for name in ("user", "item", "time", "weight", "kind"):
        needed = name in ("user", "item") or getattr(data.log, name) is not None
        if needed and name not in events.columns:
            raise DataError(f"new events need the column '{name}', as the log has it")
    if met is None or data.met is None:
        met = events.head(0)
    users, user = grown(data.users, pl.concat([events["user"], met["user"]]))
    items, item = grown(data.items, pl.concat([events["item"], met["item"]]))
    count = len(events)
    by_time = data.log.session is not None and "session" not in events.columns
    gap = _session_gap(data) if by_time else None
    log, fresh = _merged(data.log, users, user[:count], item[:count], events, gap)
    others, fresh_met = data.met, NONE
    if others is not None:
        others, fresh_met = _merged(others, users, user[count:], item[count:], met)
    added, came = int(fresh.sum()), int(fresh_met.sum())
    joined = replace(
        data,
        users=users,
        items=items,
        log=log,
        met=others,
        user_features=features_of(data.user_features, data.user_frame, users),
        item_features=features_of(data.item_features, data.item_frame, items),
        remembered=Remembered(),  # cached answers have a place for each old item only
    )
    return Update(
        joined,
        added,
        len(events) - added + len(met) - came,
        len(users) - len(data.users),
        len(items) - len(data.items),
        came,
        fresh=fresh,
        fresh_met=fresh_met,
    )


def no_events(data: TrainingData) -> pl.DataFrame:
    """Return a table without rows in the form that `with_events` takes."""
    columns = {"user": data.users.ids.head(0), "item": data.items.ids.head(0)}
    for name in ("time", "weight", "kind"):
        if (column := getattr(data.log, name)) is not None:
            columns[name] = pl.Series(name, column[:0])
    return pl.DataFrame(columns)


def _session_gap(data: TrainingData) -> float:
    """Return the time without events that starts a new session, in the log's unit."""
    if data.time_unit not in STEPS:
        raise ModelError(
            "the log has sessions, and nothing says how long it takes between its events (data."
            "time_unit): where a session of the new events ends is not known; train again"
        )
    return in_units(SESSION_GAP, data.time_unit)


def grown(vocabulary: Vocabulary, ids: pl.Series) -> tuple[Vocabulary, NDArray[np.int64]]:
    """Return the vocabulary with unknown ids added in order, and the row of each id, [n]."""
    rows = vocabulary.rows(ids)
    new = ids.filter(pl.Series(rows == 0)).unique().sort()
    if not len(new):
        return vocabulary, rows
    known = pl.concat([vocabulary.ids, new.alias(vocabulary.ids.name).cast(vocabulary.ids.dtype)])
    larger = Vocabulary(known, vocabulary.trained, vocabulary.name)
    return larger, larger.rows(ids)


def _merged(
    log: Interactions,
    users: Vocabulary,
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    events: pl.DataFrame,
    gap: float | None = None,
) -> tuple[Interactions, NDArray[np.bool_]]:
    """Insert new events into the log, after old events of the same time; return which are new.

    gap: the time that separates sessions, for events without a session in a log with sessions.
    """
    time = events["time"].to_numpy() if log.time is not None else None
    columns: dict[str, NDArray[Any]] = {
        "user": user.astype(np.int32),
        "item": item.astype(np.int32),
    }
    if time is not None and log.time is not None:
        columns["time"] = time.astype(log.time.dtype)
    if log.weight is not None:
        columns["weight"] = events["weight"].to_numpy().astype(np.float32)
    if log.kind is not None:
        columns["kind"] = events["kind"].to_numpy().astype(np.int8)
    if log.role is not None:
        columns["role"] = np.full(len(events), Role.TRAIN, dtype=np.int8)
    if log.session is not None:
        # The log keeps no session names, so new events cannot belong to its sessions by name.
        first, named = int(log.session.max(initial=0)) + 1, "session" in events.columns
        columns["session"] = np.full(len(events), -1, dtype=np.int32)
        if named:
            ranks = events["session"].rank("dense").cast(pl.Int32).to_numpy()
            columns["session"] = ranks + np.int32(first)
    old = pl.DataFrame({name: getattr(log, name) for name in columns})
    keys = [name for name in ("user", "item", "time", "kind") if name in columns]
    given, of_events = taken_from(events), {}
    for name, column in log.columns.items():
        nothing = np.full(len(events), unknown_of(column.dtype))
        of_events[PREFIX + name] = given.get(name, nothing).astype(column.dtype)
    old = old.with_columns(pl.Series(PREFIX + name, c) for name, c in log.columns.items())
    fresh = pl.DataFrame(columns | of_events).unique(keys, keep="last", maintain_order=True)
    fresh = fresh.join(old.select(keys).unique(), on=keys, how="anti", maintain_order="left")
    order = [name for name in ("user", "time") if name in columns]
    both = pl.concat(
        [old.with_columns(fresh=pl.lit(False)), fresh.with_columns(fresh=pl.lit(True))]
    ).sort(order, maintain_order=True)
    made: dict[str, Any] = {name: both[name].to_numpy(writable=True) for name in columns}
    if gap is not None:
        made["session"] = _sessions_by_time(made["user"], made["time"], made["session"], gap)
    merged = Interactions(
        users=len(users) + 1,
        kinds=log.kinds,
        **made,
        columns={name: both[PREFIX + name].to_numpy(writable=True) for name in log.columns},
    )
    return merged, both["fresh"].to_numpy()


def _sessions_by_time(
    user: NDArray[np.int32], time: NDArray[Any], session: NDArray[np.int32], gap: float
) -> NDArray[np.int32]:
    """Fill in sessions that are -1, [n]: the session of the user's previous event, or a new one.

    >>> one = np.array([1, 1, 1, 2], dtype=np.int32)
    >>> told = np.array([7, -1, -1, -1], dtype=np.int32)
    >>> _sessions_by_time(one, np.array([0, 5, 50, 50]), told, gap=10).tolist()
    [7, 7, 8, 9]
    """
    unknown = session < 0
    away = np.ones(len(user), dtype=np.bool_)
    away[1:] = (np.diff(user) != 0) | (np.diff(time) > gap)
    begins = unknown & away
    filled = session.copy()
    filled[begins] = int(session.max(initial=0)) + 1 + np.arange(int(begins.sum()))
    known = np.where(unknown & ~away, 0, np.arange(len(user)))
    filled = filled[np.maximum.accumulate(known)]
    return filled


def features_of(table: FeatureTable, frame: pl.DataFrame | None, ids: Vocabulary) -> FeatureTable:
    """Return the encoded features with a row for each id; ids outside the frame are unknown."""
    if frame is None or not table.encoders:
        return table
    aligned = pl.DataFrame({"id": ids.ids}).join(frame, on="id", how="left", maintain_order="left")
    return FeatureTable(table.encoders, encode(table.encoders, aligned), table.trained)
