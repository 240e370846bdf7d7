"""How do stored events become a log that training reads, with its columns and units?"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shortlist.data.log_features import Side
from shortlist.data.schema import Schema
from shortlist.data.tables import EXPORTED
from shortlist.data.training_data import TrainingData
from shortlist.data.updates import SESSION_GAP
from shortlist.durations import STEPS, TimeUnit, in_units
from shortlist.errors import QueryError
from shortlist.histories.events import Id, Row, Watermark, features_told, one_of_kind
from shortlist.sections.events import RANGE, representatives

KIND = "kind"
"""Name of the exported column of event kinds if the log has no such column."""

MARK = EXPORTED

_GAP = int(in_units(SESSION_GAP, "us"))
"""Microseconds without an event of a user after which a new session begins."""

_DATES: dict[str, tuple[str, str]] = {
    "yyyymmdd": ("%Y%m%d", "us"),
    "yyyymmddhhmmss": ("%Y%m%d%H%M%S", "us"),
}


class Span(NamedTuple):
    """Which events of a store an exported file holds.

    since: number of the last event that is not in the file.
    until: the store and the number of the last event in the file.

    >>> Span.parse("00c0ffee00c0ffee:120 since 100")
    Span(since=100, until=Watermark(store='00c0ffee00c0ffee', sequence=120))
    """

    since: int
    until: Watermark

    def __str__(self) -> str:
        """Return the text that is written into the file's metadata."""
        return f"{self.until} since {self.since}"

    @classmethod
    def parse(cls, text: str) -> "Span":
        """Read the text of the file's metadata. Errors: QueryError."""
        until, _, since = text.partition(" since ")
        if not (since.isascii() and since.isdecimal()):
            raise QueryError(
                f"the metadata of an exported file must be STORE:NUMBER since NUMBER, got "
                f"{text!r:.60}: export the events again"
            )
        return cls(int(since), Watermark.parse(until))


class LogWriter:
    """Makes tables of stored events with the columns of the log that the data were read from.

    If the log's times are plain numbers of unknown unit, events get numbers above those of the log,
    in the order of arrival. Sessions are cut by time, as a refresh does. A column has no value for
    features of users and items, which a store does not have, and for an event feature whose stored
    type is not the declared one.

    schema: names the columns of the log.
    data: the data read from the log; its ids, kinds and time unit are used.
    kinds: add a column of event kinds if the log has none.
    described: sides ("user", "item") whose features are columns of the log.

    written: number of events written so far.
    strange: number of events left out because the type of their ids differs from the data's.
    """

    def __init__(
        self,
        schema: Schema,
        data: TrainingData,
        *,
        kinds: bool,
        described: Collection[Side] = (),
    ) -> None:
        self.schema, self.data, self.kinds = schema, data, kinds
        self._untold: dict[str, pl.DataType] = {}
        for side in described:
            frame = data.user_frame if side == "user" else data.item_frame
            if frame is not None:
                self._untold |= {name: kind for name, kind in frame.schema.items() if name != "id"}
        self.written = self.strange = 0
        self._sessions: dict[Id, tuple[int, int]] = {}  # user: (session, last time)
        times = data.log.time
        self._whole = times is None or times.dtype.kind == "i"
        self._newest = 0 if times is None or not len(times) else int(times.max())

    def frame(self, rows: Iterable[Row]) -> pl.DataFrame:
        """Return events as a table with the columns of the log, in the same order."""
        types = [
            int if vocabulary.ids.dtype == pl.Int64 else str
            for vocabulary in (self.data.users, self.data.items)
        ]
        given = list(rows)
        kept = [row for row in given if [type(row.user), type(row.item)] == types]
        self.strange += len(given) - len(kept)
        schema, least = self.schema, self.schema.min_weight
        columns = {
            schema.user: pl.Series([row.user for row in kept], dtype=self.data.users.ids.dtype),
            schema.item: pl.Series([row.item for row in kept], dtype=self.data.items.ids.dtype),
        }
        if schema.time is not None:
            columns[schema.time] = self._times(kept)
        if schema.weight is not None:
            plain = 1.0 if least is None else max(1.0, least)
            weights = [plain if row.weight is None else row.weight for row in kept]
            columns[schema.weight] = pl.Series(weights, dtype=pl.Float64)
        if schema.event is not None and (known := self.data.log.kinds):
            unnamed = known.names[known.unnamed]
            names = [row.kind if row.kind is not None else unnamed for row in kept]
            numbers = representatives(schema.events)
            if schema.event in columns:  # The column of weights also decides the kind.
                worth = [
                    numbers.get(name, plain) if row.weight is None else row.weight
                    for name, row in zip(names, kept, strict=True)
                ]
                columns[schema.event] = pl.Series(worth, dtype=pl.Float64)
            elif any(RANGE.fullmatch(name) for name in schema.events):
                one_each = [numbers.get(name) for name in names]
                whole = all(number.is_integer() for number in numbers.values())
                kind: Any = pl.Int64 if whole else pl.Float64
                columns[schema.event] = pl.Series(one_each, dtype=pl.Float64).cast(kind)
            else:
                columns[schema.event] = pl.Series(names, dtype=pl.String)
        if self.kinds and schema.event is None and KIND not in columns:
            columns[KIND] = pl.Series([row.kind for row in kept], dtype=pl.String)
        if schema.session is not None and schema.session not in columns:
            sessions = [self._session(row) for row in kept]
            columns[schema.session] = pl.Series(sessions, dtype=pl.Int64)
        told = [features_told(row.features) for row in kept]
        for feature in schema.event_features:
            numeric = feature.kind == "numeric"
            values = [one_of_kind(one.get(feature.name), numeric=numeric) for one in told]
            written = pl.Float64 if numeric else pl.String
            columns.setdefault(feature.name, pl.Series(values, dtype=written))
        for name, dtype in self._untold.items():
            columns.setdefault(name, pl.Series([None] * len(kept), dtype=dtype))
        self.written += len(kept)
        return pl.DataFrame(columns)

    def _session(self, row: Row) -> int:
        """Return the session of an event: that of its user's previous event, or a new one.

        New sessions are negative numbers, because the log may have positive numbers as sessions.
        """
        moment = row.arrived if row.time is None else row.time
        name, last = self._sessions.get(row.user, (0, 0))
        if not name or abs(moment - last) > _GAP:
            name = -row.sequence
        self._sessions[row.user] = name, moment
        return name

    def _times(self, rows: list[Row]) -> pl.Series:
        unit = self.data.time_unit or "number"
        if unit not in STEPS:
            start = self._newest + 1 + self.written
            kind = pl.Int64 if self._whole else pl.Float64
            return pl.Series(range(start, start + len(rows)), dtype=pl.Int64).cast(kind)
        moments = pl.Series([row.arrived if row.time is None else row.time for row in rows])
        return in_unit(moments.cast(pl.Int64), unit, whole=self._whole)


def in_unit(microseconds: pl.Series, unit: TimeUnit, *, whole: bool) -> pl.Series:
    """Return times, given in microseconds since 1970, in the unit of a log.

    Whole days, microseconds and nanoseconds become dates or datetimes, whose type tells the unit.

    whole: the log's times are whole numbers.

    >>> in_unit(pl.Series([86_400_500_000]), "s", whole=True).to_list()
    [86400]
    >>> in_unit(pl.Series([86_400_500_000]), "yyyymmdd", whole=True).to_list()
    [19700102]
    """
    moments = microseconds.cast(pl.Datetime("us"))
    if unit in _DATES:
        return moments.dt.strftime(_DATES[unit][0]).cast(pl.Int64)
    if unit == "day":
        return moments.cast(pl.Date) if whole else microseconds / 86_400e6
    if unit in ("us", "ns"):
        return moments.cast(pl.Datetime(unit)) if whole else microseconds * (STEPS[unit] / 1e6)
    steps = int(1e6 / STEPS[unit])
    return microseconds // steps if whole else microseconds / steps


def span_of(path: Path) -> Span | None:
    """Return which events an exported Parquet file holds; None for any other file."""
    if path.suffix != ".parquet" or not path.is_file():
        return None
    try:
        said = (pq.read_schema(path).metadata or {}).get(MARK.encode())
    except (pa.ArrowException, OSError):
        return None  # The error is reported where the table is read.
    return None if said is None else Span.parse(said.decode(errors="replace"))


def learned_with(learned: Watermark | None, files: Iterable[Path | None]) -> Watermark | None:
    """Return the watermark after learning from these files as well.

    learned: the watermark before, or None.
    files: files of any kind in any order; only exports count.
    Errors: QueryError if events before or between those of the exports are missing.
    """
    spans = [(span, path) for path in files if path is not None and (span := span_of(path))]
    for span, path in sorted(spans, key=lambda found: found[0].since):
        same = learned is not None and learned.store == span.until.store
        known = learned.sequence if learned is not None and same else 0
        if known < span.since:
            raise QueryError(
                f"{path} holds the events after {span.since}, but the bundle has learned up to "
                f"{known}: those between are missing; export with --since {known}, or, if the log "
                f"holds them, give --watermark {span.until}"
            )
        learned = max(learned, span.until) if learned is not None and same else span.until
    return learned
