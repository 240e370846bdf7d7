"""How is a recipe written: a template that explains every key, or a given recipe as TOML?"""

import inspect
import json
import textwrap
from collections.abc import Mapping
from itertools import chain

from shortlist.config.parts import CHOICES, keys_of
from shortlist.config.recipe import SECTIONS, Recipe
from shortlist.metrics import PER_USER
from shortlist.sections.base import Section
from shortlist.sections.faults import key_text

OPTIONAL = ("blend", "tune")
"""Sections that already act by being present: a template shows them commented out."""


def template(channels: Mapping[str, type[Section]] | None = None) -> str:
    """Return a recipe that explains every key and shows its default.

    Only required keys are set. channels: the options of each kind of channel.
    """
    lines = [
        "# A recipe for `shortlist train`. Only [data] is required. A key behind `#` shows its",
        "# default, or an example where it is unset by default.",
    ]
    for section, model in SECTIONS.items():
        if section == "blend":
            lines += _channels(channels or {})
        meaning = inspect.cleandoc(model.__doc__ or "")
        header = f"# [{section}]" if section in OPTIONAL else f"[{section}]"
        lines += ["", *(f"# {line}".rstrip() for line in meaning.splitlines()), header]
        for key in _ordered(model):
            lines += _key(model, key, _names(key), commented=section in OPTIONAL)
    return "\n".join(lines) + "\n"


def to_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, without defaults and without [tune].

    data.root is written as an absolute path, so that it can be read from any folder.
    """
    content = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"tune"})
    content["data"]["root"] = str(recipe.base.absolute())
    lines: list[str] = []
    for section, table in content.items():
        tables = table.items() if section == "channels" else [(None, table)]
        for name, keys in tables:
            lines += ["", f"[{section}.{key_text(name)}]" if name else f"[{section}]"]
            lines += [
                f"{key_text(key)} = {toml_value(value)}"
                for key, value in keys.items()
                if value is not None
            ]
    return "\n".join(lines[1:]) + "\n"


def _ordered(section: type[Section]) -> list[str]:
    """Return the keys of a section; a key that names a part is followed by its parts' options."""
    added = {key: keys_of(key) for key in CHOICES if key in section.model_fields}
    own = [key for key in section.model_fields if key not in chain(*added.values())]
    return [shown for key in own for shown in (key, *added.get(key, ()))]


def _names(key: str) -> tuple[str, ...]:
    """Return the names that are valid for a key of a part or a metric, else nothing."""
    return tuple(PER_USER) if key == "monitor" else CHOICES[key].names if key in CHOICES else ()


def _channels(kinds: Mapping[str, type[Section]]) -> list[str]:
    """Return lines that show a table for each kind of channel."""
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
    """Return lines that show one key: its description, then its default or an example."""
    value = model.model_fields[key]
    meaning = f"{value.description}" + (f" One of: {', '.join(sorted(names))}." if names else "")
    lines = textwrap.wrap(meaning, 98, initial_indent="# ", subsequent_indent="# ")
    shown = toml_value(value.examples[0] if value.examples else value.default)
    if value.is_required() and not commented:
        return [*lines, f"{key} = {shown}"]
    unset = value.default is None
    return [*lines, f"# {key} = {shown}{'  # unset by default' if unset else ''}"]


def toml_value(value: object) -> str:
    """Return a value, which may be nested, as one line of TOML.

    >>> toml_value({"a.b": (1, 0.5, "x"), "c": True})
    '{ "a.b" = [1, 0.5, "x"], c = true }'
    """
    if isinstance(value, Mapping):
        pairs = ", ".join(
            f"{key_text(str(key))} = {toml_value(inner)}" for key, inner in value.items()
        )
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
