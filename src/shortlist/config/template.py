"""What does a newcomer start from? A recipe that explains every key."""

import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping

from shortlist.config.faults import key_text
from shortlist.config.recipe import SECTIONS
from shortlist.config.sections import Section

OPTIONAL = ("blend",)
"""Sections that change what a recipe is by being there: shown, but not set."""


def template(
    choices: Mapping[str, Iterable[str]] | None = None,
    channels: Mapping[str, type[Section]] | None = None,
) -> str:
    """Return a recipe that shows every key with its meaning and its default, for a start.

    Only required keys are set. `choices` names what a key can be, where this file cannot know:
    `{"training.loss": LOSSES, "training.sampler": SAMPLERS}`. channels: the options of each kind
    of channel.
    """
    lines = [
        "# A recipe for `shortlist train`. Only [data] is required. A key behind `#` shows its",
        "# default, or an example where it is unset by default.",
    ]
    for section, model in SECTIONS.items():
        if section in OPTIONAL:
            lines += _channels(channels or {})
        meaning = inspect.cleandoc(model.__doc__ or "")
        header = f"# [{section}]" if section in OPTIONAL else f"[{section}]"
        lines += ["", *(f"# {line}".rstrip() for line in meaning.splitlines()), header]
        for key in model.model_fields:
            lines += _key(model, key, tuple((choices or {}).get(f"{section}.{key}", ())))
    return "\n".join(lines) + "\n"


def _channels(kinds: Mapping[str, type[Section]]) -> list[str]:
    """Show a table of each kind of channel."""
    lines = [
        "",
        "# Channels: retrievers that take the place of the towers above, or stand beside them",
        "# (kind = two-tower, with the keys of [model] and [training] that differ). One channel",
        "# answers alone; several are merged as [blend] says. The names are yours.",
    ]
    for kind, options in kinds.items():
        lines += ["#", f"# [channels.my-{kind}]", f'# kind = "{kind}"']
        for key in options.model_fields:
            lines += _key(options, key, (), commented=True)
    return lines


def _key(
    model: type[Section], key: str, names: tuple[str, ...], *, commented: bool = False
) -> list[str]:
    """Show one key: its meaning, then its default or an example."""
    value = model.model_fields[key]
    meaning = f"{value.description}" + (f" One of: {', '.join(sorted(names))}." if names else "")
    lines = textwrap.wrap(meaning, 98, initial_indent="# ", subsequent_indent="# ")
    shown = _toml(value.examples[0] if value.examples else value.default)
    if value.is_required() and not commented:
        return [*lines, f"{key} = {shown}"]
    unset = value.default is None
    return [*lines, f"# {key} = {shown}{'  # unset by default' if unset else ''}"]


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key_text(str(key))} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
