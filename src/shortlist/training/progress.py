"""Telling people how long training still takes, and machines nothing."""

from types import TracebackType
from typing import Protocol, Self, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """What a retriever tells while it trains."""

    def stage(self, what: str) -> None:
        """Work of unknown length begins: a fit without epochs, say."""
        ...

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """An epoch of so many positives begins."""
        ...

    def advance(self, positives: int) -> None:
        """So many more positives were used."""
        ...

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """An epoch was measured on the validation rows; skipped: positives of weight 0."""
        ...


def of_part(progress: Progress, part: str) -> Progress:
    """Return what one of several retrievers tells, which train one after the other.

    part: its name, for a Progress that keeps them apart by a method `of`; others are told all.
    """
    of = getattr(progress, "of", None)
    return progress if of is None else cast(Progress, of(part))


class Quiet:
    """Tells nothing."""

    def stage(self, what: str) -> None:
        """Say nothing."""

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Say nothing."""

    def advance(self, positives: int) -> None:
        """Say nothing."""

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Say nothing."""


class Bars:
    """A bar for the current epoch and a line for each one measured; use it as a context."""

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, what: str) -> None:
        """Show that something is going on, and since when."""
        self._bar.reset(self._task, total=None, description=what)

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Begin the bar of an epoch."""
        self._bar.reset(
            self._task, total=positives, description=f"epoch {epoch} of at most {epochs}"
        )

    def advance(self, positives: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, positives)

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Print the epoch's line above the bar."""
        said = f"  ({skipped:,} positives skipped: batches of weight 0)" if skipped else ""
        self._bar.console.print(
            f"epoch {epoch:3d}  loss {loss:.4f}  validation {monitor} {score:.4f}{said}"
        )
