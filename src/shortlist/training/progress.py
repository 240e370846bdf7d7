"""How is the progress of a training shown? As bars in a terminal, and not at all elsewhere."""

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
    """Receives the progress of a training."""

    def stage(self, what: str) -> None:
        """Called when work of unknown length begins, such as a fit without epochs."""
        ...

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Called when an epoch begins.

        epoch: its number, from 1.
        epochs: largest number of epochs.
        positives: number of positives in the epoch.
        """
        ...

    def advance(self, positives: int) -> None:
        """Called after steps. positives: number of positives used since the last call."""
        ...

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Called after an epoch was measured on the validation rows.

        epoch: its number, from 1.
        loss: mean training loss per positive.
        monitor: name of the metric, such as "ndcg@10".
        score: value of the metric.
        skipped: number of positives in batches of weight 0.
        """
        ...


def of_part(progress: Progress, part: str) -> Progress:
    """Return the Progress for one of several retrievers that train one after the other.

    part: name of the retriever. A Progress with a method `of` returns one for that name; others
    are shared by all retrievers.
    """
    of = getattr(progress, "of", None)
    return progress if of is None else cast(Progress, of(part))


class Quiet:
    """Shows nothing."""

    def stage(self, what: str) -> None:
        """Show nothing."""

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Show nothing."""

    def advance(self, positives: int) -> None:
        """Show nothing."""

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Show nothing."""


class Forwarding:
    """Passes everything on to another Progress. A subclass adds what it does with it.

    It has no method `of`: all retrievers of a blend share it, unless a subclass has one.

    progress: the other Progress.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def stage(self, what: str) -> None:
        """Pass on the start of work without epochs."""
        self._progress.stage(what)

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Pass on the start of an epoch."""
        self._progress.start(epoch, epochs, positives)

    def advance(self, positives: int) -> None:
        """Pass on the number of positives used since the last call."""
        self._progress.advance(positives)

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Pass on the figures of an epoch."""
        self._progress.report(epoch, loss, monitor, score, skipped)


class Bars:
    """Shows a bar for the current epoch and a line per measured epoch; use it in `with`.

    console: the rich console to print to.
    """

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
        """Show a description and the elapsed time."""
        self._bar.reset(self._task, total=None, description=what)

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Reset the bar for an epoch."""
        self._bar.reset(
            self._task, total=positives, description=f"epoch {epoch} of at most {epochs}"
        )

    def advance(self, positives: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, positives)

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Print the line of an epoch above the bar."""
        said = f"  ({skipped:,} positives skipped: batches of weight 0)" if skipped else ""
        self._bar.console.print(
            f"epoch {epoch:3d}  loss {loss:.4f}  validation {monitor} {score:.4f}{said}"
        )
