"""What does a request contain? Known users by id or histories of items, in the caller's own ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shortlist.data.interactions import BEFORE, Cut
from shortlist.data.moments import is_listed
from shortlist.data.predicates import Predicate
from shortlist.data.vocabulary import Ids, checked_histories, checked_ids, checked_lists
from shortlist.errors import QueryError

FILTERS = ("exclude_seen", "where", "allow", "deny", "quota", "rows", "met")
"""The fields of `Queries` that choose among the items of an answer."""


@dataclass(frozen=True)
class Queries:
    """The queries of one request, and the filters that hold for all of them.

    A query is a known user (`users`) or a history of items (`histories`): give one of the two. One
    "list per query" means a list beside each entry of users or histories.

    Attributes:
        users: ids of known users. An unknown id is answered like a query without a history.
        histories: one list of item ids per query, oldest first; also a polars or Arrow column of
            lists.
        before: which stored events of a user count as known: all of them ("end"), or those before
            the "validation" or the "test" rows of the split. Requires users.
        exclude_seen: leave out the items that the query has met. Events below min_weight count as
            met; events of kinds with seen = false do not.
        where: condition on columns of the items table; see `data.predicates`.
        allow: item ids; only these may be recommended.
        deny: item ids that must not be recommended.
        quota: largest number of items per value of one column in each answer, {"genre": 3}. The
            answer is the best list within the quota. Items without a value are not limited.
        rows: bool tensor [items + 1], True for the item rows that may be recommended; for callers
            that know internal row numbers.
        recent: requires users. One list of item ids per user, oldest first: events that follow the
            stored ones.
        met: requires users. One list of item ids per user that are left out of the answer like met
            items but are not part of the history.
        forgotten: requires users. One flag per user: True ignores what is stored of the user, so
            that only `recent` and `met` count.
        features: current user features, {"age": [31, None]}, one value per query; None keeps the
            stored value. QueryError unless the model reads them.
        kinds: the kind of each event in histories or recent, one list per query. Default (None):
            the first kind in the event table that is not a target.
        times: the time of each event in histories or recent, one list per query, written as `time`.
            Default (None): in recent, the query's `time` or else the newest time of the log; in
            histories, unknown.
        weights: the weight of each event in histories or recent, one list per query. Default: 1.
            QueryError unless a channel reads them (values = "explicit").
        time: when each query is asked, one value for all or one per query: a number in the time
            unit of the log, ISO 8601 text or a date. A tensor holds integer steps of the log. None:
            the time of the query's newest known event; the clock of the machine is never read. Only
            models with `request_time` accept it.
        context: features of the requested event that are known in advance (known = "before"),
            {"device": ["tv", None]}, one value per query; None is unknown. Default: unknown, except
            that with before = "validation" or "test" it comes from the user's first held-out event.
        event_features: features of the events in histories or recent, {"dwell": [[30.0, None]]},
            one list per query.

    Raises:
        QueryError: for fields that contradict each other, have the wrong type, or do not have one
            entry per query or per event.
    """

    users: Ids | None = None
    histories: Sequence[Sequence[Any]] | pl.Series | None = None
    before: Cut = "end"
    exclude_seen: bool = True
    where: Predicate | Mapping[str, Any] | None = None
    allow: Ids | None = None
    deny: Ids | None = None
    quota: Mapping[str, int] | None = None
    rows: Tensor | None = None
    recent: Sequence[Sequence[Any]] | None = None
    met: Sequence[Sequence[Any]] | None = None
    forgotten: Sequence[bool] | None = None
    features: Mapping[str, Sequence[Any]] | None = None
    kinds: Sequence[Sequence[str | None]] | None = None
    times: Sequence[Sequence[Any]] | None = None
    weights: Sequence[Sequence[float | None]] | None = None
    time: Any = None
    context: Mapping[str, Sequence[Any]] | None = None
    event_features: Mapping[str, Sequence[Sequence[Any]]] | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.histories is None):
            raise QueryError("give users or histories: one of the two")
        for name in ("users", "allow", "deny"):
            if (ids := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked_ids(ids, name))
        if self.histories is not None:
            given = checked_histories(self.histories, "histories")
            object.__setattr__(self, "histories", given)
        for name in ("recent", "met"):
            if (lists := getattr(self, name)) is not None:
                object.__setattr__(self, name, self._one_a_user(name, checked_lists(lists, name)))
        object.__setattr__(self, "time", self._one_time_a_query(self.time))
        if self.forgotten is not None:
            for flag in self._one_a_user("forgotten", self.forgotten):
                check_flag("forgotten", flag)
        self._check_lengths()
        if not isinstance(self.before, str) or self.before not in BEFORE:
            raise QueryError(f"before must be one of {', '.join(BEFORE)}, got {self.before!r:.60}")
        if self.before != "end" and self.users is None:
            raise QueryError(
                f"before = '{self.before}' is for stored events, so it needs users: shorten the "
                "histories instead"
            )
        check_flag("exclude_seen", self.exclude_seen)
        if self.rows is not None and not (
            isinstance(self.rows, Tensor) and self.rows.dtype == torch.bool and self.rows.ndim == 1
        ):
            raise QueryError("rows must be a bool tensor [items + 1]; to name ids use allow")

    def _check_lengths(self) -> None:
        """Check that each given column has one value per query, or one per event."""
        for name, noun in (("kinds", "name"), ("times", "time"), ("weights", "weight")):
            if (given := getattr(self, name)) is not None:
                self._check_beside(name, given, noun)
        if self.event_features is not None:
            self._check_columns("event_features", self.event_features, '{"dwell": [[30.0]]}')
            for name, lists in self.event_features.items():
                self._check_beside(f"event_features: {name}", lists, "value")
        if self.features is not None:
            self._check_one_a_query("features", self.features, '{"age": [31]}')
        if self.context is not None:
            self._check_one_a_query("context", self.context, '{"device": ["tv"]}')

    def _check_beside(self, name: str, given: Any, noun: str) -> None:
        """Check that a column has one list per query, each as long as the query's events."""
        events: Any = self.recent if self.histories is None else self.histories
        if events is None:
            key = name.partition(":")[0]
            raise QueryError(f"{key} describe the events in recent or histories: give these, too")
        if not is_listed(given) or len(given) != len(events):
            raise QueryError(f"{name} needs one list for each of the {len(events)} lists of events")
        for number, (values, items) in enumerate(zip(given, events, strict=True)):
            if not is_listed(values) or len(values) != len(items):
                raise QueryError(
                    f"{name}[{number}] needs one {noun} for each of {len(items)} events, or None"
                )

    def _one_time_a_query(self, time: Any) -> Any:
        """Return one time per query; a single time is repeated for all of them."""
        if time is None:
            return None
        if isinstance(time, Tensor):
            if time.ndim == 0:
                return time.expand(len(self))
            if time.ndim != 1 or len(time) != len(self):
                raise QueryError(f"time must be a tensor [{len(self)}], got {list(time.shape)}")
            return time
        if not is_listed(time):
            return [time] * len(self)
        if len(time) != len(self):
            raise QueryError(
                f"time needs one for all, or one a query: {len(self)} queries, {len(time)} times"
            )
        return time

    def _one_a_user(self, name: str, given: Sequence[Any]) -> Sequence[Any]:
        if self.users is None:
            raise QueryError(
                f"{name} adds to what is stored of users, so it needs users: with histories, put "
                "the events into the histories"
            )
        if len(given) != len(self.users):
            what, many = ("list of items", "lists") if name != "forgotten" else ("flag", "flags")
            raise QueryError(
                f"{name} needs one {what} a user: {len(self.users)} users, {len(given)} {many}"
            )
        return given

    def _check_columns(self, what: str, given: Any, example: str) -> None:
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise QueryError(f"{what} must be a mapping such as {example}, got {given!r:.60}")

    def _check_one_a_query(self, what: str, given: Any, example: str) -> None:
        self._check_columns(what, given, f"{example}, one value a query")
        for name, values in given.items():
            if not isinstance(values, list | tuple | pl.Series | np.ndarray):
                raise QueryError(f"{what}: {name} must be a list, one value a query")
            if len(values) != len(self):
                raise QueryError(
                    f"{what}: {name} needs one value a query: {len(self)} queries, "
                    f"{len(values)} values"
                )

    def __len__(self) -> int:
        """Return the number of queries."""
        given = self.users if self.users is not None else self.histories
        return len(given) if given is not None else 0


def as_queries(queries: Queries | Ids) -> Queries:
    """Return `Queries`; a plain list of ids becomes the users."""
    return queries if isinstance(queries, Queries) else Queries(users=queries)


def refuse_filters(queries: Queries, what: str) -> None:
    """Refuse what chooses among items where no items are chosen. Errors: QueryError.

    what: what the queries are asked for, such as "the vector of a query".
    """
    for name in FILTERS:
        value = getattr(queries, name)
        if value is not None and (name != "exclude_seen" or not value):
            raise QueryError(
                f"{name} does nothing for {what}: it chooses the items that `recommend` returns. "
                "Leave it out"
            )


def check_k(k: int, candidates: int) -> int:
    """Return min(k, candidates). Errors: QueryError unless k is a whole number >= 1."""
    return min(checked_count("k", k), candidates)


def checked_count(name: str, count: Any) -> int:
    """Return a whole number of at least 1 as an int. Errors: QueryError."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise QueryError(f"{name} must be a whole number, such as 10, got {count!r:.60}")
    if count < 1:
        raise QueryError(f"{name} must be at least 1, got {count}")
    return int(count)


def check_flag(name: str, flag: Any) -> None:
    """Check that a flag is a bool. Errors: QueryError."""
    if not isinstance(flag, bool | np.bool_):
        raise QueryError(f"{name} must be True or False, got {flag!r:.60}")


def lists_of_items(items: Any, queries: int) -> Sequence[Ids]:
    """Return the items to explain, one list of ids per query. Errors: QueryError."""
    lists = checked_lists(items, "items")
    if len(lists) != queries:
        raise QueryError(
            f"explain needs one list of items a query: {queries} queries, {len(lists)} lists"
        )
    return lists
