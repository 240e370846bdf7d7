"""What has come since the bundle: events as they are sent, and as a question asks by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from shortlist.errors import QueryError
from shortlist.histories.events import Event, Id, Stored, refused_id
from shortlist.outputs import is_bundle
from shortlist.sections.events import kind_of
from shortlist.serving.event_log import EventLog
from shortlist.serving.messages import EventsRequest, Ids, RequestError
from shortlist.serving.served import Served, check_ids, shown

AHEAD = 86_400.0
"""Seconds that the clock of whoever sends an event may be ahead."""


class Fresh(NamedTuple):
    """What `Queries` takes of stored events, one of each a user. available: the store answered.

    kinds: of the events in `recent`, where the log has kinds of events.
    """

    recent: list[Ids] | None = None
    met: list[Ids] | None = None
    forgotten: list[bool] | None = None
    available: bool = True
    kinds: list[list[str | None]] | None = None

    def asked(self, since: list[Ids] | None) -> dict[str, Any]:
        """Return the arguments of `Queries`; since: what the request holds, which comes last."""
        recent, kinds = self.recent, self.kinds
        if kinds is not None and since is not None:
            kinds = [[*old, *[None] * len(new)] for old, new in zip(kinds, since, strict=True)]
        if recent is None:
            recent = since
        elif since is not None:
            recent = [[*old, *new] for old, new in zip(recent, since, strict=True)]
        asked = {"recent": recent, "met": self.met, "forgotten": self.forgotten}
        return asked if kinds is None else asked | {"kinds": kinds}


def fresh(log: EventLog | None, served: Served, users: Sequence[Id]) -> Fresh:
    """Return what the store holds of users that the bundle has not learned from."""
    if log is None:
        return Fresh()
    least = served.min_weight
    since = served.learned(log.store.identity)
    kinds = served.kinds_of_events
    stored = log.latest(users, since, detailed=least is not None or bool(kinds))
    if stored is None:
        forgotten = [user in log.forgotten for user in users]
        return Fresh(None, None, forgotten if any(forgotten) else None, available=False)
    if not any(one.items or one.forgotten for one in stored):
        return Fresh()
    forgotten = [one.forgotten for one in stored]
    if kinds:
        return _of_kinds(stored, served)
    if least is None:
        recent = [one.items for one in stored]
        return Fresh(recent, None, forgotten if any(forgotten) else None)
    recent, met = [], []
    for one in stored:
        liked = [weight is None or weight >= least for weight in one.weights or ()]
        recent.append([item for item, good in zip(one.items, liked, strict=True) if good])
        met.append([item for item, good in zip(one.items, liked, strict=True) if not good])
    return Fresh(recent, met if any(met) else None, forgotten if any(forgotten) else None)


def _of_kinds(stored: Sequence[Stored], served: Served) -> Fresh:
    """What the table of kinds makes of stored events: read, met alone, or nothing."""
    table = served.kinds_of_events
    recent: list[Ids] = []
    met: list[Ids] = []
    kinds: list[list[str | None]] = []
    for one in stored:
        values: Sequence[Any] = (one.weights if served.kinds_by_weight else one.kinds) or ()
        names = [kind_of(value, table) for value in values]
        read = [name is None or table[name].read for name in names]
        recent.append([item for item, kept in zip(one.items, read, strict=True) if kept])
        kinds.append([name for name, kept in zip(names, read, strict=True) if kept])
        seen = [
            name is not None and not table[name].read and not table[name].drop for name in names
        ]
        met.append([item for item, kept in zip(one.items, seen, strict=True) if kept])
    forgotten = [one.forgotten for one in stored]
    gone = forgotten if any(forgotten) else None
    return Fresh(recent, met if any(met) else None, gone, kinds=kinds)


def events_of(served: Served, asked: EventsRequest, now: float) -> list[Event]:
    """Return the events of a request as they are stored. Errors: RequestError.

    now: seconds since 1970. Refused is what the log could not be read with again.
    """
    data, sent = served.data, asked.events
    for name, vocabulary in (("user", data.users), ("item", data.items)):
        ids = [getattr(event, name) for event in sent]
        check_ids(ids, vocabulary, f"events.{name}")
        for place, value in enumerate(ids):
            why = refused_id(value)
            if why is not None and not vocabulary.rows([value])[0]:
                raise RequestError(
                    "invalid_request", f"events[{place}].{name}: the id {value!r:.40} {why}"
                )
    least = served.min_weight
    events = []
    for place, event in enumerate(sent):
        if event.time is not None and event.time > now + AHEAD:
            raise RequestError(
                "invalid_request",
                f"events[{place}].time: {event.time:.0f} is more than a day ahead of this "
                "machine's clock; times are seconds since 1970",
            )
        if event.weight is not None and least is None and not served.has_weights:
            raise RequestError(
                "invalid_request",
                f"events[{place}].weight: the log of the bundle has no weights (data.weight), so "
                "nothing would be done with it: leave it out",
            )
        if (
            event.weight is not None
            and event.weight < 0
            and (least is None or event.weight >= least)
        ):
            raise RequestError(
                "invalid_request", f"events[{place}].weight: a positive's weight is at least 0"
            )
        table = served.kinds_of_events
        named = event.kind is not None and not served.kinds_by_weight
        if table and named and event.kind not in table:
            raise RequestError(
                "invalid_request",
                f"events[{place}].kind: {event.kind!r:.60} is no kind of the bundle's log, which "
                f"has {', '.join(table)}",
            )
        time = None if event.time is None else round(event.time * 1e6)
        events.append(Event(event.user, event.item, event.kind, time, event.weight, event.id))
    return events


def user_of(served: Served, text: str) -> Id:
    """Return the id of a user that stands in a path. Errors: RequestError."""
    try:
        user: Id = served.data.users.parse([text])[0]
    except QueryError as error:
        raise RequestError("invalid_request", str(error)) from None
    return user


def held_by(path: Path, served: Served, user: Id) -> list[str]:
    """Return the names of the bundles in a served directory that hold a user, or cannot be read."""
    try:
        folders = [path] if is_bundle(path) else sorted(path.iterdir())
    except OSError:
        folders = [served.directory]
    return [shown(folder.name) for folder in folders if is_bundle(folder) and _holds(folder, user)]


def _holds(bundle: Path, user: Id) -> bool:
    try:
        ids = pl.scan_parquet(bundle / "users.parquet", glob=False).select("id")
        kind = ids.collect_schema()["id"]
        if kind != pl.Series([user]).dtype:
            return False
        return ids.filter(pl.col("id") == user).limit(1).collect().height > 0
    except (pl.exceptions.PolarsError, OSError):
        return True
