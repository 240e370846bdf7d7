"""How do options given by name become a checked table of options, or one clear error?"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from shortlist.asking.capabilities import Channel
from shortlist.errors import ModelError, suggest
from shortlist.sections.base import Section
from shortlist.sections.faults import explain

Chosen = TypeVar("Chosen", bound=Section)


def on_cpu(device: str, owner: str) -> str:
    """Return the device of what has no tensors to put elsewhere; refuse any other (ModelError).

    owner: whom errors name.
    """
    if device != "cpu":
        raise ModelError(
            f"device = '{device}' does nothing for {owner}, which computes on the CPU: leave it "
            "out; towers alone can be put on another device"
        )
    return device


def options_of(kind: type[Channel]) -> type[Section] | None:
    """Return the section of a channel's own options; None where it reads [model] and [training]."""
    own: type[Section] | None = getattr(kind, "options_type", None)
    return own


def checked_options(
    kind: type[Chosen], options: Chosen | None, given: Mapping[str, Any], owner: str
) -> Chosen:
    """Return the options with `given` put over them; `owner` is whom errors name.

    Raises ModelError for a key there is none of, a value out of its range, or one that is missing.

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
