"""How does an invalid value of a recipe become an error message?"""

import inspect
import json
import re
import reprlib
from collections.abc import Mapping

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from shortlist.errors import suggest
from shortlist.sections.events import EventKind

_LIMITS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table of keys",
    "too_short": "a list of at least one",
}


def explain(detail: ErrorDetails, sections: Mapping[str, type[BaseModel]]) -> str:
    """Return what was expected, what came and what to do, with the path of the key.

    detail: an error of pydantic.
    sections: {name: section} if the path starts with a section's name; empty for keys alone.
    """
    where, context = _where(detail["loc"]), detail.get("ctx", {})
    got = f"got {reprlib.repr(detail['input'])}"
    match detail["type"]:
        case "missing":
            return f"{where} is required: {_meaning(detail['loc'], sections)}"
        case "extra_forbidden":
            return _unknown(detail["loc"], sections)
        case "literal_error":
            names = re.findall("'([^']+)'", context["expected"])
            return f"{where} cannot be {got[4:]}.{suggest(str(detail['input']), names)}"
        case "value_error":
            reason = str(context["error"])
            whole = not where or reason.endswith(".")
            return f"{where} {reason}".strip() + ("" if whole else f", {got}")
        case limit if limit in _LIMITS:
            sign, key = _LIMITS[limit]
            return f"{where} must be {sign} {context[key]:g}, {got}"
        case wrong if wrong in _TYPES:
            return f"{where} must be {_TYPES[wrong]}, {got}"
        case _:
            return f"{where}: {detail['msg']}, {got}"


def _unknown(loc: tuple[int | str, ...], sections: Mapping[str, type[BaseModel]]) -> str:
    key, where = str(loc[-1]), _where(loc)
    if loc[:2] == ("data", "events"):
        return f"{where} is not a key.{suggest(key, EventKind.model_fields)}"
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
