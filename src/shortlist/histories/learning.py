"""Which events has a bundle not learned from, in a store or in a file of them?"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from shortlist.data.dataset import TrainingData
from shortlist.data.schema import Schema
from shortlist.data.tables import Source
from shortlist.errors import QueryError
from shortlist.histories.events import Id, Watermark
from shortlist.histories.export import LogWriter, learned_with, span_of
from shortlist.histories.places import StorePlace, reader_at
from shortlist.histories.sqlite import is_store


@dataclass(frozen=True)
class Unlearned:
    """Events that a bundle has not learned from, as a log.

    source: a table, or the path of one; None where there are none. until: what the bundle that
    learns them has learned up to; None where nobody has said. deleted: users of whom only these
    events count, while the bundle holds others. none_new: there are no events but theirs, which
    the bundle knows. exported: they come from a store, which knows neither sessions nor features of
    users and items. strange: left out, their ids being of another type.
    """

    source: Source | None
    until: Watermark | None
    deleted: tuple[Id, ...] = ()
    none_new: bool = False
    exported: bool = False
    strange: int = 0


def unlearned(
    place: StorePlace, learned: Watermark | None, schema: Schema, data: TrainingData
) -> Unlearned:
    """Return the events of a store, of an export of one, or of any log as the bundle's is written.

    Errors: EventStoreError; QueryError for an export that does not follow what is learned.
    """
    if isinstance(place, Path) and not place.exists():
        raise QueryError(f"{place}: there is neither a store of events nor a file of them")
    if isinstance(place, Path) and not is_store(place):
        exported = span_of(place) is not None
        none = exported and not pq.read_metadata(place).num_rows
        return Unlearned(None if none else place, learned_with(learned, [place]), exported=exported)
    store = reader_at(place)
    until = store.until
    same = learned is not None and learned.store == until.store
    since = learned.sequence if learned is not None and same else 0
    gone = {
        user: [row for row in rows if row.sequence <= since]
        for user, rows in store.deleted().items()
    }
    gone = {user: rows for user, rows in gone.items() if _events_of(data, user) > len(rows)}
    log = LogWriter(schema, data, kinds=store.have_kinds())
    # What a deleted user did afterwards stands in the bundle beside what is to go: it is read anew.
    known = log.frame([row for rows in gone.values() for row in rows])
    new = [log.frame(part) for part in store.parts(since)]
    frames = [frame for frame in (known, *new) if len(frame)]
    return Unlearned(
        pl.concat(frames) if frames else None,
        until,
        tuple(gone),
        none_new=not any(map(len, new)),
        exported=True,
        strange=log.strange,
    )


def _events_of(data: TrainingData, user: Id) -> int:
    """How many events the data hold of a user."""
    if type(user) is not (int if data.users.ids.dtype == pl.Int64 else str):
        return 0
    row = data.users.rows(pl.Series([user]))[0]
    logs = [log for log in (data.log, data.met) if log is not None]
    return sum(int((log.user == row).sum()) for log in logs) if row else 0
