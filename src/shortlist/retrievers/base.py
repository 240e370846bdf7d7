"""A question in the user's own ids, its answer in the same: the door between ids and rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.batches import histories
from shortlist.data.dataset import TrainingData
from shortlist.data.histories import Events
from shortlist.data.interactions import BEFORE, Cut
from shortlist.data.predicates import Predicate, allowed_rows, as_predicate
from shortlist.data.ragged import Ragged, joined, taken
from shortlist.data.vocabulary import Ids, Vocabulary, checked_ids, checked_lists
from shortlist.errors import QueryError
from shortlist.index.base import Hits

State = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
"""Settings, JSON-safe, and named tensors by file: 'towers' are what vectors come from."""

BLOCK = 4096
"""How many queries are held in memory at a time."""


@dataclass(frozen=True)
class Queries:
    """Who wants candidates: known users by id, or anybody by what they met.

    users: ids; or histories: one list of item ids each, oldest first. recent: with users, one list
    of item ids each, oldest first, of what they met since: it follows what is stored of them, as
    events of weight 1 at the time of the newest event of the log. before: which stored events of a
    user count as known; 'test' keeps the test rows out of sight. exclude_seen: leave out the items
    the user is known to have met, also those rated below min_weight. where: a condition on the
    items' columns (`data.predicates`); allow, deny: item ids that alone may, or must not, be
    recommended. The three are of all queries. quota: at most so many items of each value of a
    column in every answer, {"genre": 3}; the best list that keeps to it is found, and items without
    a value are not limited. rows: bool [items + 1], the rows that alone may be recommended, for
    callers that know rows.
    """

    users: Ids | None = None
    histories: Sequence[Sequence[Any]] | None = None
    before: Cut = "end"
    exclude_seen: bool = True
    where: Predicate | Mapping[str, Any] | None = None
    allow: Ids | None = None
    deny: Ids | None = None
    quota: Mapping[str, int] | None = None
    rows: Tensor | None = None
    recent: Sequence[Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.histories is None):
            raise QueryError("give users or histories: one of the two")
        for name in ("users", "allow", "deny"):
            if (ids := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked_ids(ids, name))
        if self.histories is not None:
            object.__setattr__(self, "histories", checked_lists(self.histories, "histories"))
        if self.recent is not None:
            self._check_recent(self.recent)
        if not isinstance(self.before, str) or self.before not in BEFORE:
            raise QueryError(f"before must be one of {', '.join(BEFORE)}, got {self.before!r:.60}")
        check_flag("exclude_seen", self.exclude_seen)
        if self.rows is not None and not (
            isinstance(self.rows, Tensor) and self.rows.dtype == torch.bool and self.rows.ndim == 1
        ):
            raise QueryError("rows must be a bool tensor [items + 1]; to name ids use allow")

    def _check_recent(self, recent: Any) -> None:
        if self.users is None:
            raise QueryError("recent follows what is stored of users: append it to the histories")
        lists = checked_lists(recent, "recent")
        if len(lists) != len(self.users):
            raise QueryError(
                f"recent needs one list of items a user: {len(self.users)} users, "
                f"{len(lists)} lists"
            )
        object.__setattr__(self, "recent", lists)

    def __len__(self) -> int:
        """How many queries there are."""
        given = self.users if self.users is not None else self.histories
        return len(given) if given is not None else 0


@dataclass(frozen=True)
class RowQueries:
    """B queries in rows. users: [B] int64, 0 unknown; history: item rows, oldest first, all of it;
    exclude: whether the history must not be recommended; weight: [total] float32, of each event of
    the history, None where the log has no weights or the history came with the query. allow: bool
    [items + 1], the rows any query may get, None for all. time: like weight, in the log's unit;
    None unless asked for. met: item rows that were met besides, which nothing reads: with the
    history they must not be recommended.
    """

    users: Tensor
    history: Ragged
    exclude: bool
    weight: Tensor | None = None
    allow: Tensor | None = None
    time: Tensor | None = None
    met: Ragged | None = None

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor] | None:
        """The rows each query must not get, as an index takes them."""
        if self.exclude and self.met is not None:
            both = joined(self.history, self.met)
            return both.values, both.offsets
        return (self.history.values, self.history.offsets) if self.exclude else None

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
            met=None if self.met is None else taken(self.met, which),
        )

    def _events(self, column: Tensor, which: Tensor) -> Ragged:
        return taken(Ragged(column, self.history.offsets), which)


class Origin(NamedTuple):
    """Which channels the slots of an answer come from; see `blend.Blended`."""

    by: Tensor
    ranks: Tensor


class Answer(NamedTuple):
    """The answer to a block of B queries. strangers: bool [B], of which nothing is known."""

    hits: Hits
    strangers: Tensor
    origin: Origin | None = None


@dataclass(frozen=True)
class Candidates:
    """Lists of items, best first, one a query; shorter than k where fewer items match.

    rows: [B, k] int64 item rows, -1 past the end; scores: [B, k] float32, bigger is closer.
    fallback: [B] bool, true where nothing was known of the user and popular items stand in.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    fallback: NDArray[np.bool_]
    items: Vocabulary

    def __len__(self) -> int:
        """How many queries were answered."""
        return len(self.rows)

    @cached_property
    def ids(self) -> list[list[Any]]:
        """The item ids of each query, exactly as they came in."""
        frame = self.to_frame().select("query", "item")
        parts = dict(frame.group_by("query", maintain_order=True).agg("item").iter_rows())
        return [parts.get(query, []) for query in range(len(self))]

    def to_frame(self) -> pl.DataFrame:
        """One row a candidate: query (its position), rank from 1, item id, score, fallback."""
        query, rank = np.nonzero(self.rows >= 0)
        return pl.DataFrame(
            {
                "query": query,
                "rank": rank + 1,
                "item": self.items.external(self.rows[query, rank]),
                "score": self.scores[query, rank],
                "fallback": self.fallback[query],
            }
        )


def as_queries(queries: Queries | Ids) -> Queries:
    """Take a plain list of ids for the users of that name."""
    return queries if isinstance(queries, Queries) else Queries(users=queries)


def check_k(k: int, candidates: int) -> int:
    """Return how many candidates can be given; refuse k < 1, and what is no whole number."""
    return min(checked_count("k", k), candidates)


def checked_count(name: str, count: Any) -> int:
    """Return a whole number of at least 1 as an int. Errors: QueryError."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise QueryError(f"{name} must be a whole number, such as 10, got {count!r:.60}")
    if count < 1:
        raise QueryError(f"{name} must be at least 1, got {count}")
    return int(count)


def check_flag(name: str, flag: Any) -> None:
    """Refuse what is neither true nor false. Errors: QueryError."""
    if not isinstance(flag, bool | np.bool_):
        raise QueryError(f"{name} must be True or False, got {flag!r:.60}")


def lists_of_items(items: Any, queries: int) -> Sequence[Ids]:
    """Return the lists of items that `explain` is asked about, one a query. Errors: QueryError."""
    lists = checked_lists(items, "items")
    if len(lists) != queries:
        raise QueryError(
            f"explain needs one list of items a query: {queries} queries, {len(lists)} lists"
        )
    return lists


def row_blocks(
    queries: Queries, data: TrainingData, *, timed: bool = False, size: int = BLOCK
) -> Iterator[RowQueries]:
    """Translate queries to rows, `size` at a time; timed: with the times of their events."""
    allow = allowed(queries, data)
    if queries.histories is not None:
        for at in range(0, len(queries), size):
            part = queries.histories[at : at + size]
            yield _from_histories(part, data, queries.exclude_seen, allow)
        return
    if queries.users is None or not len(queries):
        return
    others = data.met.before(queries.before) if data.met and queries.exclude_seen else None
    rows = torch.from_numpy(data.users.rows(queries.users))
    for at in range(0, len(rows), size):
        users = rows[at : at + size]
        known = data.histories.latest(users, queries.before, timed=timed)
        if queries.recent is not None:
            known = _followed(known, queries.recent[at : at + size], data)
        met = None if others is None else histories(others, users, None)
        yield RowQueries(
            *(users, known.items, queries.exclude_seen, known.weight, allow, known.time, met)
        )


def _followed(known: Events, recent: Sequence[Sequence[Any]], data: TrainingData) -> Events:
    """Return the events with those that came since behind them."""
    later = _rows_of_lists(recent, data)

    def behind(column: Tensor | None, value: float) -> Tensor | None:
        if column is None:
            return None
        added = torch.full((len(later.values),), value, dtype=column.dtype)
        return joined(Ragged(column, known.items.offsets), Ragged(added, later.offsets)).values

    newest = 0 if data.log.time is None else data.log.time.max(initial=0).item()
    items = joined(known.items, later)
    return Events(items, behind(known.weight, 1), behind(known.time, newest))


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
    lists: Sequence[Sequence[Any]], data: TrainingData, exclude: bool, allow: Tensor | None
) -> RowQueries:
    users = torch.zeros(len(lists), dtype=torch.int64)
    return RowQueries(users, _rows_of_lists(lists, data), exclude, None, allow)


def _rows_of_lists(lists: Sequence[Sequence[Any]], data: TrainingData) -> Ragged:
    """Return lists of item ids as lists of rows."""
    lengths = torch.tensor([len(items) for items in lists])
    flat = [item for items in lists for item in items]
    rows = torch.from_numpy(data.items.rows(flat)) if flat else torch.zeros(0, dtype=torch.int64)
    offsets = torch.zeros(len(lists) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return Ragged(rows, offsets)
