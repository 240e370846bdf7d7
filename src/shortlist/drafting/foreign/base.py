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
    """What the command was given.

    files: the configurations, a later one over an earlier one. model, dataset: as their command
    line names them, over the files. data: the log, or the folder of the data, where the
    configuration does not say it or it lies elsewhere now. base: the folder of the recipe.
    """

    files: Sequence[Path]
    model: str | None = None
    dataset: str | None = None
    data: Path | None = None
    base: Path = field(default_factory=Path)


Foreign: TypeAlias = Callable[[Given], Draft]
"""Reads configurations and drafts the recipe. Errors: RecipeError, DataError."""


class Carrying:
    """Moves keys of a configuration into a draft, and keeps count of those that were looked at."""

    def __init__(self, config: Mapping[str, Any], draft: Draft) -> None:
        self.config = config
        self.draft = draft
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the configuration, and mark its key as understood."""
        self.seen.add(key)
        value = self.config.get(key)
        return default if value is None else value

    def number(self, key: str, default: float) -> float:
        """Return a number; YAML reads 1e-3 as text. Errors: RecipeError."""
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
        """Write a line of the recipe, with where it comes from beside it."""
        self.draft.say(Guess(key, value, reason, "check" if check else "sure"))

    def lose(self, what: str) -> None:
        """Tell of something that the recipe cannot say."""
        self.draft.lost.append(what)

    def lose_rest(self, harmless: frozenset[str]) -> None:
        """Tell of every key that nobody has looked at, but for those that change no result."""
        for key in sorted(set(self.config) - self.seen - harmless):
            if self.config[key] not in (None, [], {}):
                self.lose(f"{key} = {self.config[key]!r:.60}: nothing here reads it")


def known_model(name: str, models: Mapping[str, Any], library: str, near: Mapping[str, str]) -> Any:
    """Return how a model is carried over. Errors: RecipeError, with what comes nearest."""
    if name in models:
        return models[name]
    hint = near.get(name)
    told = f" Nearest here: {hint}." if hint else suggest(name, models)
    raise RecipeError(
        f"{library}'s model '{name}' has no counterpart here.{told} "
        f"Carried over are: {', '.join(models)}"
    )
