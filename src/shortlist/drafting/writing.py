"""How is a draft written? As a short recipe, with the reason beside each guess."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shortlist.config.template import toml_value
from shortlist.drafting.draft import Draft
from shortlist.drafting.guesses import Guess
from shortlist.drafting.named import PLAIN, UNSAID
from shortlist.sections.faults import key_text

WIDTH = 100

SECTIONS = ("data", "features", "split", "model", "training", "channels", "evaluation")
"""The sections, in the order they are written."""


def written(made: Draft, command: str) -> str:
    """Return a draft as the text of a recipe. command: what made it, for the first line."""
    unsure = len(made.unsure())
    lines = [
        *_comment(f"Written by `{command}` from {made.looked}."),
        *(
            _comment(
                f"{'One line is' if unsure == 1 else f'{unsure} lines are'} not certain: look for "
                '"check:".'
            )
            if unsure
            else ()
        ),
    ]
    for section in SECTIONS:
        table = made.content.get(section, {})
        out = [guess for guess in _of(made, section) if guess.value is None]
        if not table and not out:
            continue
        own: list[str] = []
        for key in _order(section, table, out):
            if not isinstance(table.get(key), dict):
                own += _key(key, table.get(key), made.guesses.get(f"{section}.{key}"))
        if section == "features" or (section == "data" and "features" not in made.content):
            for note in made.notes:
                own += _comment(note)
        lines += ["", f"[{section}]", *own] if own else []
        for side, inner in table.items():
            if isinstance(inner, dict) and section == "features":
                lines += _side(made, side, inner)
            elif isinstance(inner, dict) and section == "data":
                lines += _events(made, side, inner)
            elif isinstance(inner, dict) and section == "channels":
                lines += ["", f"[channels.{key_text(side)}]"]
                lines += [f"{key_text(key)} = {toml_value(value)}" for key, value in inner.items()]
    if made.lost:
        lines += ["", "# Not carried over:"]
        for lost in made.lost:
            lines += _comment(f"- {lost}")
    return "\n".join(lines) + "\n"


def _side(made: Draft, side: str, features: Mapping[str, str]) -> list[str]:
    """Return the lines of one side's features."""
    guess = made.guesses[f"features.{side}"]
    where, colon, _ = guess.reason.partition(": ")
    told = f"  # {where}" if colon and where not in features else ""
    lines = ["", f"[features.{side}]{told}"]
    for name, kind in features.items():
        lines += _key(name, kind, replace(guess, reason=made.reasons.get(f"{side}.{name}", "")))
    return lines


def _events(made: Draft, key: str, kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the tables of the kinds of events, with the guess above the first."""
    guess = made.guesses[f"data.{key}"]
    lines = ["", *_comment(f"check: {guess.reason}")]
    for kind, said in kinds.items():
        lines += [f"[data.{key}.{key_text(kind)}]"]
        lines += [f"{name} = {toml_value(value)}" for name, value in said.items()] + [""]
    return lines[:-1]


def short_template(named: Mapping[str, Any] | None = None) -> str:
    """Return a recipe to fill in, with common names of files and columns.

    named: a recipe that provides model and training.
    """
    content = _PLACES | PLAIN
    if named is not None:
        content |= {key: named[key] for key in ("model", "training", "evaluation") if key in named}
        if "features" not in named:
            content["features"] = {"title": "title"}
    lines = [
        "# A recipe for `shortlist train`. Put in your files and columns, and delete lines that",
        "# you do not need. `shortlist init FILE` guesses all of it, `shortlist init --full` shows",
        "# every key there is.",
    ]
    for section in SECTIONS:
        if content.get(section):
            lines += ["", f"[{section}]"]
            for key, value in content[section].items():
                lines += _key(key, value, _MEANINGS.get((section, key)))
    return "\n".join(lines) + "\n"


_PLACES: dict[str, dict[str, Any]] = {
    "data": {
        "interactions": "interactions.csv",
        "items": "items.csv",
        "user": "user_id",
        "item": "item_id",
        "time": "timestamp",
    },
    "features": {
        "items": {"genres": "multi-valued", "year": "numeric"},
        "title": "title",
    },
    "split": {"kind": "leave-last-out"},
}


def _meaning(key: str, text: str) -> Guess:
    return Guess(key, None, text, "sure")


_MEANINGS = {
    ("data", "interactions"): _meaning("", "the log, one row an event: CSV, Parquet, JSON Lines"),
    ("data", "items"): _meaning("", "one row an item, its id called as in the log"),
    ("data", "time"): _meaning("", "seconds, milliseconds, dates or ISO text"),
    ("features", "items"): _meaning("", "categorical, numeric, multi-valued, vector or text"),
    ("features", "title"): _meaning("", "shown to people, never read"),
    ("split", "kind"): _meaning("", "each user's last event is the test"),
    ("training", "mode"): _meaning("", UNSAID),
}


def _of(made: Draft, section: str) -> Sequence[Guess]:
    return [guess for guess in made.guesses.values() if guess.key.startswith(f"{section}.")]


def _order(section: str, table: Mapping[str, Any], out: Sequence[Guess]) -> list[str]:
    keys = [*table, *(guess.key.partition(".")[2] for guess in out)]
    first = ("interactions", "users", "items") if section == "data" else ()
    return sorted(dict.fromkeys(keys), key=lambda key: first.index(key) if key in first else 9)


def _key(key: str, value: Any, guess: Guess | None) -> list[str]:
    """Return a line of the recipe with its reason after it, or above it if both do not fit."""
    reason = ""
    if guess is not None and guess.reason:
        reason = f"check: {guess.reason}" if guess.confidence == "check" else guess.reason
        reason = " ".join(reason.split())
    if value is None:
        return _comment(f"{key}: {reason}")
    line = f"{key_text(key)} = {toml_value(value)}"
    if not reason:
        return [line]
    if len(line) + len(reason) + 4 <= WIDTH:
        return [f"{line}  # {reason}"]
    return [*_comment(reason), line]


def _comment(text: str) -> list[str]:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.wrap(plain, WIDTH - 2, initial_indent="# ", subsequent_indent="# ")
