"""Where does a command write? Results to stdout, notes and progress to stderr."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from shortlist.training.progress import Progress

_ANY = 100_000
"""A width larger than that of any table."""

# Control characters, direction marks, and unpaired surrogates.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Screen(Console):
    """A console that prints ids and titles literally, never as markup.

    All printed text passes `render_str`, including cells and titles of tables. Styled text is given
    as `rich.text.Text`, which does not: data in it must go through `visible` first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; tables get the width that their numbers need."""
        tables = [printed for printed in objects if isinstance(printed, Table)]
        given = self._width
        try:
            for table in tables:
                self._fit(table)
            super().print(*objects, **options)
        finally:
            self._width = given

    def _fit(self, table: Table) -> None:
        """Fold words but never numbers; without a terminal, lines can have any length."""
        wanted = Measurement.get(self, self.options.update(max_width=_ANY), table).maximum
        if wanted > self.width:
            if not self.is_terminal:
                self.width = wanted
                return
            table.box, table.padding = SIMPLE, (0, 0)
            for column in table.columns:
                column.no_wrap = column.justify == "right"
                column.overflow = "fold"
            least = Measurement.get(self, self.options, table).minimum
            self.width = max(self.width, least)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text with control characters escaped."""
        literal = {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(visible(text), **options | literal)


def visible(text: str) -> str:
    r"""Escape what a terminal would act on: colours, new lines, bells, reversed text.

    >>> print(visible("Tide\n\x1b[31m [/remix]"))
    Tide\n\x1b[31m [/remix]
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_lines(console: Console, text: str, **options: Any) -> None:
    """Print a text line by line, keeping its line breaks."""
    for line in text.split("\n"):
        console.print(line, **options)


class _Notes:
    """The current stderr; errors while writing to it are ignored, as nobody could be told.

    A full disk under a log file must not stop a running training.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or not there
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, and ignore errors."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


def notes_unless(quiet: bool) -> Screen:
    """Return the console of notes; if quiet, it prints nothing."""
    return Screen(stderr=True, file=cast("IO[str]", _Notes()), quiet=quiet)


out = Screen()
notes = notes_unless(quiet=False)
"""The console of notes, which `--quiet` silences."""

problems = notes_unless(quiet=False)
"""The console of errors, and of how to continue after an interruption; never silenced."""


@contextmanager
def progress_bars(quiet: bool) -> Iterator["Progress"]:
    """Show the progress of a training on stderr; if quiet, show nothing."""
    from shortlist.training.progress import Bars, Quiet

    if quiet:
        yield Quiet()
    else:
        with Bars(notes) as bars:
            yield bars


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def finish_output() -> None:
    """Flush stdout. Errors: OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Discard the rest of stdout, as Python would flush it at exit and print another error."""
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
