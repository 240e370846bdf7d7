"""How do the ids of queries become row numbers? In blocks of queries."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from shortlist.asking.context import context_of, encoded_event_features, is_given
from shortlist.asking.described import Described, described
from shortlist.asking.queries import Queries
from shortlist.data.batches import histories
from shortlist.data.histories import Events
from shortlist.data.kinds import Kinds
from shortlist.data.moments import is_known, parsed_times
from shortlist.data.predicates import allowed_rows, as_predicate
from shortlist.data.ragged import Ragged, joined, keep, taken
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import flat_ids
from shortlist.errors import QueryError

BLOCK = 4096
"""Queries per block, which bounds the memory."""


@dataclass(frozen=True)
class RowQueries:
    """B queries as internal row numbers.

    Columns of events have one value per event of the history, [total].

    users: user rows, int64 [B]; 0 for an unknown user.
    history: item rows of the whole history, oldest first.
    exclude: True if the items of the history must not be recommended.
    weight: event column, float32; None if the log has no weights or the query gives none.
    allow: bool [items + 1], the item rows that may be recommended; None for all.
    time: event column in steps of the log, some may be unknown (`data.moments`); None unless timed.
    met: further item rows that must not be recommended if `exclude`; not part of the history.
    described: user features given by the queries.
    kind: event column, codes of `kinds`; None if the log has no kinds of events.
    kinds: the kinds of events of the log.
    asked: the time of each query in steps of the log, [B], some may be unknown; None if not given.
    columns: features of the events, one event column each; empty if the log has none.
    context: features of the requested event, [B] each; empty if the log has none.
    """

    users: Tensor
    history: Ragged
    exclude: bool
    weight: Tensor | None = None
    allow: Tensor | None = None
    time: Tensor | None = None
    met: Ragged | None = None
    described: Described | None = None
    kind: Tensor | None = None
    kinds: Kinds | None = None
    asked: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    context: Mapping[str, Tensor] = field(default_factory=dict)

    def tells(self, names: Iterable[str]) -> Tensor:
        """Return which queries give any of these features of the requested event, bool [B]."""
        present = torch.zeros(len(self.users), dtype=torch.bool)
        for name in names:
            if name in self.context:
                present |= is_given(self.context[name])
        return present

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor] | None:
        """The item rows that each query must not get, as (values, offsets); None for none."""
        if not self.exclude:
            return None
        hidden = self.history
        if self.kind is not None and self.kinds is not None:
            hides = self.kinds.hides(self.kind.numpy())
            hidden = hidden if hides is None else keep(hidden, torch.from_numpy(hides))
        if self.met is not None:
            hidden = joined(hidden, self.met)
        return hidden.values, hidden.offsets

    @cached_property
    def worth(self) -> Tensor | None:
        """The weight of each event's kind, float32 [total]; None if all are 1."""
        if self.kind is None or self.kinds is None:
            return None
        worth = self.kinds.worth(self.kind.numpy())
        return None if worth is None else torch.from_numpy(worth)

    def take(self, which: Tensor) -> "RowQueries":
        """Return the queries at these positions, int64 [n], in this order."""

        def of_events(column: Tensor | None) -> Tensor | None:
            return column if column is None else self._events(column, which).values

        return replace(
            self,
            users=self.users[which],
            history=self._events(self.history.values, which),
            weight=of_events(self.weight),
            time=of_events(self.time),
            kind=of_events(self.kind),
            met=None if self.met is None else taken(self.met, which),
            described=None if self.described is None else self.described.take(which),
            asked=None if self.asked is None else self.asked[which],
            columns={
                name: self._events(column, which).values for name, column in self.columns.items()
            },
            context={name: column[which] for name, column in self.context.items()},
        )

    def _events(self, column: Tensor, which: Tensor) -> Ragged:
        return taken(Ragged(column, self.history.offsets), which)


def row_blocks(
    queries: Queries, data: TrainingData, *, timed: bool = False, size: int = BLOCK
) -> Iterator[RowQueries]:
    """Translate queries to rows, `size` queries per block.

    timed: include the times of the events. Errors: QueryError.
    """
    allow, asked = allowed(queries, data), _request_times(queries, data)
    if queries.histories is not None:
        for at in range(0, len(queries), size):
            part = queries.histories[at : at + size]
            now = None if asked is None else asked[at : at + size]
            given = _GivenEvents.of(queries, slice(at, at + size), _rows_of_lists(part, data), data)
            users = torch.zeros(len(part), dtype=torch.int64)
            block = RowQueries(
                *(users, given.items, queries.exclude_seen, given.weight, allow),
                time=given.time if timed else None,
                kind=given.kind,
                kinds=data.log.kinds,
                asked=now,
                columns=data.event_features.whole(
                    given.columns, given.kind, len(given.items.values)
                ),
            )
            yield _with_features(block, queries, at, data)
        return
    if queries.users is None or not len(queries):
        return
    if not data.knows_users and queries.recent is None:
        raise QueryError(
            "this bundle was saved without its log and knows no user's history: ask with "
            "histories or recent, or load it with a store of histories"
        )
    others = data.met.before(queries.before) if data.met and queries.exclude_seen else None
    rows = torch.from_numpy(data.users.rows(queries.users))
    if queries.forgotten is not None:
        rows[torch.tensor(queries.forgotten, dtype=torch.bool)] = 0
    for at in range(0, len(rows), size):
        users = rows[at : at + size]
        known = data.histories.latest(users, queries.before, timed=timed)
        now = None if asked is None else asked[at : at + size]
        if queries.recent is not None:
            since = _rows_of_lists(queries.recent[at : at + size], data)
            given = _GivenEvents.of(queries, slice(at, at + size), since, data)
            known = _followed(known, given, data, now)
        met = None if others is None else histories(others, users, None)
        if queries.met is not None and queries.exclude_seen:
            since = _rows_of_lists(queries.met[at : at + size], data)
            met = since if met is None else joined(met, since)
        block = RowQueries(
            *(users, known.items, queries.exclude_seen, known.weight, allow, known.time, met),
            kind=known.kind,
            kinds=data.log.kinds,
            asked=now,
            columns=data.event_features.whole(known.columns, known.kind, len(known.items.values)),
        )
        yield _with_features(block, queries, at, data)


def _with_features(block: RowQueries, queries: Queries, at: int, data: TrainingData) -> RowQueries:
    """Add context and user features of the queries to a block that begins at query `at`."""
    if context := context_of(queries, at, block.users, data):
        block = replace(block, context=context)
    if not queries.features:
        return block
    stop = at + len(block.users)
    part = {name: values[at:stop] for name, values in queries.features.items()}
    return replace(block, described=described(part, block.users, data))


class _GivenEvents(NamedTuple):
    """The events that queries give; a column is None if the queries do not give it.

    columns: the given features of events, [total] each.
    """

    items: Ragged
    weight: Tensor | None = None
    time: Tensor | None = None
    kind: Tensor | None = None
    columns: Mapping[str, Tensor] = {}

    @classmethod
    def of(cls, queries: Queries, part: slice, items: Ragged, data: TrainingData) -> "_GivenEvents":
        """Return the events of a part of the queries; items: rows."""
        kinds, times, weights = queries.kinds, queries.times, queries.weights
        return cls(
            items,
            None if weights is None else _weights(weights[part], data),
            None if times is None else _times(times[part], data),
            _codes_of_kinds(None if kinds is None else kinds[part], len(items.values), data),
            encoded_event_features(queries.event_features, part, data),
        )


def _followed(
    known: Events, given: _GivenEvents, data: TrainingData, asked: Tensor | None
) -> Events:
    """Return the stored events followed by the given ones.

    A given event without a time gets that of its query, or else that of the newest log event.
    """

    def behind(column: Tensor | None, added: Tensor | None, value: float) -> Tensor | None:
        if column is None:
            return None
        if added is None:
            added = torch.full((len(given.items.values),), value, dtype=column.dtype)
        both = Ragged(column, known.items.offsets), Ragged(added, given.items.offsets)
        return joined(*both).values

    time = given.time
    if known.time is not None:
        at = torch.full((len(given.items.lengths),), data.newest_time, dtype=known.time.dtype)
        if asked is not None:
            at = torch.where(is_known(asked), asked, at)
        default = at[given.items.owners()]
        time = default if time is None else torch.where(is_known(time), time, default)
    of_events = data.event_features
    stored = of_events.whole(known.columns, None, len(known.items.values))
    added = of_events.whole(given.columns, None, len(given.items.values))
    return Events(
        joined(known.items, given.items),
        behind(known.weight, given.weight, 1),
        behind(known.time, time, 0),
        behind(known.kind, given.kind, 0),
        {
            name: joined(
                Ragged(column, known.items.offsets), Ragged(added[name], given.items.offsets)
            ).values
            for name, column in stored.items()
        },
    )


def _request_times(queries: Queries, data: TrainingData) -> Tensor | None:
    """Return the time of each query in steps of the log, [B]; None if the queries give none."""
    if queries.time is None:
        return None
    kind = _kind_of_times(data, "time")
    return parsed_times(queries.time, "time", data.time_unit, kind, clock=data.of_clock)


def _times(lists: Sequence[Sequence[Any]], data: TrainingData) -> Tensor:
    """Return the times of the given events in steps of the log, [total]."""
    kind, unit, clock = _kind_of_times(data, "times"), data.time_unit, data.of_clock
    parts = [
        parsed_times(times, f"times[{number}]", unit, kind, clock=clock)
        for number, times in enumerate(lists)
    ]
    return torch.cat([torch.zeros(0, dtype=kind), *parts])


def _kind_of_times(data: TrainingData, name: str) -> torch.dtype:
    """Return the dtype of the times of the log. Errors: QueryError if it has none."""
    if data.log.time is None or data.time_unit == "line":
        raise QueryError(f"the log has no times (data.time): leave {name} out")
    return torch.from_numpy(data.log.time[:0]).dtype


def _weights(lists: Sequence[Sequence[float | None]], data: TrainingData) -> Tensor:
    """Return the weights of the given events, float32 [total]; None becomes 1."""
    if data.log.weight is None:
        raise QueryError("the events of the log have no weights (data.weight): leave weights out")
    found: list[float] = []
    for number, weights in enumerate(lists):
        for place, weight in enumerate(weights):
            value = 1.0 if weight is None else weight
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
                raise QueryError(
                    f"weights[{number}][{place}] must be a number of at least 0, got {value!r:.60}"
                )
            found.append(float(value))
    return torch.tensor(found, dtype=torch.float32)


def allowed(queries: Queries, data: TrainingData) -> Tensor | None:
    """Return which item rows pass the filters, bool [items + 1]; None without filters."""
    where = as_predicate(queries.where)
    given = (where, queries.allow, queries.deny, queries.rows)
    if all(filtered is None for filtered in given):
        return None
    mask = torch.ones(len(data.items) + 1, dtype=torch.bool)
    if queries.rows is not None:
        if len(queries.rows) != len(mask):
            raise QueryError(f"rows must have {len(mask)} places, got {len(queries.rows)}")
        mask &= queries.rows
    if where is not None:
        mask &= allowed_rows(data, where)
    if queries.allow is not None:
        listed = torch.zeros_like(mask)
        listed[torch.from_numpy(data.items.rows(queries.allow))] = True
        mask &= listed
    if queries.deny is not None:
        mask[torch.from_numpy(data.items.rows(queries.deny))] = False
    mask[0] = False
    return mask


def _codes_of_kinds(
    names: Sequence[Sequence[str | None]] | None, events: int, data: TrainingData
) -> Tensor | None:
    """Return the codes of the kinds of the given events, int8 [events]; None without kinds."""
    kinds = data.log.kinds
    if kinds is None:
        if names is not None:
            raise QueryError("the log has no kinds of events (data.event): leave kinds out")
        return None
    if names is None:
        return torch.full((events,), kinds.unnamed, dtype=torch.int8)
    code: dict[str | None, int] = {name: place for place, name in enumerate(kinds.names)}
    code[None] = kinds.unnamed
    given = [name for part in names for name in part]
    for name in given:
        if name not in code:
            raise QueryError(
                f"kinds: {name!r:.60} is not a kind of events that this model reads. Known: "
                f"{', '.join(kinds.names)}"
            )
    return torch.tensor([code[name] for name in given], dtype=torch.int8)


def _rows_of_lists(lists: Sequence[Sequence[Any]] | pl.Series, data: TrainingData) -> Ragged:
    """Return lists of item ids as lists of rows."""
    if len(lists) == 1 and len(lists[0]):
        rows = torch.from_numpy(data.items.rows(lists[0]))
        return Ragged(rows, torch.tensor([0, len(rows)]))
    ids, lengths = flat_ids(lists)
    rows = torch.from_numpy(data.items.rows(ids)) if len(ids) else torch.zeros(0, dtype=torch.int64)
    offsets = torch.zeros(len(lists) + 1, dtype=torch.int64)
    torch.cumsum(torch.from_numpy(lengths), 0, out=offsets[1:])
    return Ragged(rows, offsets)
