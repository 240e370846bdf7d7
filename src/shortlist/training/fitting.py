"""Which epochs are run, and which weights are kept? Early stopping, with resumable trainings."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from shortlist.config import Training
from shortlist.errors import TrainingError
from shortlist.training.checkpoint import Stage, State, part_of
from shortlist.training.progress import Progress
from shortlist.training.ranks import Ranks, here
from shortlist.training.trainer import Trainer

logger = logging.getLogger("shortlist.training")


class Epoch(NamedTuple):
    """The result of one epoch.

    epoch: its number, from 1.
    loss: mean training loss per positive.
    score: the monitored metric on the validation rows.
    skipped: number of positives in batches whose weights are all 0, which are not learned.
    """

    epoch: int
    loss: float
    score: float
    skipped: int = 0


class Fitted(NamedTuple):
    """The result of a training.

    epochs: the measured epochs.
    best: number of the best epoch.
    learned: temperature and biases after that epoch, see `Trainer.learned`.
    """

    epochs: tuple[Epoch, ...]
    best: int
    learned: Mapping[str, float]


@dataclass
class _Run:
    """The progress of a training.

    epoch: number of the current epoch.
    loss: sum of the losses of the positives of the current epoch.
    used: number of these positives.
    skipped: number of positives of the current epoch in batches of weight 0.
    record: the measured epochs.
    best_epoch: number of the best epoch; 0 before the first measurement.
    best: weights after the best epoch.
    learned: temperature and biases after the best epoch.
    finished: whether the training has ended.
    """

    epoch: int = 1
    loss: float | Tensor = 0.0
    used: int = 0
    skipped: int = 0
    record: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    learned: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    def state(self, trainer: Trainer) -> State:
        """Return the state for a checkpoint; for a finished training without the trainer's."""
        plain: dict[str, Any] = {
            "epoch": self.epoch,
            "loss": float(self.loss),
            "used": self.used,
            "skipped": self.skipped,
            "record": [list(epoch) for epoch in self.record],
            "best_epoch": self.best_epoch,
            "learned": self.learned,
            "finished": self.finished,
        }
        tensors = {f"best.{name}": value for name, value in self.best.items()}
        if self.finished:
            return State(plain, tensors)
        inner = trainer.state()
        tensors |= {f"trainer.{name}": value for name, value in inner.tensors.items()}
        return State(plain | {"trainer": inner.plain}, tensors)

    @classmethod
    def begun(cls, stage: Stage | None, trainer: Trainer) -> "_Run":
        """Start a training, or resume it from its checkpoint and restore the trainer's state."""
        saved = None if stage is None else stage.load()
        if stage is not None and here().several:
            here().check_checkpoint(stage.digest)
        if saved is None:
            return cls()
        plain = dict(saved.plain)
        inner = plain.pop("trainer", None)
        plain["record"] = [Epoch(*epoch) for epoch in plain["record"]]
        if inner is not None:
            trainer.load_state(State(inner, part_of(saved.tensors, "trainer")))
        return cls(**plain, best=part_of(saved.tensors, "best"))


def fit_towers(
    trainer: Trainer,
    towers: nn.Module,
    training: Training,
    progress: Progress,
    *,
    measure: Callable[[], float] | None,
    epochs: int,
    stage: Stage | None = None,
) -> Fitted:
    """Train for at most `epochs` epochs, and leave the weights of the best epoch in `towers`.

    With several processes the first one measures, and decides when to save.

    measure: returns the monitored metric of the current weights. It is called every
    `validate_every` epochs and after the last one, and training stops after `patience` epochs
    without a better value. None trains exactly `epochs` epochs and keeps the last weights.
    stage: the checkpoint, where the training is saved and from which it resumes; None for none.
    Errors: TrainingError for a loss that is not finite, or if all weights are 0.
    """
    ranks = here()
    if measure is not None and ranks.several:
        measure = _broadcast(ranks, measure)
    run = _Run.begun(stage, trainer)
    known = run.finished
    for epoch in run.record:
        _report(progress, training, epoch)
    while not run.finished:
        loss = _run_epoch(run, trainer, progress, epochs, stage)
        last = run.epoch == epochs
        looked = last or (measure is not None and run.epoch % training.validate_every == 0)
        if looked:
            with trainer.averaged():
                _look(run, loss, trainer, towers, measure)
            if measure is not None:
                _report(progress, training, run.record[-1])
        stale = run.epoch - run.best_epoch
        waited = looked and measure is not None and 0 < training.patience <= stale
        run.finished = last or waited
        run.epoch, run.loss, run.used, run.skipped = run.epoch + 1, 0.0, 0, 0
    if stage is not None and not known:
        _save(stage, run, trainer)
    trainer.keep(run.best)
    return Fitted(tuple(run.record), run.best_epoch, run.learned)


def _broadcast(ranks: Ranks, measure: Callable[[], float]) -> Callable[[], float]:
    """Return a `measure` that the first process computes and broadcasts to the others."""
    return lambda: ranks.from_first(measure() if ranks.first else 0.0)


def _due(stage: Stage) -> bool:
    """Tell whether it is time to save, by the clock of the first process."""
    ranks = here()
    return bool(ranks.from_first(stage.due())) if ranks.several else stage.due()


def _save(stage: Stage, run: _Run, trainer: Trainer) -> None:
    """Save the state of all processes; the first one writes it."""
    state = run.state(trainer)
    if here().first:
        stage.save(state)


def _report(progress: Progress, training: Training, epoch: Epoch) -> None:
    logger.info(
        "epoch %d: loss %.4f, %s %.4f", epoch.epoch, epoch.loss, training.monitor, epoch.score
    )
    progress.report(epoch.epoch, epoch.loss, training.monitor, epoch.score, epoch.skipped)


def _look(
    run: _Run,
    loss: float,
    trainer: Trainer,
    towers: nn.Module,
    measure: Callable[[], float] | None,
) -> None:
    """Measure the current weights, and keep them if they are at least as good as the best."""
    if measure is not None:
        score = measure()
        run.record.append(Epoch(run.epoch, loss, score, run.skipped))
        if score < max(epoch.score for epoch in run.record):
            return
    run.best_epoch = run.epoch
    run.best = {name: value.clone() for name, value in towers.state_dict().items()}
    run.learned = trainer.learned()


def _run_epoch(
    run: _Run, trainer: Trainer, progress: Progress, limit: int, stage: Stage | None
) -> float:
    """Run the remaining steps of the current epoch; return its mean loss.

    limit: largest number of epochs, which the progress shows.
    """
    progress.start(run.epoch, limit, trainer.positives)
    progress.advance(run.used)
    for step in trainer.epoch():
        progress.advance(step.positives)
        run.loss = run.loss + step.loss * step.positives
        run.used += step.positives
        run.skipped += step.skipped
        if stage is not None and _due(stage):
            _save(stage, run, trainer)
    if not run.used:
        raise TrainingError(
            "the weights of all positives are 0, so there is nothing to learn: training.weighted "
            "weights the loss by data.weight; leave it out, or give weights above 0"
        )
    return float(run.loss) / run.used
