"""What may be asked and what is answered, as JSON: strict models, and the one place they are read.

An id is a JSON integer or string, as the data have it: "1" is not 1. An unknown key, a key that
stands twice, or a value of another type is an error, never passed over.
"""

import re
from typing import Annotated, Any, TypeAlias, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from shortlist.errors import ServingError
from shortlist.serving.request_ids import LENGTH
from shortlist.serving.settings import Limits

MESSAGE_LENGTH = 300
"""Characters of an error message: what was sent may be quoted, but not all of it."""

TYPES = {"int", "str", "bool", "float", "none"}
"""What stands in the place of a fault for a type that a value might have had."""

LATEST = 4_102_444_800
"""2100, in seconds since 1970: later times are refused by whoever reads a log, too."""

HEAVIEST = 1e15
"""The largest weight: sums of many such still fit."""

CONDITION_HERE = "x-condition"
"""Marks the place in a schema where the OpenAPI document puts the schema of a condition."""

_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"([ \t\r\n]*:)?', re.DOTALL)


class RequestError(Exception):
    """A request that cannot be answered as asked. code: for machines, one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = _short(message)


class Message(BaseModel):
    """A JSON object with these keys and no others, each value of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


IdNumber: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Id: TypeAlias = IdNumber | str
Ids: TypeAlias = list[Id]


Time: TypeAlias = IdNumber | float | str | None


FeatureScalar: TypeAlias = bool | IdNumber | float | str | None
FeatureValue: TypeAlias = FeatureScalar | list[FeatureScalar]


class RecommendRequest(Message):
    """Candidates for known users, or for anybody by what they met, oldest first: one of the two.

    recent: with users, a list of items each, oldest first, of what they met since; they follow what
    is stored and are left out of the answer like it.
    kinds, times, weights: of the events in recent or histories, a list beside each of them, null
    for not said. time: when the queries are asked, one for all or a list; by default now, where the
    bundle reads it (model.request_time). Times are as the log writes them: numbers in its unit, or
    text such as "2024-01-31T20:15:00Z".
    features: of the users as they are now, {"age": [31, null]}, one value a query, null for what is
    stored; refused where the bundle reads none of that name.
    context: what is known of the moment, {"device": ["tv", null]}, one value a query, null where it
    is not known. event_features: of the events in histories or recent, {"dwell": [[30, null]]}, a
    list beside each of them. Both are features of events (`features.events`) of the bundle's log.
    where: a condition on the items' columns; allow, deny: items that alone may, or must not, be
    recommended. The three are of all queries. quota: at most so many items of each value of one
    column in every answer, {"genre": 3}. An unknown user or an empty history gets the popular
    items, with fallback true.
    """

    users: Ids | None = None
    histories: list[Ids] | None = None
    recent: list[Ids] | None = None
    kinds: list[list[str | None]] | None = None
    times: list[list[Time]] | None = None
    weights: list[list[float | None]] | None = None
    time: Time | list[Time] = None
    features: dict[str, list[FeatureValue]] | None = None
    context: dict[str, list[FeatureScalar]] | None = None
    event_features: dict[str, list[list[FeatureScalar]]] | None = None
    k: int = 10
    exclude_seen: bool = True
    where: dict[str, Any] | None = None
    quota: dict[str, int] | None = None
    allow: Ids | None = None
    deny: Ids | None = None


class SimilarRequest(Message):
    """What is like each of these items (or users, for a bundle that compares users)."""

    items: Ids | None = None
    users: Ids | None = None
    k: int = 10


class ExplainRequest(Message):
    """Why do items have their scores, for a user or for a history: one of the two.

    All else says what it does in a question for candidates, of one query: lists of one each, such
    as {"recent": [[7, 9]], "context": {"device": ["tv"]}}.
    """

    user: Id | None = None
    history: Ids | None = None
    items: Ids
    recent: list[Ids] | None = None
    kinds: list[list[str | None]] | None = None
    times: list[list[Time]] | None = None
    weights: list[list[float | None]] | None = None
    time: Time | list[Time] = None
    features: dict[str, list[FeatureValue]] | None = None
    context: dict[str, list[FeatureScalar]] | None = None
    event_features: dict[str, list[list[FeatureScalar]]] | None = None


class HistoryRequest(Message):
    """What did a user meet: the newest `limit` items, oldest first."""

    user: Id
    limit: int = 100


class TitlesRequest(Message):
    """How are these items called?"""

    items: Ids


class UsersRequest(Message):
    """Some users whose id begins with `search`."""

    # It comes as a query string, where a number is text.
    model_config = ConfigDict(strict=False)

    search: str = ""
    limit: int = 20


class ItemWindow(Message):
    """An item is answered from one moment on, until another: seconds since 1970.

    Without `from` it always was, without `until` it always will be; without both it is always
    available again.
    """

    id: Id
    since: float | None = Field(default=None, alias="from")
    until: float | None = None


class ItemsRequest(Message):
    """Changes of items, all of them or none: of this bundle and of those that come.

    add: rows of the items table, `{"id": ..., column: value}`, of items that were not trained on;
    a column left out is missing. remove: candidates that must not be answered any more. restore:
    removed ones to take back. set: other values of known items, `{"id": ..., column: value}`, in
    columns that nothing was learned from; columns left out stay as they are. available: when items
    are answered. id: what the sender calls the change; sent again, it is not made again.
    """

    id: str | None = None
    add: list[dict[str, Any]] = []
    remove: Ids = []
    restore: Ids = []
    set: list[dict[str, Any]] = []
    available: list[ItemWindow] = []


class RevertRequest(Message):
    """Take a change of items back, by its number."""

    change: int


class ChangesRequest(Message):
    """The newest changes of items: `limit` of them, with numbers below `before`."""

    # It comes as a query string, where a number is text.
    model_config = ConfigDict(strict=False)

    before: int | None = None
    limit: int = 20


class LatestRequest(Message):
    """The newest `limit` events, of all users."""

    # It comes as a query string, where a number is text.
    model_config = ConfigDict(strict=False)

    limit: int = 20


class EventSent(Message):
    """A user met an item, known or not.

    kind: what it was, such as "click". time: seconds since 1970, or when it arrived. weight: as in
    the log, if that has weights; left out, it counts as a positive of weight 1. id: what the sender
    calls it; sent again within a day, it is not counted again. features: of the event, by their
    names in the recipe ([features.events]), such as {"device": "tv"}; null is not known. request:
    the id of the list that the user saw, as `requests` of an answer has it; it is counted, not
    kept.
    """

    user: Id
    item: Id
    kind: str | None = None
    time: float | None = None
    weight: float | None = None
    id: str | None = None
    features: dict[str, FeatureScalar] | None = None
    request: str | None = None


class EventsRequest(Message):
    """Events in their order: all are kept, or none of them."""

    events: list[EventSent]


Asked = TypeVar("Asked", bound=Message)


def limited(model: type[Asked], limits: Limits) -> type[Asked]:
    """Return the model with the limits on its fields, checked and documented with it.

    A field without a limit is refused, so that a new one cannot be forgotten; true and false need
    none. Errors: ServingError.
    """
    kinds = _kinds(limits) | _own_kinds(model.__name__, limits)
    for name, field in model.model_fields.items():
        if name not in kinds and field.annotation is not bool:
            raise ServingError(
                f"{model.__name__}.{name} has no limit: give it one in serving/messages.py"
            )
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in kinds:
            kind = kinds[name]
            if not field.is_required():
                kind = kind | None if field.default is None else kind
            # As the model has it, with its default and the name that it has in JSON.
            fields[name] = (kind, Field(field.default, alias=field.alias))
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def _kinds(limits: Limits) -> dict[str, Any]:
    """The type of each field that has a limit, by its name in every model."""
    history = _many(limits.history, limits)
    histories: Any = Annotated[
        list[history], Field(max_length=limits.queries, fail_fast=True)  # type: ignore[valid-type]
    ]
    return {
        "user": _one(limits),
        "users": _many(limits.queries, limits),
        "histories": histories,
        "recent": histories,
        "history": _many(limits.history, limits),
        "kinds": _beside(Annotated[str, Field(min_length=1, max_length=limits.kind)], limits),
        "times": _beside(_time(limits), limits),
        "weights": _beside(Annotated[float, Field(ge=0, le=HEAVIEST, allow_inf_nan=False)], limits),
        "time": _time(limits)
        | Annotated[
            list[_time(limits) | None],  # type: ignore[misc]
            Field(max_length=limits.queries, fail_fast=True),
        ],
        "features": _features(limits),
        "context": _columns(_scalar(limits), limits),
        "event_features": _columns(
            Annotated[list[_scalar(limits)], Field(max_length=limits.history, fail_fast=True)],  # type: ignore[misc]
            limits,
        ),
        "items": _many(limits.queries, limits),
        "allow": _many(limits.ids, limits),
        "deny": _many(limits.ids, limits),
        "k": Annotated[int, Field(ge=1, le=limits.k)],
        "limit": Annotated[int, Field(ge=1, le=limits.queries)],
        "search": Annotated[str, Field(max_length=limits.id_length)],
        "where": Annotated[
            dict[str, Any],
            Field(json_schema_extra={CONDITION_HERE: True}),
        ],
        "quota": Annotated[
            dict[
                Annotated[str, Field(max_length=limits.id_length)],
                Annotated[int, Field(ge=1, le=limits.k)],
            ],
            Field(min_length=1, max_length=1),
        ],
    }


def _own_kinds(model: str, limits: Limits) -> dict[str, Any]:
    """What a name means in one model only."""
    text = Annotated[str, Field(min_length=1, max_length=limits.id_length)]
    number = Annotated[int, Field(ge=1, lt=2**63)]
    if model == "TitlesRequest":
        return {"items": _many(limits.ids, limits)}
    if model == "ItemsRequest":
        rows: Any = Annotated[list[dict[str, Any]], Field(max_length=limits.ids, fail_fast=True)]
        ids = _many(limits.ids, limits)
        window = limited(ItemWindow, limits)
        windows = Annotated[
            list[window],  # type: ignore[valid-type]
            Field(max_length=limits.ids, fail_fast=True),
        ]
        own = {"id": text, "add": rows, "remove": ids, "restore": ids}
        return own | {"set": rows, "available": windows}
    if model == "ItemWindow":
        moment = Annotated[float, Field(ge=0, lt=LATEST, allow_inf_nan=False)]
        return {"id": _one(limits), "since": moment, "until": moment}
    if model == "RevertRequest":
        return {"change": number}
    if model == "ChangesRequest":
        return {"before": number}
    if model == "EventSent":
        return {
            "item": _one(limits),
            "kind": Annotated[str, Field(min_length=1, max_length=limits.kind)],
            "time": Annotated[float, Field(ge=0, lt=LATEST, allow_inf_nan=False)],
            "weight": Annotated[float, Field(ge=-HEAVIEST, le=HEAVIEST, allow_inf_nan=False)],
            "id": text,
            "features": Annotated[
                dict[Annotated[str, Field(max_length=limits.id_length)], _scalar(limits)],  # type: ignore[misc]
                Field(max_length=limits.features),
            ],
            "request": Annotated[str, Field(min_length=1, max_length=LENGTH)],
        }
    if model == "EventsRequest":
        one = limited(EventSent, limits)
        bounds = Field(min_length=1, max_length=limits.events, fail_fast=True)
        return {"events": Annotated[list[one], bounds]}  # type: ignore[valid-type]
    if model == "ExplainRequest":
        return {"items": _many(limits.explained, limits, least=1)}
    return {}


def _features(limits: Limits) -> Any:
    """Columns of values, one a query; a value is one of plain JSON, or a list of such."""
    one: Any = _scalar(limits)
    several: Any = Annotated[list[one], Field(max_length=limits.history)]
    return _columns(one | several, limits)


def _scalar(limits: Limits) -> Any:
    """A value of plain JSON."""
    text = Annotated[str, Field(max_length=limits.id_length)]
    number = Annotated[float, Field(allow_inf_nan=False)]
    return bool | IdNumber | number | text | None


def _columns(one: Any, limits: Limits) -> Any:
    """Columns by name, one of these a query."""
    column: Any = Annotated[list[one], Field(max_length=limits.queries, fail_fast=True)]
    name = Annotated[str, Field(max_length=limits.id_length)]
    return Annotated[dict[name, column], Field(max_length=limits.features)]


def _time(limits: Limits) -> Any:
    """A moment as a log writes it: what it may be is for its own data to say."""
    number = Annotated[float, Field(allow_inf_nan=False)]
    return IdNumber | number | Annotated[str, Field(max_length=limits.id_length)]


def _beside(one: Any, limits: Limits) -> Any:
    """Lists of as many values as a list of events has, null for each that is not said."""
    several: Any = Annotated[list[one | None], Field(max_length=limits.history, fail_fast=True)]
    return Annotated[list[several], Field(max_length=limits.queries, fail_fast=True)]


def _one(limits: Limits) -> Any:
    text = Annotated[str, Field(max_length=limits.id_length)]
    return Annotated[IdNumber | text, Field(union_mode="left_to_right")]


def _many(most: int, limits: Limits, least: int = 0) -> Any:
    one = _one(limits)
    bounds = Field(min_length=least, max_length=most, fail_fast=True)
    return Annotated[list[one], bounds]  # type: ignore[valid-type]


def read(model: type[Asked], body: bytes) -> Asked:
    """Read a request body. Errors: RequestError, with the place of what is wrong."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("invalid_json", f"the body is not JSON: {error}") from None
    if body.count(b":") > 1 and _keys(value) != sum(1 for key in _KEY.finditer(body) if key[1]):
        raise RequestError("invalid_json", "a key stands twice in one object")
    return check(model, value)


def check(model: type[Asked], value: object) -> Asked:
    """Return the request these plain values are. Errors: RequestError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RequestError("invalid_request", _complaint(error)) from None


def check_condition(where: dict[str, Any], limits: Limits) -> None:
    """Refuse a condition with too many parts, levels or values, before anything reads it."""
    nodes, values = 0, 0
    level: list[Any] = [where]
    depth = 0
    while level:
        depth += 1
        if depth > limits.filter_depth:
            raise RequestError("invalid_request", f"where: at most {limits.filter_depth} levels")
        below: list[Any] = []
        for part in level:
            nodes += 1
            for key, value in part.items():
                if key == "in" and isinstance(value, list):
                    values += len(value)
                elif isinstance(value, list):
                    below += [each for each in value if isinstance(each, dict)]
                    nodes += sum(not isinstance(each, dict) for each in value)
                elif isinstance(value, dict):
                    below.append(value)
        if nodes + len(below) > limits.filter_nodes:
            raise RequestError("invalid_request", f"where: at most {limits.filter_nodes} parts")
        if values > limits.filter_values:
            raise RequestError("invalid_request", f"where: at most {limits.filter_values} values")
        level = below


def _keys(value: object) -> int:
    """How many keys all objects in a JSON value have together."""
    found, left = 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            found += len(part)
            left += [inner for inner in part.values() if isinstance(inner, dict | list)]
        elif isinstance(part, list):
            left += [inner for inner in part if isinstance(inner, dict | list)]
    return found


def _complaint(error: ValidationError) -> str:
    """The first thing wrong, and where: "users[3]: Input should be ..."."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    place = _place(errors[0])
    said = [fault["msg"] for fault in errors if _place(fault) == place]
    message = " or ".join(dict.fromkeys(said))
    return f"{place}: {message}" if place else message


def _place(fault: ErrorDetails) -> str:
    place = ""
    for part in fault["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif "constrained" not in part and part not in TYPES:
            place += f".{part}" if place else part
    return place


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else f"{message[: MESSAGE_LENGTH - 1]}…"


class ErrorDetail(Message):
    """code: one word for machines; message: what was expected and what came."""

    code: str
    message: str


class ErrorAnswer(Message):
    """What every answer that is not 2xx holds."""

    error: ErrorDetail


class RecommendAnswer(Message):
    """Candidates, best first: position i of each column is of query i.

    users: as asked, null for histories. fallback: true where nothing was known and popular items
    stand in. channels: only from a blend, which channel gave each item. unknown_items: only for
    histories, how many items of each were passed over; so for recent. unknown_context: only from a
    bundle that reads the moment of a query, how many features of it were missing, or had a value
    that training never saw. without_events: only where
    the service keeps events; true where the store was not available, so that none are counted.
    requests: only where the service keeps events, the id of each list: an event that carries it as
    `request` says what came of the list.
    """

    bundle: str
    users: Ids | None
    items: list[Ids]
    scores: list[list[float]]
    fallback: list[bool]
    channels: list[list[str]] = []
    unknown_items: list[int] = []
    unknown_context: list[int] = []
    without_events: bool = False
    requests: list[str] = []


class SimilarAnswer(Message):
    """What is like each id of `similar_to`, best first: items or users, as asked."""

    bundle: str
    similar_to: Ids
    items: list[Ids] = []
    users: list[Ids] = []
    scores: list[list[float]]
    fallback: list[bool]


class Reasons(Message):
    """One position a reason, an item's strongest first. title: of the item in `because`.

    Where `reasons_sum`, the contributions of an item sum to its score, or in a blend to the score
    of the named channel; elsewhere they are what the score loses without the event, and need not.
    """

    item: Ids
    kind: list[str]
    because: list[str]
    contribution: list[float | None]
    title: list[str | None]
    channel: list[str] = []


class ExplainAnswer(Message):
    """The reasons of each item; an item that cannot be scored for this query has none."""

    bundle: str
    items: Ids
    reasons: Reasons
    reasons_sum: bool


class HistoryAnswer(Message):
    """Known items that a user met, oldest first. events: how many there are in all."""

    bundle: str
    user: Id
    known: bool
    events: int
    items: Ids
    titles: list[str]


class TitlesAnswer(Message):
    """The title of each item, or its id where it has none; null for an unknown item."""

    bundle: str
    items: Ids
    titles: list[str | None]


class UsersAnswer(Message):
    """Some user ids, and how many there are that begin as asked."""

    bundle: str
    users: Ids
    total: int


class LatestAnswer(Message):
    """The newest events that this process has kept, newest first: 100 at most, none of before it
    began. A column each: the event's number, user, item, its title (null for an unknown item),
    kind, and its time, in seconds since 1970. item_change: the number of the last change of items.
    """

    bundle: str
    item_change: int
    sequence: list[int]
    users: Ids
    items: Ids
    titles: list[str | None]
    kinds: list[str | None]
    times: list[float]


class MapAnswer(Message):
    """Where at most 5,000 items lie in the plane in which their vectors differ most."""

    bundle: str
    items: Ids
    titles: list[str]
    x: list[float]
    y: list[float]
    counts: list[int]
    explained: list[float]


class ReportAnswer(Message):
    """The figures that were saved with the bundle."""

    bundle: str
    retriever: str
    made_by: str
    data: dict[str, Any]
    metrics: dict[str, Any] | None
    findings: list[dict[str, Any]]
    plan: dict[str, Any] | None
    index: dict[str, Any] | None


class RefusedBundle(Message):
    """A bundle that was found and not taken."""

    name: str
    reason: str


class BundleAnswer(Message):
    """What is served. loaded_at: seconds since 1970. item_change: the number of the last change of
    items in it. refused: what was found and not taken.
    """

    bundle: str
    retriever: str
    name: str
    loaded_at: float
    item_change: int
    metrics: dict[str, Any] | None
    refused: list[RefusedBundle]


class ReloadAnswer(Message):
    """What is served after the look, and whether that changed."""

    bundle: str
    changed: bool
    refused: list[RefusedBundle]


class ItemsAnswer(Message):
    """What is served after the change. items: candidates there are now; removed: of all that the
    bundle or a change brought, those that are not answered. change: its number; repeated: it had
    been made before, and nothing was done. durable: whether it survives the process, which takes
    `serve --events`. left_out: how many values of all changes do not fit this bundle.
    """

    bundle: str
    items: int
    removed: int
    change: int
    repeated: bool
    durable: bool
    left_out: int


class ChangedValue(Message):
    """What a change says of an item.

    part: a column of the items table, or "(added)", "(removed)" or "(available)".
    """

    item: Id
    part: str
    value: Any


class ItemChange(Message):
    """A change of items. made_at: seconds since 1970. reverts: the change that it took back;
    reverted: by which it was taken back. total: how many values of it are kept; values: the first.
    """

    change: int
    id: str | None
    made_at: float
    reverts: int | None
    reverted: int | None
    total: int
    values: list[ChangedValue]


class LeftOutValue(Message):
    """A value that does not fit the bundle that is served, and why."""

    change: int
    item: Id
    reason: str


class ChangesAnswer(Message):
    """Changes of items, the newest first, with 1,000 values at most. change: the number of the last
    one that is served; watermark: what `train --items-watermark` is told of an items table that has
    them all; durable: whether they survive the process. left_out: values that do not fit the
    bundle, 1,000 at most, of `total_left_out`.
    """

    bundle: str
    change: int
    watermark: str
    durable: bool
    changes: list[ItemChange]
    left_out: list[LeftOutValue]
    total_left_out: int


class EventsAnswer(Message):
    """sequence: the number of each event in the store; repeated: how many had been sent before."""

    sequence: list[int]
    repeated: int


class ForgottenAnswer(Message):
    """A user who was deleted. events: how many were removed. held_by: bundles that were published
    with what the user did before; the service answers as if they were not.
    """

    user: Id
    events: int
    held_by: list[str]


class FeedbackFigures(Message):
    """A row each: of all lists, and by bundle, fallback, slice (known events of the user), channel.

    lists, items: that were answered with an id. clicked: lists of which an item was met afterwards.
    clicks: items that were met after a list, shown: those that stood in it; the recalls: in its
    first 10 places, its first 100, anywhere, as a share of clicks; null without clicks. Channels
    have items and clicks alone.
    """

    by: list[str]
    value: list[str]
    lists: list[int]
    items: list[int]
    clicked: list[int]
    clicks: list[int]
    shown: list[int]
    recall_at_10: list[float | None]
    recall_at_100: list[float | None]
    recall: list[float | None]


class IndexFigures(Message):
    """recall: what the index finds of an exact scan, over the last 100 requests compared; null
    where none was, as with an exact index. skipped: requests that the thread had no time for.
    """

    recall: float | None
    compared: int
    skipped: int


class FeedbackAnswer(Message):
    """What this process has seen of its lists since it began.

    requests: new events by what their request id is: of a known list, of one that was answered more
    than a day ago (late), of none of ours (unknown), or not sent (none). alarms: guards that are
    crossed now.
    """

    bundle: str
    figures: FeedbackFigures
    requests: dict[str, int]
    index: IndexFigures
    alarms: list[str]


class StateAnswer(Message):
    """The process is alive; or it is ready to answer."""

    status: str
