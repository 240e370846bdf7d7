"""How is a request answered? Ids come in and columns go out; one bundle gives the whole answer."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any

import numpy as np
import orjson
import polars as pl
import torch

from shortlist.asking.capabilities import Explains, FindsSimilar, FindsSimilarUsers
from shortlist.asking.clock import now
from shortlist.asking.context import unknown_context
from shortlist.asking.gone import popular_if_gone
from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import DataError, IndexServerError, QueryError
from shortlist.evaluation.report import Report
from shortlist.serving.event_log import EventLog
from shortlist.serving.feedback import Feedback
from shortlist.serving.fresh import Fresh, fresh
from shortlist.serving.map import item_map
from shortlist.serving.measures import Measures
from shortlist.serving.messages import Message, RequestError
from shortlist.serving.requests import (
    ExplainRequest,
    HistoryRequest,
    LatestRequest,
    RecommendRequest,
    SimilarRequest,
    TitlesRequest,
    UsersRequest,
    check_condition,
    limited,
    read,
)
from shortlist.serving.served import Served, check_ids, condition
from shortlist.serving.settings import Limits

NO_VECTORS = "the index server does not answer; try again later"

Columns = dict[str, Any]
"""An answer before it is encoded: columns by name, some of them numpy arrays."""


@dataclass(frozen=True)
class Question:
    """A kind of request: the model with limits that reads it, and the function that answers it."""

    model: type[Message]
    answer: Callable[[Served, Any], Columns]


class Service:
    """Answers requests from the served bundle, without HTTP, files or threads of its own.

    Several threads may use it at once. Each request keeps the bundle that is served at its start.

    current: returns the served bundle; None before the first one is loaded.
    events: the store of events; None if the service keeps none.
    clock: returns seconds since 1970; it decides which items are available.
    feedback: counts the answered lists; None to count nothing.
    """

    def __init__(
        self,
        current: Callable[[], Served | None],
        limits: Limits,
        measures: Measures,
        events: EventLog | None = None,
        clock: Callable[[], float] = time,
        feedback: Feedback | None = None,
    ) -> None:
        self.current = current
        self.clock = clock
        self.events = events
        self.feedback = feedback
        self.limits = limits
        self.measures = measures
        answers: Mapping[type[Message], Callable[[Served, Any], Columns]] = {
            RecommendRequest: self._recommend,
            SimilarRequest: self._similar,
            ExplainRequest: self._explain,
            HistoryRequest: self._history,
            TitlesRequest: self._titles,
            UsersRequest: self._users,
            LatestRequest: self._latest,
        }
        self.questions = {
            model: Question(limited(model, limits), answer) for model, answer in answers.items()
        }

    def answer_bytes(self, model: type[Message], body: bytes) -> bytes:
        """Read a request from JSON and return the answer as JSON. Errors: RequestError."""
        question = self.questions[model]
        started = perf_counter()
        asked = read(question.model, body)
        parsed = perf_counter()
        columns = self._ask(question, asked)
        answered = perf_counter()
        data = encode(columns)
        self.measures.stages(parsed - started, answered - parsed, perf_counter() - answered)
        return data

    def answer(self, model: type[Message], asked: Message) -> bytes:
        """Return the answer to a request that is already parsed, as JSON. Errors: RequestError."""
        return encode(self._ask(self.questions[model], asked))

    def map(self) -> bytes:
        """Return the map of the items in two dimensions, as JSON. Errors: RequestError."""
        served = self.served()
        try:
            return encode(item_map(served, served.available(self.clock())))
        except IndexServerError:
            raise RequestError("store_unavailable", NO_VECTORS) from None

    def report(self) -> bytes:
        """Return the report that was saved with the bundle, as JSON. Errors: RequestError."""
        return encode(report(self.served()))

    def served(self) -> Served:
        """Return the bundle that is served. Errors: RequestError "not_ready"."""
        served = self.current()
        if served is None:
            raise RequestError("not_ready", "no bundle is loaded yet")
        return served

    def event_log(self) -> EventLog:
        """Return the store of events. Errors: RequestError "not_supported" if there is none."""
        if self.events is None:
            raise RequestError(
                "not_supported", "this service stores no events; start it with --events"
            )
        return self.events

    def _ask(self, question: Question, asked: Message) -> Columns:
        served = self.served()
        try:
            with torch.inference_mode(), popular_if_gone():
                return question.answer(served, asked)
        except QueryError as error:
            raise RequestError("invalid_request", str(error)) from None
        except IndexServerError:  # the log names the server
            raise RequestError("store_unavailable", NO_VECTORS) from None

    def _recommend(self, served: Served, asked: RecommendRequest) -> Columns:
        users, histories = asked.users, asked.histories
        if (users is None) == (histories is None):
            raise RequestError("invalid_request", "give either users or histories")
        data, count = served.data, len(users if users is not None else histories or ())
        if count * asked.k > self.limits.candidates:
            raise RequestError(
                "invalid_request",
                f"{count} queries with {asked.k} candidates each: a request may ask for at most "
                f"{self.limits.candidates} candidates",
            )
        if asked.where is not None:
            check_condition(asked.where, self.limits)
        known = None if users is None else check_ids(users, data.users, "users")
        events = asked.recent if histories is None else histories
        since, question = self._question(served, asked, known, histories)
        queries = Queries(
            **question,
            exclude_seen=asked.exclude_seen,
            where=None if asked.where is None else condition(asked.where),
            quota=asked.quota,
            allow=None if asked.allow is None else check_ids(asked.allow, data.items, "allow"),
            deny=None if asked.deny is None else check_ids(asked.deny, data.items, "deny"),
            rows=served.available(self.clock()),
        )
        found = served.recommend(queries, asked.k)
        items, scores = served.lists(found)
        answer: Columns = {
            "bundle": served.id,
            "users": users,
            "items": items,
            "scores": scores,
            "fallback": found.fallback,
        }
        if (channels := served.channels(found)) is not None:
            answer["channels"] = channels
        if self.events is not None:
            answer["without_events"] = not since.available
        if self.feedback is not None:
            self.feedback.answered(served, queries, asked.k, found)
            if self.events is not None:
                known_events = _known_events(served, known, queries, since)
                answer["requests"] = self.feedback.shown(served, found, items, known_events)
        if events is not None:
            answer["unknown_items"] = unknown = _unknown(events, data.items)
            self.measures.unknown_items.inc(sum(unknown))
        if reads := served.retriever.query_context:
            features, context = data.event_features, asked.context
            answer["unknown_context"] = gaps = unknown_context(reads, context, count, features)
            self.measures.unknown_context.inc(sum(gaps))
        self.measures.answered(len(found), int(found.fallback.sum()))
        return answer

    def _question(
        self,
        served: Served,
        asked: RecommendRequest | ExplainRequest,
        users: Any,
        histories: list[list[Any]] | None,
    ) -> tuple[Fresh, dict[str, Any]]:
        """The stored events of the users, and the arguments of `Queries` for the request."""
        events = asked.recent if histories is None else histories
        if events is not None:
            name = "recent" if histories is None else "histories"
            self._check_histories(served, events, name)
        since = Fresh() if users is None else fresh(self.events, served, users)
        beside = {"kinds": asked.kinds, "times": asked.times, "weights": asked.weights}
        self._check_weights(served, asked.weights)
        follow = since.asked(asked.recent, beside)
        return since, {
            "users": users,
            "histories": histories,
            **follow,
            "time": now(served.retriever) if asked.time is None else asked.time,
            "features": asked.features,
            "context": asked.context,
            "event_features": _behind(
                *(asked.event_features, events, follow["recent"], since.features)
            ),
        }

    def _without_forgotten(self, names: list[Any], scores: list[Any]) -> tuple[Any, Any]:
        """Remove deleted users from lists of similar users."""
        gone = frozenset() if self.events is None else self.events.forgotten
        if gone.isdisjoint(name for listed in names for name in listed):
            return names, scores
        kept = [[place for place, name in enumerate(each) if name not in gone] for each in names]
        values = [part.tolist() for part in scores]
        names, scores = (
            [[each[place] for place in places] for each, places in zip(lists, kept, strict=True)]
            for lists in (names, values)
        )
        return names, scores

    def _of_user(self, served: Served, user: Any) -> Queries:
        """The query of one user with all stored events, at the current time."""
        users = check_ids([user], served.data.users, "user")
        return Queries(
            users=users, time=now(served.retriever), **fresh(self.events, served, users).asked(None)
        )

    def _check_weights(self, served: Served, weights: list[list[float | None]] | None) -> None:
        """Refuse events below the minimum weight, which are not positives. Errors: RequestError."""
        least = served.min_weight
        for number, values in enumerate(weights or ()):
            for place, weight in enumerate(values):
                if weight is not None and least is not None and weight < least:
                    raise RequestError(
                        "invalid_request",
                        f"weights[{number}][{place}]: {weight:g} is below min_weight = {least:g} "
                        "of the bundle's log, so the event is not a positive: leave it out",
                    )

    def _check_histories(
        self, served: Served, lists: list[list[Any]], name: str = "histories"
    ) -> None:
        total = sum(map(len, lists))
        if total > self.limits.history_items:
            raise RequestError(
                "invalid_request",
                f"{name}: {total} items; a request may have at most {self.limits.history_items}",
            )
        for number, items in enumerate(lists):
            check_ids(items, served.data.items, f"{name}[{number}]")

    def _similar(self, served: Served, asked: SimilarRequest) -> Columns:
        side = "items" if asked.items is not None else "users"
        ids = asked.items if asked.items is not None else asked.users
        if ids is None or (asked.items is not None and asked.users is not None):
            raise RequestError("invalid_request", "give either items or users")
        retriever, data = served.retriever, served.data
        if not isinstance(retriever, FindsSimilarUsers if side == "users" else FindsSimilar):
            raise RequestError(
                "not_supported",
                f"this bundle ({served.kind}) cannot find similar {side}",
            )
        if len(ids) * asked.k > self.limits.candidates:
            raise RequestError(
                "invalid_request",
                f"a request may ask for at most {self.limits.candidates} candidates",
            )
        vocabulary = data.items if side == "items" else data.users
        given: Any = check_ids(ids, vocabulary, side)
        if side == "users":
            stored = fresh(self.events, served, given).asked(None)
            given = Queries(users=given, **stored | {"met": None})
        found = served.similar(given, asked.k, self.clock())
        names, scores = served.named(found, vocabulary.ids)
        if side == "users":
            names, scores = self._without_forgotten(names, scores)
        return {
            "bundle": served.id,
            "similar_to": ids,
            side: names,
            "scores": scores,
            "fallback": found.fallback,
        }

    def _explain(self, served: Served, asked: ExplainRequest) -> Columns:
        if (asked.user is None) == (asked.history is None):
            raise RequestError("invalid_request", "give either user or history")
        retriever, data = served.retriever, served.data
        if not isinstance(retriever, Explains):
            raise RequestError(
                "not_supported", f"this bundle ({served.kind}) cannot explain its scores"
            )
        items = check_ids(asked.items, data.items, "items")
        for item, row in zip(items, data.items.rows(items), strict=True):
            if row == 0:
                raise RequestError("invalid_request", f"item {item!r:.40} is unknown")
        users = None if asked.user is None else check_ids([asked.user], data.users, "user")
        histories = None if asked.history is None else [asked.history]
        queries = Queries(**self._question(served, asked, users, histories)[1])
        frame = retriever.explain(queries, [items]).drop("query")
        reasons = {name: frame[name].to_list() for name in frame.columns}
        return {
            "bundle": served.id,
            "items": asked.items,
            "reasons": reasons | {"title": _because(served, frame)},
            "reasons_sum": bool(retriever.reasons_sum),
        }

    def _history(self, served: Served, asked: HistoryRequest) -> Columns:
        data = served.data
        queries = self._of_user(served, asked.user)
        block = next(iter(row_blocks(queries, data)))
        met = block.history.values
        rows = met[met > 0][-asked.limit :].numpy()  # the bundle has no ids of unknown items
        return {
            "bundle": served.id,
            "user": asked.user,
            "known": bool(block.users[0] > 0),
            "events": len(met),
            "items": data.items.external(rows).to_list(),
            "titles": served.titles(rows),
        }

    def _titles(self, served: Served, asked: TitlesRequest) -> Columns:
        data = served.data
        items = check_ids(asked.items, data.items, "items")
        titles = served.titles(data.items.rows(items))
        return {"bundle": served.id, "items": asked.items, "titles": titles}

    def _users(self, served: Served, asked: UsersRequest) -> Columns:
        ids = served.data.users.ids
        if self.events is not None and self.events.forgotten:
            own = int if ids.dtype == pl.Int64 else str
            gone = [user for user in self.events.forgotten if isinstance(user, own)]
            ids = ids.filter(~ids.is_in(pl.Series(gone, dtype=ids.dtype).implode()))
        if asked.search:
            ids = ids.filter(ids.cast(pl.String).str.starts_with(asked.search))
        return {
            "bundle": served.id,
            "users": ids.head(asked.limit).to_list(),
            "total": len(ids),
        }

    def _latest(self, served: Served, asked: LatestRequest) -> Columns:
        newest = self.event_log().newest[: asked.limit]
        items = served.data.items
        # Events may come from an earlier bundle with ids of the other type.
        own = int if items.ids.dtype == pl.Int64 else str
        ids: Any = [one.event.item for one in newest if isinstance(one.event.item, own)]
        names = dict(zip(ids, served.titles(items.rows(ids)), strict=True))
        return {
            "bundle": served.id,
            "item_change": served.change,
            "sequence": [one.number for one in newest],
            "users": [one.event.user for one in newest],
            "items": [one.event.item for one in newest],
            "titles": [names.get(one.event.item) for one in newest],
            "kinds": [one.event.kind for one in newest],
            "times": [one.time / 1e6 for one in newest],
        }


def encode(columns: Columns) -> bytes:
    """Return columns as JSON."""
    return orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY)


def report(served: Served) -> Columns:
    """Return data sizes, metrics, their summary and findings of a manifest, without any paths."""
    fields: Any = served.bundle.manifest.fields
    data = fields["data"]
    summary: list[str] | None = None
    if fields["metrics"] is not None:
        with suppress(DataError):  # figures that another program wrote into the bundle
            summary = list(Report.of_dict(fields["metrics"]).in_short())
    return {
        "bundle": served.id,
        "retriever": served.kind,
        "made_by": served.bundle.manifest.created_by,
        "data": {
            "events": data["events"],
            "users": data["trained_users"],
            "items": data["trained_items"],
            "split": data["split"],
            "fitted_on": data["fit"],
        },
        "in_short": summary,
        "metrics": fields["metrics"],
        "findings": fields.get("findings", []),
        "plan": fields["settings"].get("plan"),
        "index": fields.get("index"),
    }


def _behind(
    columns: dict[str, list[list[Any]]] | None,
    events: list[list[Any]] | None,
    all_events: list[list[Any]] | None,
    stored: Mapping[str, list[list[Any]]],
) -> Mapping[str, list[list[Any]]] | None:
    """The features of stored events followed by those of the request's events.

    columns: features of the request's events.
    events: items of the request's events.
    all_events: items of all events, the stored ones first.
    stored: features of the stored events.
    """
    if events is None or all_events is None:
        return columns or stored or None
    given = columns or {}
    if len(events) != len(all_events) or not _one_each(given, events):
        return given  # `Queries` refuses it and names the feature
    unsaid = [[None] * len(items) for items in events]
    before = [
        [None] * (len(every) - len(items)) for every, items in zip(all_events, events, strict=True)
    ]
    found = {
        name: [
            [*old, *new]
            for old, new in zip(stored.get(name, before), given.get(name, unsaid), strict=True)
        ]
        for name in {**stored, **given}
    }
    return found or None


def _one_each(columns: dict[str, list[list[Any]]], events: list[list[Any]]) -> bool:
    """Tell whether each column has one value for each event."""
    lengths = [len(items) for items in events]
    return all([len(values) for values in lists] == lengths for lists in columns.values())


def _known_events(
    served: Served, users: list[Any] | None, queries: Queries, since: Fresh
) -> list[int]:
    """The number of known events of each query."""
    if users is None:
        return [len(events) for events in queries.histories or ()]
    log, rows = served.data.log, served.data.users.rows(users)
    logged = (log.indptr[rows + 1] - log.indptr[rows]).tolist()
    gone = since.forgotten or [False] * len(users)
    recent = queries.recent or [[]] * len(users)
    return [
        len(events) + (0 if forgotten else old)
        for events, forgotten, old in zip(recent, gone, logged, strict=True)
    ]


def _unknown(histories: list[list[Any]], items: Vocabulary) -> list[int]:
    """The number of unknown items in each history."""
    return [int((items.rows(history) == 0).sum()) if history else 0 for history in histories]


def _because(served: Served, reasons: pl.DataFrame) -> list[str | None]:
    """The title of the item in each reason; None for a reason that is not an event."""
    events = np.flatnonzero((reasons["kind"] == "event").to_numpy())
    titles: list[str | None] = [None] * len(reasons)
    if len(events):
        items = served.data.items
        rows = items.rows(items.parse(reasons["because"].gather(events).to_list()))
        for position, title in zip(events.tolist(), served.titles(rows), strict=True):
            titles[position] = title
    return titles
