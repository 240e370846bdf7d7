"""How is a recipe read from a TOML file and the overrides of the command line?"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shortlist.config.recipe import Recipe, checked, expand
from shortlist.errors import RecipeError, suggest_path

DATA_VARIABLE = "SHORTLIST_DATA"
"""The environment variable that overrides `data.root`."""

_SIZE_LIMIT = 2**20  # bytes; a recipe is written by hand


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a TOML file and apply the overrides in their order.

    An override is `section.key=value`. The value is read as TOML, or as text if it is no TOML:
    `training.mode=0`, `training.loss=bpr`, `evaluation.k=[10, 20]`, `features.users.age=numeric`.

    Relative paths start at the `data.root` of an override if there is one, else at the environment
    variable SHORTLIST_DATA, else at the file's `data.root`. Without any of these they start at the
    file's folder, and so does a relative `data.root`. Errors: RecipeError.
    """
    path = Path(path)
    content = _read(path)
    set_by: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        _put(content, keys, value, override)
        set_by[keys] = override
    recipe = checked(content, str(path), set_by)
    variable = os.environ.get(DATA_VARIABLE)
    folder, root = Path(os.path.abspath(path)).parent, recipe.data.root or ""
    if variable and ("data", "root") not in set_by:
        own = folder / os.path.expanduser(root)  # A home that is unknown here is no error.
        return recipe.based_at(Path.cwd() / expand(variable), instead_of=own)
    return recipe.based_at(folder / expand(root))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_LIMIT + 1)
    except FileNotFoundError as error:
        raise RecipeError(
            f"there is no recipe at {path}: check the path, or write one with `shortlist init`."
            + suggest_path(path)
        ) from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error}.") from error
    if len(data) > _SIZE_LIMIT:
        raise RecipeError(f"{path} is larger than {_SIZE_LIMIT} bytes: is it a recipe?")
    text = ""
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not TOML: {error}. {_cure(text)}") from error


def _cure(text: str) -> str:
    """Return a hint for text that is not TOML."""
    if _has_lone_backslash(text):
        return (
            "A backslash in double quotes begins an escape, such as \\n: in a path write '/', or "
            "single quotes around it, or each backslash twice."
        )
    return "Texts stand in quotes."


def _has_lone_backslash(text: str) -> bool:
    """Tell whether text would be valid TOML if its backslashes were no escapes."""
    return "\\" in text and _toml_or_none(text.replace("\\", "\\\\")) is not None


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    name, equals, text = override.partition("=")
    keys: list[str] = []
    table: object = _toml_or_none(f"{name} = 0")
    while isinstance(table, dict) and len(table) == 1:
        ((key, table),) = table.items()
        keys.append(key)
    if not equals or table != 0 or len(keys) < 2:
        raise RecipeError(
            f"the override {override!r} cannot be read: expected section.key=value, "
            "as in training.epochs=5."
        )
    value = _toml_or_none(f"value = {text}")
    if value is None and _has_lone_backslash(f"value = {text}"):
        raise RecipeError(f"the override {override!r} cannot be read. {_cure(f'value = {text}')}")
    return tuple(keys), value["value"] if value is not None and len(value) == 1 else text.strip()


def _toml_or_none(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _put(content: dict[str, Any], keys: tuple[str, ...], value: object, override: str) -> None:
    table = content
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"the override {override!r} goes into {key!r}, which is no table.")
    table[keys[-1]] = value
