"""Which stored events are newer than the bundle? Reads them for queries, and checks new ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from shortlist.asking.described import encoded_values
from shortlist.data.columns import LARGEST
from shortlist.data.event_columns import EventEncoder
from shortlist.data.features import NumericEncoder
from shortlist.data.times import within_clock, written_time
from shortlist.errors import QueryError, suggest
from shortlist.histories.events import (
    Event,
    Id,
    Stored,
    features_told,
    one_of_kind,
    refused_id,
    written_features,
)
from shortlist.outputs import is_bundle
from shortlist.sections.events import kind_of
from shortlist.serving.event_log import EventLog
from shortlist.serving.messages import Ids, RequestError
from shortlist.serving.requests import EventsRequest
from shortlist.serving.served import Served, check_ids, shown

NOTHING: Mapping[str, list[list[Any]] | None] = MappingProxyType({})

AHEAD = 86_400.0
"""Seconds by which the time of a sent event may be in the future."""


class Fresh(NamedTuple):
    """Stored events as arguments of `Queries`, with one list or value per user.

    recent: items that the bundle reads as events of the user; None without events.
    met: items that are only left out of answers.
    forgotten: True for deleted users; None if no user was deleted.
    available: False if the store did not answer in time.
    beside: kinds, times and weights of the events in `recent`, as far as the bundle reads them.
    features: features of the events in `recent`, by name.
    """

    recent: list[Ids] | None = None
    met: list[Ids] | None = None
    forgotten: list[bool] | None = None
    available: bool = True
    beside: Mapping[str, list[list[Any]]] = MappingProxyType({})
    features: Mapping[str, list[list[Any]]] = MappingProxyType({})

    def asked(
        self, since: list[Ids] | None, told: Mapping[str, list[list[Any]] | None] = NOTHING
    ) -> dict[str, Any]:
        """Return the arguments of `Queries` for the stored events followed by the request's.

        since: recent items of the request.
        told: kinds, times and weights of these items. `Queries` refuses lists of another length.
        """
        given = {name: lists for name, lists in told.items() if lists is not None}
        asked: dict[str, Any] = {"recent": since, "met": self.met, "forgotten": self.forgotten}
        if self.features:
            asked["event_features"] = self.features
        if self.recent is None or (since is not None and len(since) != len(self.recent)):
            return asked | given
        if since is None:
            return asked | {"recent": self.recent, **self.beside} | given
        asked["recent"] = _joined(self.recent, since)
        for name in {**self.beside, **given}:
            old = self.beside.get(name) or _unknown_values(self.recent)
            new = given.get(name) or _unknown_values(since)
            asked[name] = _joined(old, new) if len(old) == len(new) else new
        return asked


def _joined(old: list[list[Any]], new: list[list[Any]]) -> list[list[Any]]:
    return [[*mine, *more] for mine, more in zip(old, new, strict=True)]


def _unknown_values(events: list[Ids]) -> list[list[Any]]:
    """A None for each of these events."""
    return [[None] * len(items) for items in events]


def fresh(log: EventLog | None, served: Served, users: Sequence[Id]) -> Fresh:
    """Return the stored events of users that the bundle has not learned from."""
    if log is None:
        return Fresh()
    least = served.min_weight
    since = served.learned(log.store.identity)
    kinds = served.kinds_of_events
    reads = served.reads_of_events
    names = served.retriever.history_features & set(served.data.event_features.held)
    detailed = least is not None or bool(kinds or reads or names)
    stored = log.latest(users, since, detailed=detailed)
    if stored is None:
        forgotten = [user in log.forgotten for user in users]
        return Fresh(None, None, forgotten if any(forgotten) else None, available=False)
    if not any(one.items or one.forgotten for one in stored):
        return Fresh()
    recent: list[Ids] = []
    met: list[Ids] = []
    beside: dict[str, list[list[Any]]] = {name: [] for name in reads}
    features: dict[str, list[list[Any]]] = {name: [] for name in sorted(names)}
    if kinds:
        beside["kinds"] = []
    for one in stored:
        columns = {"times": _times(one, served), "weights": one.weights} if reads else {}
        read, seen = [True] * len(one.items), [False] * len(one.items)
        if kinds:
            read, seen, columns["kinds"] = _by_kinds(one, served)
        elif least is not None:
            read = [weight is None or weight >= least for weight in one.weights or ()]
            seen = [not good for good in read]
        recent.append([item for item, kept in zip(one.items, read, strict=True) if kept])
        met.append([item for item, kept in zip(one.items, seen, strict=True) if kept])
        for name, lists in beside.items():
            values = columns[name] or ()
            lists.append([value for value, kept in zip(values, read, strict=True) if kept])
        for name, lists in features.items():
            values = _features(one, name, served)
            lists.append([value for value, kept in zip(values, read, strict=True) if kept])
    forgotten = [one.forgotten for one in stored]
    gone = forgotten if any(forgotten) else None
    return Fresh(recent, met if any(met) else None, gone, beside=beside, features=features)


def _features(stored: Stored, name: str, served: Served) -> list[Any]:
    """A feature of each event; None if it is unknown or does not fit the served bundle."""
    encoder = served.features_of_events.get(name)
    if encoder is None:  # it is the weight of the event
        return list(stored.weights or ())
    numeric = encoder.kind == "numeric"
    told = (features_told(written).get(name) for written in stored.features or ())
    values = [one_of_kind(value, numeric=numeric) for value in told]
    return [None if value is None or _is_far(encoder, value) else value for value in values]


def _is_far(encoder: EventEncoder, value: Any) -> bool:
    """Tell whether a number is too far from the training data; an earlier bundle accepted it."""
    if not isinstance(encoder, NumericEncoder):
        return False
    return bool(abs(value - encoder.mean) > LARGEST * encoder.std)


def _by_kinds(stored: Stored, served: Served) -> tuple[list[bool], list[bool], list[str | None]]:
    """Tell which events are read and which only count as met, and the kind of each."""
    table = served.kinds_of_events
    values: Sequence[Any] = (stored.weights if served.kinds_by_weight else stored.kinds) or ()
    names = [kind_of(value, table) for value in values]
    read = [name is None or table[name].read for name in names]
    seen = [name is not None and not table[name].read and not table[name].drop for name in names]
    return read, seen, names


def _times(stored: Stored, served: Served) -> list[Any]:
    """The time of each event in the format of the log; None if the format cannot hold it."""
    data, found = served.data, []
    unit = data.time_unit or "number"
    for time in stored.times or ():
        usable = not data.of_clock or within_clock(time, time, "us")
        found.append(written_time(time, unit) if usable else None)
    return found


def events_of(served: Served, asked: EventsRequest, now: float) -> list[Event]:
    """Return the events of a request in the form of the store.

    now: seconds since 1970.
    Errors: RequestError for an event that the log of the bundle could not hold.
    """
    data, sent = served.data, asked.events
    for name, vocabulary in (("user", data.users), ("item", data.items)):
        ids = [getattr(event, name) for event in sent]
        check_ids(ids, vocabulary, f"events[].{name}")
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
                "the weight would have no effect: leave it out",
            )
        if (
            event.weight is not None
            and event.weight < 0
            and (least is None or event.weight >= least)
        ):
            raise RequestError(
                "invalid_request",
                f"events[{place}].weight: a positive must have a weight of at least 0",
            )
        table = served.kinds_of_events
        named = event.kind is not None and not served.kinds_by_weight
        if table and named and event.kind not in table:
            raise RequestError(
                "invalid_request",
                f"events[{place}].kind: {event.kind!r:.60} is not a kind of the bundle's log, "
                f"which has {', '.join(table)}",
            )
        time = None if event.time is None else round(event.time * 1e6)
        features = _checked_features(served, event.features or {}, f"events[{place}].features")
        events.append(
            Event(event.user, event.item, event.kind, time, event.weight, features, event.id)
        )
    return events


def _checked_features(served: Served, features: Mapping[str, Any], where: str) -> str | None:
    """Return the features of an event in the form of the store. Errors: RequestError."""
    encoders, found = served.features_of_events, {}
    for name, value in features.items():
        encoder = encoders.get(name)
        if encoder is None:
            raise RequestError("invalid_request", f"{where}: {_no_feature(served, name)}")
        if value is None:
            continue
        try:
            encoded_values(where, name, [value], encoder)
        except QueryError as error:
            raise RequestError("invalid_request", str(error)) from None
        numeric = encoder.kind == "numeric"
        found[name] = float(value) if numeric else pl.Series([value]).cast(pl.String)[0]
    return written_features(found)


def _no_feature(served: Served, name: str) -> str:
    """The reason why an event cannot have a feature of this name."""
    said = (served.bundle.recipe or {}).get("data", {})
    for role, key in (("event", "kind"), ("weight", "weight")):
        if name == said.get(role):
            return f"{name!r:.60} is the {key} of the event: send it as {key}"
    known = served.features_of_events
    hint = suggest(name, known) if known else " The log has none ([features.events])."
    return f"the bundle's log has no feature of events {name!r:.60}.{hint}"


def user_of(served: Served, text: str) -> Id:
    """Return the id of a user from the path of a request. Errors: RequestError."""
    try:
        user: Id = served.data.users.parse([text])[0]
    except QueryError as error:
        raise RequestError("invalid_request", str(error)) from None
    return user


def held_by(path: Path, served: Served, user: Id) -> list[str]:
    """Return the names of served bundles that hold events of a user, or that cannot be read."""
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
