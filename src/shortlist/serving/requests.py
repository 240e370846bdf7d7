"""What may a request ask? Strict models of request bodies, and the functions that read them."""

import re
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import ConfigDict, Field, ValidationError, create_model

from shortlist.errors import ServingError
from shortlist.sections.faults import explain_request
from shortlist.serving.messages import (
    FeatureScalar,
    FeatureValue,
    Id,
    IdNumber,
    Ids,
    Message,
    RequestError,
    Time,
)
from shortlist.serving.request_ids import LENGTH
from shortlist.serving.settings import Limits

LATEST = 4_102_444_800
"""The year 2100 in seconds since 1970: later times are refused, as in an event log."""

HEAVIEST = 1e15
"""The largest absolute weight; sums of many such weights stay finite."""

CONDITION_HERE = "x-condition"
"""Key that marks where the OpenAPI document inserts the schema of a condition."""

_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"([ \t\r\n]*:)?', re.DOTALL)


class RecommendRequest(Message):
    """Request for candidates of known users, or of histories of items: give one of the two.

    An unknown user and an empty history get popular items, with fallback true.

    - users: ids of the users.
    - histories: one list of item ids per query, oldest first.
    - recent: with `users`, one list of item ids per user, oldest first: events that the bundle does
      not know. They follow the stored events, and their items are left out of the answer as well.
    - kinds, times, weights: one list beside each list of `recent` or `histories`, with one value
      per event; null for an unknown value. Those that the bundle does not read are refused.
    - time: the time of the request, one for all queries or a list with one per query. The default
      is the current time, if the bundle reads it (`model.request_time`). Times are in the format of
      the log: numbers in its unit, or text such as "2024-01-31T20:15:00Z".
    - features: current features of the users, such as `{"age": [31, null]}`, with one value per
      query; null keeps the stored value. A feature that the bundle does not read is refused.
    - context: features of the current moment, such as `{"device": ["tv", null]}`, with one value
      per query; null for an unknown value. They are features of events (`features.events`).
    - event_features: features of the events in `recent` or `histories`, such as
      `{"dwell": [[30, null]]}`, with one list beside each list of events.
    - k: candidates per query.
    - exclude_seen: leave out the items that a user or history has met.
    - where: a condition on the columns of the items, for all queries.
    - quota: the maximum number of items with the same value of one column in each list, such as
      `{"genre": 3}`.
    - allow: the only items that may be recommended, for all queries.
    - deny: items that must not be recommended, for all queries.
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
    """Request for similar items of items, or for similar users of users: give one of the two.

    - items, users: ids to which similar ones are wanted.
    - k: number of similar items or users per id.
    """

    items: Ids | None = None
    users: Ids | None = None
    k: int = 10


class ExplainRequest(Message):
    """Request for the reasons of items' scores, for a user or for a history: give one of the two.

    - user: id of the user.
    - history: item ids, oldest first.
    - items: items to explain.

    The other fields are those of RecommendRequest for one query, as lists of length one, such as
    `{"recent": [[7, 9]], "context": {"device": ["tv"]}}`.
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
    """Request for the newest `limit` known items of a user's events, oldest first."""

    user: Id
    limit: int = 100


class TitlesRequest(Message):
    """Request for the titles of items."""

    items: Ids


class UsersRequest(Message):
    """Request for at most `limit` users whose id begins with `search`."""

    # Not strict: the values of a query string are text.
    model_config = ConfigDict(strict=False)

    search: str = ""
    limit: int = 20


class ItemWindow(Message):
    """The time window in which an item is available, from <= now < until, in seconds since 1970.

    Without `from` the window has no beginning, without `until` no end. Without both the item is
    always available, and an earlier window is removed.
    """

    id: Id
    since: float | None = Field(default=None, alias="from")
    until: float | None = None


class ItemsRequest(Message):
    """A change of items, applied whole or not at all, to this bundle and to later ones.

    - id: the sender's name of the change. The same change sent again under it is not repeated.
    - add: new items that the bundle was not trained on, as rows of the items table,
      `{"id": ..., column: value}`. A column that is left out is missing.
    - remove: candidates that must not be recommended any more.
    - restore: removed items that may be recommended again.
    - set: new values of known items, `{"id": ..., column: value}`, in columns that no model has
      learned from. Columns that are left out stay as they are.
    - available: time windows in which items are available.
    """

    id: str | None = None
    add: list[dict[str, Any]] = []
    remove: Ids = []
    restore: Ids = []
    set: list[dict[str, Any]] = []
    available: list[ItemWindow] = []


class RevertRequest(Message):
    """Request to revert a change of items, by its number."""

    change: int


class ChangesRequest(Message):
    """Request for the newest changes of items: at most `limit`, with numbers below `before`."""

    # Not strict: the values of a query string are text.
    model_config = ConfigDict(strict=False)

    before: int | None = None
    limit: int = 20


class LatestRequest(Message):
    """Request for the newest `limit` events of all users."""

    # Not strict: the values of a query string are text.
    model_config = ConfigDict(strict=False)

    limit: int = 20


class EventSent(Message):
    """An event: a user met an item. Both may be unknown to the bundle.

    - kind: kind of the event, such as "click".
    - time: seconds since 1970; the default is the time of arrival.
    - weight: weight as in the log, if the log has weights. Without it the event counts as a
      positive of weight 1.
    - id: the sender's name of the event. Sent again within a day, the event is not counted again.
    - features: features of the event by their names in the recipe (`features.events`), such as
      `{"device": "tv"}`; null for an unknown value.
    - request: the id of the list that the user saw, from `requests` of an answer. It is used for
      the click figures and not stored.
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
    """Events in their order. They are stored whole or not at all."""

    events: list[EventSent]


Asked = TypeVar("Asked", bound=Message)


def limited(model: type[Asked], limits: Limits) -> type[Asked]:
    """Return the model with `limits` on its fields; they are checked, and documented in OpenAPI.

    Errors: ServingError for a field without a limit (booleans need none), so that no new field is
    forgotten.
    """
    kinds = _kinds(limits) | _own_kinds(model.__name__, limits)
    for name, field in model.model_fields.items():
        if name not in kinds and field.annotation is not bool:
            raise ServingError(
                f"{model.__name__}.{name} has no limit: give it one in serving/requests.py"
            )
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in kinds:
            kind = kinds[name]
            if not field.is_required():
                kind = kind | None if field.default is None else kind
            # Keep the default, and the name of the field in JSON.
            fields[name] = (kind, Field(field.default, alias=field.alias))
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def _kinds(limits: Limits) -> dict[str, Any]:
    """The types of limited fields by name; a name has the same type in all models."""
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
    """The types of limited fields that only this model has."""
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
    """Columns with one value per query; a value is a JSON scalar or a list of them."""
    one: Any = _scalar(limits)
    several: Any = Annotated[list[one], Field(max_length=limits.history)]
    return _columns(one | several, limits)


def _scalar(limits: Limits) -> Any:
    """A JSON scalar: null, a boolean, a finite number or a text."""
    text = Annotated[str, Field(max_length=limits.id_length)]
    number = Annotated[float, Field(allow_inf_nan=False)]
    return bool | IdNumber | number | text | None


def _columns(kind: Any, limits: Limits) -> Any:
    """Columns by name, each with one value of type `one` per query."""
    column: Any = Annotated[list[kind], Field(max_length=limits.queries, fail_fast=True)]
    name = Annotated[str, Field(max_length=limits.id_length)]
    return Annotated[dict[name, column], Field(max_length=limits.features)]


def _time(limits: Limits) -> Any:
    """A time in any format that a log may have; `Queries` checks it against the bundle's log."""
    number = Annotated[float, Field(allow_inf_nan=False)]
    return IdNumber | number | Annotated[str, Field(max_length=limits.id_length)]


def _beside(kind: Any, limits: Limits) -> Any:
    """One list per list of events, with one value per event; null for an unknown value."""
    several: Any = Annotated[list[kind | None], Field(max_length=limits.history, fail_fast=True)]
    return Annotated[list[several], Field(max_length=limits.queries, fail_fast=True)]


def _one(limits: Limits) -> Any:
    text = Annotated[str, Field(max_length=limits.id_length)]
    return Annotated[IdNumber | text, Field(union_mode="left_to_right")]


def _many(most: int, limits: Limits, least: int = 0) -> Any:
    one = _one(limits)
    bounds = Field(min_length=least, max_length=most, fail_fast=True)
    return Annotated[list[one], bounds]  # type: ignore[valid-type]


def read(model: type[Asked], body: bytes) -> Asked:
    """Read a request body. Errors: RequestError, which names the place of the fault."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("invalid_json", f"the body is not JSON: {error}") from None
    if body.count(b":") > 1 and _keys(value) != sum(1 for key in _KEY.finditer(body) if key[1]):
        raise RequestError("invalid_json", "duplicate key in an object")
    return check(model, value)


def check(model: type[Asked], value: object) -> Asked:
    """Validate parsed JSON against a model. Errors: RequestError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise RequestError("invalid_request", explain_request(errors, model, value)) from None


def check_condition(where: dict[str, Any], limits: Limits) -> None:
    """Refuse a condition with too many parts, levels or values. Errors: RequestError."""
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
    """The number of keys of all objects in a JSON value."""
    found, left = 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            found += len(part)
            left += [inner for inner in part.values() if isinstance(inner, dict | list)]
        elif isinstance(part, list):
            left += [inner for inner in part if isinstance(inner, dict | list)]
    return found
