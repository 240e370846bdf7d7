"""What can be asked: known users by id, or anybody by what they met, in the caller's own ids."""

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


@dataclass(frozen=True)
class Queries:
    """Who wants candidates: known users by id, or anybody by what they met.

    users: ids; or histories: one list of item ids each, oldest first, also as a column of lists of
    polars or Arrow. recent: with users, one list
    of item ids each, oldest first, of what they met since: it follows what is stored of them.
    kinds, times, weights: with histories or recent, a list beside each of them that says of each
    event the name of its kind, when it was, and what it weighs. None, or no list: where the log has
    kinds of events (`Schema.events`), the first kind of the table that is no target; the time of
    the request, or else that of the newest event of the log (in histories it is not known); 1.
    time: when each query is asked, one for all or a list, one a query, each as the log writes its
    times: a number in its unit, ISO 8601 text, a date; None where that is not known: then a query
    is answered as at the moment of the newest event that is known of it. A tensor holds steps of
    the log, for callers that know them. Only a model with `request_time` reads it, others refuse
    it; nobody's clock is read here.
    met: with users, one list of item ids each that are left out like what was met, and that nothing
    reads. forgotten: with users, whether each is answered as somebody unknown, of whom `recent` and
    `met` alone are known.
    features: of the users as they are now, {"age": [31, None]}, one value a query, None for what is
    stored; only a query tower with user features reads them, and others refuse them.
    context: what is known of the event asked for before it comes, {"device": ["tv", None]}, one
    value a query, None for not known: features of events with known = "before". Without it nothing
    is known; with `before` of a cut it is that of the user's first event held out there.
    event_features: of the events in histories or recent, {"dwell": [[30.0, None]]}, a list beside
    each of them.
    before: which stored events of a user count as known; 'test' keeps the test rows out of sight.
    exclude_seen: leave out the items the user is known to have met, also those rated below
    min_weight, but not those met in events of kinds with seen = false alone. where: a condition on
    the items' columns (`data.predicates`); allow, deny: item ids that alone may, or must not, be
    recommended. The three are of all queries. quota: at most so many items of each value of a
    column in every answer, {"genre": 3}; the best list that keeps to it is found, and items without
    a value are not limited. rows: bool [items + 1], the rows that alone may be recommended, for
    callers that know rows.
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
        self._check_told()
        if not isinstance(self.before, str) or self.before not in BEFORE:
            raise QueryError(f"before must be one of {', '.join(BEFORE)}, got {self.before!r:.60}")
        check_flag("exclude_seen", self.exclude_seen)
        if self.rows is not None and not (
            isinstance(self.rows, Tensor) and self.rows.dtype == torch.bool and self.rows.ndim == 1
        ):
            raise QueryError("rows must be a bool tensor [items + 1]; to name ids use allow")

    def _check_told(self) -> None:
        """Refuse what does not tell one thing of each query, or of each event it brings."""
        for name, one in (("kinds", "name"), ("times", "time"), ("weights", "weight")):
            if (given := getattr(self, name)) is not None:
                self._check_beside(name, given, one)
        if self.event_features is not None:
            self._check_columns("event_features", self.event_features, '{"dwell": [[30.0]]}')
            for name, lists in self.event_features.items():
                self._check_beside(f"event_features: {name}", lists, "value")
        if self.features is not None:
            self._check_one_a_query("features", self.features, '{"age": [31]}')
        if self.context is not None:
            self._check_one_a_query("context", self.context, '{"device": ["tv"]}')

    def _check_beside(self, name: str, given: Any, one: str) -> None:
        """Refuse what stands beside events and is not one list for each of theirs, as long."""
        events: Any = self.recent if self.histories is None else self.histories
        if events is None:
            key = name.partition(":")[0]
            raise QueryError(f"{key} are those of the events in recent or histories: give these")
        if not is_listed(given) or len(given) != len(events):
            raise QueryError(f"{name} needs one list for each of the {len(events)} lists of events")
        for number, (values, items) in enumerate(zip(given, events, strict=True)):
            if not is_listed(values) or len(values) != len(items):
                raise QueryError(
                    f"{name}[{number}] needs one {one} for each of {len(items)} events, or None"
                )

    def _one_time_a_query(self, time: Any) -> Any:
        """Return a time for each query: one that is given for all is that of each."""
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
            raise QueryError(f"{name} follows what is stored of users: append it to the histories")
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
        """How many queries there are."""
        given = self.users if self.users is not None else self.histories
        return len(given) if given is not None else 0


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
