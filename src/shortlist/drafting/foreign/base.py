"""What do the readers of other libraries' configurations share?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from shortlist.drafting.draft import Draft
from shortlist.drafting.guesses import Guess
from shortlist.errors import RecipeError, suggest


@dataclass(frozen=True)
class Given:
    """The arguments of the import command.

    files: the configurations; later ones override earlier ones.
    model, dataset: as on the other library's command line; they override the files.
    data: the log or the folder of the data, if the configuration does not name it or it has moved.
    base: the folder of the recipe.
    """

    files: Sequence[Path]
    model: str | None = None
    dataset: str | None = None
    data: Path | None = None
    base: Path = field(default_factory=Path)


Foreign: TypeAlias = Callable[[Given], Draft]
"""Reads configurations and drafts a recipe. Errors: RecipeError, DataError."""


class Carrying:
    """Carries keys of a configuration over to a draft, and records which keys were read."""

    def __init__(self, config: Mapping[str, Any], draft: Draft) -> None:
        self.config = config
        self.draft = draft
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the configuration, and record its key as read."""
        self.seen.add(key)
        value = self.config.get(key)
        return default if value is None else value

    def number(self, key: str, default: float) -> float:
        """Return a number, also from text, as YAML reads 1e-3. Errors: RecipeError."""
        value = self.get(key, default)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{key} must be a number, got {value!r:.60}") from error

    def whole(self, key: str, default: int) -> int:
        """Return a whole number. Errors: RecipeError."""
        value = self.number(key, default)
        if value != int(value):
            raise RecipeError(f"{key} must be a whole number, got {value!r:.60}")
        return int(value)

    def say(self, key: str, value: Any, reason: str = "", *, check: bool = False) -> None:
        """Write a line of the recipe, with its origin as the reason."""
        self.draft.say(Guess(key, value, reason, "check" if check else "sure"))

    def lose(self, what: str) -> None:
        """Report something that the recipe cannot express."""
        self.draft.lost.append(what)

    def lose_rest(self, harmless: frozenset[str]) -> None:
        """Report every key that was not read, except those that change no result."""
        for key in sorted(set(self.config) - self.seen - harmless):
            if self.config[key] not in (None, [], {}):
                self.lose(f"{key} = {self.config[key]!r:.60}: nothing here corresponds to it")


def known_model(name: str, models: Mapping[str, Any], library: str, near: Mapping[str, str]) -> Any:
    """Return how a model is carried over. Errors: RecipeError that names the nearest one."""
    if name in models:
        return models[name]
    hint = near.get(name)
    told = f" Nearest here: {hint}." if hint else suggest(name, models)
    raise RecipeError(
        f"{library}'s model '{name}' has no counterpart here.{told} "
        f"Carried over are: {', '.join(models)}"
    )
