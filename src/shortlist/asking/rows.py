"""The door from ids to rows: a question of users or histories becomes blocks of row numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl
import torch
from torch import Tensor

from shortlist.asking.described import Described, described
from shortlist.asking.queries import Queries
from shortlist.data.batches import histories
from shortlist.data.dataset import TrainingData
from shortlist.data.histories import Events
from shortlist.data.kinds import Kinds
from shortlist.data.predicates import allowed_rows, as_predicate
from shortlist.data.ragged import Ragged, joined, keep, taken
from shortlist.data.vocabulary import flat_ids
from shortlist.errors import QueryError

BLOCK = 4096
"""How many queries are held in memory at a time."""


@dataclass(frozen=True)
class RowQueries:
    """B queries in rows. users: [B] int64, 0 unknown; history: item rows, oldest first, all of it;
    exclude: whether the history must not be recommended; weight: [total] float32, of each event of
    the history, None where the log has no weights or the history came with the query. allow: bool
    [items + 1], the rows any query may get, None for all. time: like weight, in the log's unit;
    None unless asked for. kind: like weight, codes of `kinds`; both None where the log has no kinds
    of events. met: item rows that were met besides, which nothing reads: with the history they must
    not be recommended. described: features that came with the queries.
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

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor] | None:
        """The rows each query must not get, as an index takes them."""
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
        """What each event counts for its kind, [total] float32; None where all count 1."""
        if self.kind is None or self.kinds is None:
            return None
        worth = self.kinds.worth(self.kind.numpy())
        return None if worth is None else torch.from_numpy(worth)

    def take(self, which: Tensor) -> "RowQueries":
        """Return the queries of these numbers, in their order, [n] int64."""

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
        )

    def _events(self, column: Tensor, which: Tensor) -> Ragged:
        return taken(Ragged(column, self.history.offsets), which)


def row_blocks(
    queries: Queries, data: TrainingData, *, timed: bool = False, size: int = BLOCK
) -> Iterator[RowQueries]:
    """Translate queries to rows, `size` at a time; timed: with the times of their events."""
    allow = allowed(queries, data)
    if queries.histories is not None:
        for at in range(0, len(queries), size):
            part = queries.histories[at : at + size]
            kinds = None if queries.kinds is None else queries.kinds[at : at + size]
            block = _from_histories(part, data, queries.exclude_seen, allow, kinds)
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
        if queries.recent is not None:
            kinds = None if queries.kinds is None else queries.kinds[at : at + size]
            known = _followed(known, queries.recent[at : at + size], data, kinds)
        met = None if others is None else histories(others, users, None)
        if queries.met is not None and queries.exclude_seen:
            since = _rows_of_lists(queries.met[at : at + size], data)
            met = since if met is None else joined(met, since)
        block = RowQueries(
            *(users, known.items, queries.exclude_seen, known.weight, allow, known.time, met),
            kind=known.kind,
            kinds=data.log.kinds,
        )
        yield _with_features(block, queries, at, data)


def _with_features(block: RowQueries, queries: Queries, at: int, data: TrainingData) -> RowQueries:
    """Return a block that begins at query `at` with what the queries tell of their users."""
    if not queries.features:
        return block
    stop = at + len(block.users)
    part = {name: values[at:stop] for name, values in queries.features.items()}
    return replace(block, described=described(part, block.users, data))


def _followed(
    known: Events,
    recent: Sequence[Sequence[Any]] | pl.Series,
    data: TrainingData,
    kinds: Sequence[Sequence[str | None]] | None,
) -> Events:
    """Return the events with those that came since behind them."""
    later = _rows_of_lists(recent, data)

    def behind(column: Tensor | None, value: float) -> Tensor | None:
        if column is None:
            return None
        added = torch.full((len(later.values),), value, dtype=column.dtype)
        return joined(Ragged(column, known.items.offsets), Ragged(added, later.offsets)).values

    time = None if known.time is None else behind(known.time, data.newest_time)
    kind, came = known.kind, _codes_of_kinds(kinds, len(later.values), data)
    if kind is not None and came is not None:
        kind = joined(Ragged(kind, known.items.offsets), Ragged(came, later.offsets)).values
    return Events(joined(known.items, later), behind(known.weight, 1), time, kind)


def allowed(queries: Queries, data: TrainingData) -> Tensor | None:
    """Return which item rows the filters of the queries let through, bool [items + 1], or None."""
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


def _from_histories(
    lists: Sequence[Sequence[Any]] | pl.Series,
    data: TrainingData,
    exclude: bool,
    allow: Tensor | None,
    names: Sequence[Sequence[str | None]] | None,
) -> RowQueries:
    users, rows = torch.zeros(len(lists), dtype=torch.int64), _rows_of_lists(lists, data)
    kind = _codes_of_kinds(names, len(rows.values), data)
    return RowQueries(users, rows, exclude, None, allow, kind=kind, kinds=data.log.kinds)


def _codes_of_kinds(
    names: Sequence[Sequence[str | None]] | None, events: int, data: TrainingData
) -> Tensor | None:
    """The codes of the kinds of a query's events, [events]; None for a log without kinds."""
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
                f"no event of the kind {name!r:.60} is read; those that are: "
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
