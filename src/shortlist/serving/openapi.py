"""What does the OpenAPI document say? It is built from the table of routes and the models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.json_schema import models_json_schema

from shortlist.data.ceilings import MOST_DEEP, MOST_NODES
from shortlist.serving.messages import ErrorAnswer, Message
from shortlist.serving.requests import CONDITION_HERE

Token = Literal["none", "read", "write", "admin"]

_SCHEMAS = "#/components/schemas/"


@dataclass(frozen=True)
class Route:
    """A route of the service.

    token: the token that it needs.
    meaning: its summary in the OpenAPI document, one short sentence.
    asks: model of the request body, or of the query string of a GET; None without one.
    answers: model of the answer; None if the answer is text of the media type `text`.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    token: Token
    meaning: str
    asks: type[Message] | None = None
    answers: type[Message] | None = None
    text: str = "text/plain"


def document(
    routes: Iterable[Route], models: Mapping[type[Message], type[Message]], version: str
) -> dict[str, Any]:
    """Return the OpenAPI document.

    models: for each model that a route asks, the same model with the limits of the service.
    version: version of Shortlist.
    """
    routes = tuple(routes)
    named = [models[route.asks] for route in routes if route.asks is not None]
    named += [route.answers for route in routes if route.answers is not None]
    shown: list[Any] = [(model, "validation") for model in dict.fromkeys((*named, ErrorAnswer))]
    _, schemas = models_json_schema(shown, ref_template=_SCHEMAS + "{model}")
    components = _with_conditions(schemas["$defs"]) | {"Condition": _CONDITION}
    paths: dict[str, Any] = {}
    for route in routes:
        model = models[route.asks] if route.asks is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, model, components
        )
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shortlist", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"read": bearer, "write": bearer, "admin": bearer},
        },
    }


def _operation(
    route: Route, model: type[Message] | None, schemas: Mapping[str, Any]
) -> dict[str, Any]:
    content: dict[str, Any] = {route.text: {"schema": {"type": "string"}}}
    if route.answers is not None:
        content = _json(route.answers.__name__)
    operation: dict[str, Any] = {
        "summary": route.meaning,
        "operationId": route.path.strip("/").replace("/", "_").replace(".", "_") or "page",
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {"description": "An error.", "content": _json(ErrorAnswer.__name__)},
        },
    }
    if route.token != "none":
        operation["security"] = [{route.token: []}]
    if model is not None and route.method == "POST":
        operation["requestBody"] = {"required": True, "content": _json(model.__name__)}
    elif model is not None:
        operation["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in schemas[model.__name__]["properties"].items()
        ]
    if "{" in route.path:
        name = route.path.partition("{")[2].partition("}")[0]
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + model}}}


def _with_conditions(part: Any) -> Any:
    """Replace the marks CONDITION_HERE by references to the schema of a condition."""
    if isinstance(part, dict):
        if CONDITION_HERE in part:
            return {"$ref": f"{_SCHEMAS}Condition"}
        return {key: _with_conditions(value) for key, value in part.items()}
    return [_with_conditions(each) for each in part] if isinstance(part, list) else part


def _keyed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_PART = {"$ref": f"{_SCHEMAS}Condition"}
_PARTS = {"type": "array", "items": _PART, "minItems": 1}
_VALUE = {"type": ["string", "number", "boolean"]}
_COLUMN = {"type": "string"}
_CONDITION = {
    "title": "Condition",
    "description": "A condition on the columns of the items; only items that fulfil it are "
    f"recommended. It has at most {MOST_NODES} parts and {MOST_DEEP} levels.",
    "anyOf": [
        _keyed(column=_COLUMN, eq=_VALUE),
        _keyed(column=_COLUMN, **{"in": {"type": "array", "items": _VALUE}}),
        _keyed(column=_COLUMN, min={"type": "number"}),
        _keyed(column=_COLUMN, max={"type": "number"}),
        _keyed(column=_COLUMN, min={"type": "number"}, max={"type": "number"}),
        _keyed(**{"and": _PARTS}),
        _keyed(**{"or": _PARTS}),
        _keyed(**{"not": _PART}),
    ],
}
