"""Where a command writes: results to stdout, notes and progress to stderr."""

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
"""More columns than any table has."""

# Control characters, those that turn the direction of a line, and halves of surrogate pairs.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Screen(Console):
    """A console on which text stands for itself: ids and titles are data, never markup.

    Everything that is printed, cells and titles of tables too, comes by here. A style is given with
    `rich.text.Text`, which is not looked into: data in it goes through `visible` first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, and give each table the room that its figures need."""
        tables = [printed for printed in objects if isinstance(printed, Table)]
        given = self._width
        try:
            for table in tables:
                self._fit(table)
            super().print(*objects, **options)
        finally:
            self._width = given

    def _fit(self, table: Table) -> None:
        """Let words fold and figures stand whole; what is no terminal gets lines of any length."""
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
        """Return the text with its control characters written out."""
        literal = {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(visible(text), **options | literal)


def visible(text: str) -> str:
    r"""Write out what a terminal would obey: colours, new lines, bells, reversed text.

    >>> print(visible("Tide\n\x1b[31m [/remix]"))
    Tide\n\x1b[31m [/remix]
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_lines(console: Console, text: str, **options: Any) -> None:
    """Print a text whose line ends are meant."""
    for line in text.split("\n"):
        console.print(line, **options)


class _Notes:
    """stderr as it is when something is written; what it refuses is dropped, as nobody can be told.

    A full disk under a log file must not end a training that goes on.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write, or drop, the text."""
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or not there
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


def notes_unless(quiet: bool) -> Screen:
    """Return where notes go; when quiet, nothing is shown."""
    return Screen(stderr=True, file=cast("IO[str]", _Notes()), quiet=quiet)


out = Screen()
notes = notes_unless(quiet=False)
"""What `--quiet` keeps to itself."""

problems = notes_unless(quiet=False)
"""What is said all the same: errors, and how what ended early goes on."""


@contextmanager
def progress_bars(quiet: bool) -> Iterator["Progress"]:
    """Show how far a training is, on stderr; when quiet, show nothing."""
    from shortlist.training.progress import Bars, Quiet

    if quiet:
        yield Quiet()
    else:
        with Bars(notes) as bars:
            yield bars


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object in one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def finish_output() -> None:
    """Bring to its place what was printed to stdout. Errors: OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Let the rest of stdout go nowhere: Python would try once more at the end, and complain."""
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
