"""How are options that are given by name checked against a table of options?"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from shortlist.asking.capabilities import Channel
from shortlist.errors import ModelError, suggest
from shortlist.sections.base import Section
from shortlist.sections.faults import explain

Chosen = TypeVar("Chosen", bound=Section)


def on_cpu(device: str, owner: str) -> str:
    """Return the device of a channel that computes on the CPU; refuse any other.

    owner: name of the channel in the error. Errors: ModelError.
    """
    if device != "cpu":
        raise ModelError(
            f"device = '{device}' does nothing for {owner}, which computes on the CPU: leave it "
            "out; only towers can be put on another device"
        )
    return device


def options_of(kind: type[Channel]) -> type[Section] | None:
    """Return the section of a channel's own options; None if it reads [model] and [training]."""
    own: type[Section] | None = getattr(kind, "options_type", None)
    return own


def checked_options(
    kind: type[Chosen], options: Chosen | None, given: Mapping[str, Any], owner: str
) -> Chosen:
    """Return the options with `given` overriding them, validated.

    owner: name of the channel in errors.
    Errors: ModelError for an unknown key, a value out of its range, or a missing required option.

    >>> from shortlist.channels.counting.popular import PopularOptions
    >>> checked_options(PopularOptions, None, {"half_life": 60.0}, "Popular").half_life
    60.0
    """
    if options is not None and not given:
        return options
    known = {} if options is None else options.model_dump()
    for key in given:
        if key not in kind.model_fields:
            raise ModelError(f"{owner} has no option {key!r}.{suggest(key, kind.model_fields)}")
    try:
        checked = kind.model_validate(known | dict(given))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "missing":
            field = str(fault["loc"][0])
            raise ModelError(
                f"{owner} needs the option {field!r}: {kind.model_fields[field].description}"
            ) from error
        raise ModelError(explain(fault, {})) from error
    if reason := checked.idle():
        raise ModelError(reason)
    return checked
