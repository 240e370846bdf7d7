"""Where a command writes: results to stdout, notes and progress to stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from shortlist.training.progress import Progress

out = Console()
notes = Console(stderr=True)


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
