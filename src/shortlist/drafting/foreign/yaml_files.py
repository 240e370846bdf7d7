"""Reads YAML as plain values: no tag can create an object."""

from pathlib import Path
from typing import Any

import yaml

from shortlist.errors import RecipeError


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the table of a YAML file, {} for an empty file. Errors: RecipeError."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise RecipeError(f"{file}: cannot be read as YAML: {why}") from error
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise RecipeError(f"{file}: a configuration is a table of keys, got {read!r:.60}")
    return read
