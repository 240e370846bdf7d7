"""What does a newcomer start from? A recipe that explains every key."""

import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping

from shortlist.config.faults import key_text
from shortlist.config.recipe import SECTIONS


def template(choices: Mapping[str, Iterable[str]] | None = None) -> str:
    """Return a recipe that shows every key with its meaning and its default, for a start.

    Only required keys are set. `choices` names what a key can be, where this file cannot know:
    `{"training.loss": LOSSES, "training.sampler": SAMPLERS}`.
    """
    lines = [
        "# A recipe for `shortlist train`. Only [data] is required. A key behind `#` shows its",
        "# default, or an example where it is unset by default.",
    ]
    for section, model in SECTIONS.items():
        meaning = inspect.cleandoc(model.__doc__ or "")
        lines += ["", *(f"# {line}".rstrip() for line in meaning.splitlines()), f"[{section}]"]
        for key, value in model.model_fields.items():
            names = sorted((choices or {}).get(f"{section}.{key}", ()))
            meaning = f"{value.description}" + (f" One of: {', '.join(names)}." if names else "")
            lines += textwrap.wrap(meaning, 98, initial_indent="# ", subsequent_indent="# ")
            shown = _toml(value.examples[0] if value.examples else value.default)
            if value.is_required():
                lines.append(f"{key} = {shown}")
            else:
                unset = value.default is None
                lines.append(f"# {key} = {shown}{'  # unset by default' if unset else ''}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key_text(str(key))} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
