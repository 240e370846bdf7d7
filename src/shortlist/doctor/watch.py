"""Watches training: passes its progress on, and keeps the epochs for the doctor."""

from shortlist.training.fitting import Epoch
from shortlist.training.progress import Forwarding, Progress


class TrainingWatch(Forwarding):
    """A Progress that passes everything on and keeps the epochs, even if training fails."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.epochs: list[Epoch] = []

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Keep the figures of an epoch, and pass them on."""
        self.epochs.append(Epoch(epoch, loss, score, skipped))
        super().report(epoch, loss, monitor, score, skipped)
