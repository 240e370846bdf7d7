"""Which published models can a recipe start from? Named recipes shipped with the package."""

import tomllib
from importlib.resources import files
from typing import Any

from shortlist.errors import RecipeError, suggest

PLAIN: dict[str, dict[str, Any]] = {"training": {"mode": "listwise"}}
"""The training of a drafted recipe without a named model."""

UNSAID = "batch_size, epochs, patience and model.dropout are unset, so they follow from the log"
"""What a drafted recipe says beside PLAIN."""


def named_models() -> dict[str, str]:
    """Return the text of each named recipe, by its name, such as "sasrec" or "youtube-dnn"."""
    found = files("shortlist.drafting") / "models"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(found.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def named_model(name: str) -> dict[str, Any]:
    """Return a named recipe as tables. Errors: RecipeError that lists the names.

    >>> named_model("sasrec")["model"]["history"]
    'attention'
    """
    known = named_models()
    if name not in known:
        raise RecipeError(f"there is no model {name!r}.{suggest(name, known)}")
    return tomllib.loads(known[name])
