"""Watches training: passes its progress on, and keeps the epochs for the doctor."""

from shortlist.training.fitting import Epoch
from shortlist.training.progress import Progress


class TrainingWatch:
    """A Progress that passes everything on and keeps the epochs, even if training fails."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.epochs: list[Epoch] = []

    def stage(self, what: str) -> None:
        """Work without epochs begins."""
        self._progress.stage(what)

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """An epoch begins."""
        self._progress.start(epoch, epochs, positives)

    def advance(self, positives: int) -> None:
        """This many more positives were used."""
        self._progress.advance(positives)

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """An epoch was measured; keep its figures."""
        self.epochs.append(Epoch(epoch, loss, score, skipped))
        self._progress.report(epoch, loss, monitor, score, skipped)
