"""Which events of a store or a file has a bundle not learned from yet?"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from shortlist.data.schema import Schema
from shortlist.data.tables import Source
from shortlist.data.training_data import TrainingData
from shortlist.errors import QueryError
from shortlist.histories.events import Id, Watermark
from shortlist.histories.export import LogWriter, learned_with, span_of
from shortlist.histories.places import StorePlace, reader_at
from shortlist.histories.sqlite import is_store


@dataclass(frozen=True)
class Unlearned:
    """Events that a bundle has not learned from, as a log.

    source: a table or the path of one; None without events.
    until: the watermark of a bundle that learns these events; None if unknown.
    deleted: deleted users. Only the events here count for them; the bundle's data holds others.
    none_new: there are no new events, at most events of deleted users that the bundle knows.
    exported: the events are from a store, which has no sessions and no features of users and items.
    strange: number of events left out because their ids are of another type than the data's.
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
    """Return the events of a store, an exported file or a log that a bundle has not learned from.

    place: a store, an export of one, or a file with the columns of the bundle's log.
    learned: the bundle's watermark, or None.
    schema: the bundle's schema.
    data: the bundle's training data.
    Errors: EventStoreError; QueryError if an export leaves out events after the watermark.
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
    # The bundle mixes a deleted user's events from before and after: read the latter again.
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
    """Return how many events of a user the data has."""
    if type(user) is not (int if data.users.ids.dtype == pl.Int64 else str):
        return 0
    row = data.users.rows(pl.Series([user]))[0]
    logs = [log for log in (data.log, data.met) if log is not None]
    return sum(int((log.user == row).sum()) for log in logs) if row else 0
