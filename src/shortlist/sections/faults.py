"""How does an invalid value of a recipe, a request or a command become an error message?"""

import inspect
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from shortlist.errors import suggest

_LIMITS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table of keys",
    "too_short": "a list of at least one",
}
_JSON_TYPES = _TYPES | {"dict_type": "an object", "model_type": "an object"}
_SIZES = {
    "too_short": ("at least", "min_length"),
    "too_long": ("at most", "max_length"),
    "string_too_short": ("at least", "min_length"),
    "string_too_long": ("at most", "max_length"),
}
_CHOICE = re.compile(r"(?:Value error, )?'(?P<given>.*)' is not one of (?P<names>'.*')\.?")
_SHOWN = 60


def explain(detail: ErrorDetails, sections: Mapping[str, type[BaseModel]]) -> str:
    """Return what was expected, what came and what to do, with the path of the key in a recipe.

    detail: an error of pydantic.
    sections: {name: section} if the path starts with a section's name; empty for keys alone.
    """
    match detail["type"]:
        case "missing":
            where = _where(detail["loc"])
            return f"{where} is required: {_meaning(detail['loc'], sections)}"
        case "extra_forbidden":
            return _unknown(detail["loc"], sections)
    return f"{_where(detail['loc'])} {complaint(detail)}".strip()


def complaint(detail: ErrorDetails) -> str:
    """Return the message without the path, such as "must be > 0, got -1"."""
    got = f"got {reprlib.repr(detail['input'])}"
    match detail["type"]:
        case "literal_error":
            names = re.findall("'([^']+)'", detail["ctx"]["expected"])
            return f"cannot be {got[4:]}.{suggest(str(detail['input']), names)}"
        case "value_error":
            reason = str(detail["ctx"]["error"])
            return reason if not detail["loc"] or reason.endswith(".") else f"{reason}, {got}"
    wanted = _expected(detail, _TYPES)
    # No validator's own words where a phrase of ours is there.
    return f"is not valid: {detail['msg']}, {got}" if wanted is None else f"must be {wanted}, {got}"


def explain_request(errors: Sequence[ErrorDetails], model: type[BaseModel], value: object) -> str:
    """Return the first fault of a request in a sentence, with its place, such as "users[3]".

    An unknown field goes first, because it is often a required one misspelt. The alternatives of a
    union at one place become one sentence.

    errors: the errors of pydantic.
    model: the model of the request.
    value: the request as parsed JSON, or the mapping of a query string.
    """
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    places = [_place(one, value) for one in errors]
    within = _place(first, value)
    # If a list is an alternative and was given, its entry is at fault.
    place = max((p for p in places if p[: len(within)] == within), key=len)
    faults = [one for one, its in zip(errors, places, strict=True) if its == place]
    where, given = _where(place) or "the request", faults[0]["input"]
    if first["type"] == "extra_forbidden":
        return f"{where} is not a field.{suggest(str(place[-1]), _fields(model, place))}"
    if first["type"] == "missing":
        names = ", ".join(sorted(given)) if isinstance(given, Mapping) else ""
        return f"{where} is required; the fields that came are: {names or 'none'}"
    if faults[0]["loc"][-1:] == ("[key]",):
        where = f"the name {_shown(given)} in {_where(place[:-1])}"
    # A value of the right type that breaks a limit: other types are no cure.
    limits = [one for one in faults if one["type"] not in _JSON_TYPES or one["type"] in _SIZES]
    wanted = [_expected(one, _JSON_TYPES) or one["msg"] for one in limits or faults]
    if "a number" in wanted and "a whole number" in wanted:
        wanted.remove("a whole number")
    return f"{where} must be {_either(dict.fromkeys(wanted))}, got {_shown(given)}"


def explain_option(name: str, message: str, errors: Sequence[ErrorDetails]) -> str:
    """Return the fault of an option or argument of a command in a sentence.

    message: the message of the command line's parser.
    errors: the errors of pydantic; empty where the parser has none.
    """
    if found := _CHOICE.fullmatch(message):
        names = re.findall("'([^']+)'", found["names"])
        return f"{name} cannot be {found['given']!r}.{suggest(found['given'], names)}"
    wanted = _expected(errors[0], _TYPES) if errors else None
    if wanted is None:
        return f"{name}: {message}"
    given = errors[0]["input"]
    got = repr(given) if errors[0]["type"].endswith("parsing") else str(given)
    return f"{name} must be {wanted}, got {got:.{_SHOWN}}"


def _expected(detail: ErrorDetails, types: Mapping[str, str]) -> str | None:
    """Return what a value must be, such as ">= 1"; None if there is no phrase for it."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _LIMITS:
        sign, key = _LIMITS[kind]
        return f"{sign} {_number(context[key])}"
    if kind in _SIZES and (kind.startswith("string") or types is _JSON_TYPES):
        least, key = _SIZES[kind]
        noun, unit, units = "text", "character", "characters"
        if not kind.startswith("string"):
            is_object = isinstance(detail["input"], Mapping)
            noun, unit, units = (
                ("an object", "key", "keys") if is_object else ("a list", "entry", "entries")
            )
        return f"{noun} of {least} {context[key]} {unit if context[key] == 1 else units}"
    return types.get(kind)


def _number(limit: float) -> str:
    """A limit as it would be written: 4102444800, not 4.10244e+09."""
    return str(int(limit)) if limit == int(limit) and abs(limit) < 2**64 else f"{limit:g}"


def _either(phrases: Iterable[str]) -> str:
    """Join phrases: "a, b or c"."""
    *some, last = phrases
    return f"{', '.join(some)} or {last}" if some else last


def _shown(value: object) -> str:
    """A JSON value as it was sent, or its kind and size if it is a list, an object or long."""
    if isinstance(value, Mapping):
        return f"an object with {len(value)} key{'s' * (len(value) != 1)}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "[]"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"text of {len(value)} characters"
    return json.dumps(value, ensure_ascii=False)


def _place(detail: ErrorDetails, value: Any) -> tuple[int | str, ...]:
    """Return the parts of a location that lead through the value, without alternatives of unions.

    The last part may name a field that is missing.
    """
    place: list[int | str] = []
    for part in detail["loc"]:
        keys = range(len(value)) if isinstance(value, list) else value
        if isinstance(keys, Mapping | range) and part in keys:
            value = value[part]
            place.append(part)
    return (*place, detail["loc"][-1]) if detail["type"] == "missing" else tuple(place)


def _fields(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the names in JSON of the fields of the object that holds the last part of a place."""
    for part in place[:-1]:
        for name, field in model.model_fields.items():
            if part == (field.alias or name):
                model = next(_models(field.annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[Any]:
    """Yield the models within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _unknown(loc: tuple[int | str, ...], sections: Mapping[str, type[BaseModel]]) -> str:
    key, where = str(loc[-1]), _where(loc)
    if len(loc) > 2 and str(loc[0]) in sections:  # such as data.events.click.rle
        return f"{where} is not a key.{suggest(key, _fields(sections[str(loc[0])], loc[1:]))}"
    homes = [name for name, section in sections.items() if key in section.model_fields]
    if homes:
        own = sections[str(loc[0])].model_fields if len(loc) > 1 and str(loc[0]) in sections else {}
        near = [name for name in own if key in (name.removesuffix("s"), f"{name}s")]
        or_own = f". Did you mean '{loc[0]}.{near[0]}'?" if near else "."
        return f"{where} is not a key: {key!r} belongs to [{homes[0]}]{or_own}"
    if len(loc) == 1:
        return f"[{where}] is not a section.{suggest(key, [*sections, 'channels'])}"
    return f"{where} is not a key.{suggest(key, sections[str(loc[0])].model_fields)}"


def _where(loc: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else key_text(part) for part in loc]
    return ".".join(parts).replace(".[", "[")


def key_text(text: str) -> str:
    """Return a key in TOML syntax, quoted if necessary."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _meaning(loc: tuple[int | str, ...], sections: Mapping[str, type[BaseModel]]) -> str:
    section = sections[str(loc[0])]
    if len(loc) == 1:
        return inspect.cleandoc(section.__doc__ or "").splitlines()[0]
    return str(section.model_fields[str(loc[1])].description)
