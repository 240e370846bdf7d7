"""Did training go well?"""

import math
from collections.abc import Mapping

from shortlist.doctor.base import Subject, check
from shortlist.errors import TrainingError
from shortlist.evaluation.significance import Interval
from shortlist.training.trainer import step_share

LEAST_WAY = 0.25
"""How far a weight should be able to move in training; Adam moves it by about the step size."""

MANY_STEPS = 5_000
"""This many steps are enough, whatever their size."""


@check(
    "training-stopped",
    "error",
    "failure",
    cure="Lower training.learning_rate, raise training.temperature, and look for huge values "
    "among numeric or vector features.",
)
def training_stopped(subject: Subject) -> str | None:
    """Training stopped because a number was not finite."""
    if not isinstance(subject.failure, TrainingError):
        return None
    told = subject.epochs if "epochs" in subject.given else ()
    return f"after {len(told)} whole epochs: {subject.failure}"


@check(
    "refused",
    "error",
    "failure",
    cure="Do what the message says.",
)
def refused(subject: Subject) -> str | None:
    """The recipe or its data cannot be used as they are."""
    return None if isinstance(subject.failure, TrainingError) else str(subject.failure)


@check(
    "loss-does-not-fall",
    "warning",
    "epochs",
    cure="Raise training.learning_rate or training.epochs; check the temperature.",
)
def loss_does_not_fall(subject: Subject) -> str | None:
    """The loss hardly falls: the model learns next to nothing."""
    first, last = subject.epochs[0], subject.epochs[-1]
    if len(subject.epochs) < 3 or not first.loss > 0 or last.loss < 0.99 * first.loss:
        return None
    return f"{first.loss:.4f} in epoch {first.epoch}, {last.loss:.4f} in epoch {last.epoch}"


@check(
    "bfloat16-emulated",
    "warning",
    "training",
    cure="Set training.precision = 'auto': bfloat16 where it is faster, else float32.",
)
def bfloat16_emulated(subject: Subject) -> str | None:
    """The CPU has no bfloat16 arithmetic, so training in bfloat16 takes several times as long."""
    trained = "report" in subject.given  # possibly on another machine
    if trained or subject.training.precision != "bfloat16" or subject.machine_has_bfloat16:
        return None
    return "training.precision = 'bfloat16', on this machine"


@check(
    "too-few-steps",
    "warning",
    "training",
    "data",
    cure="Leave training.batch_size and training.epochs out: they then follow from the log. If "
    "they do already, the log is very small: raise training.learning_rate.",
)
def too_few_steps(subject: Subject) -> str | None:
    """Training has too few steps: no weight can move far from its initial value."""
    training = subject.training
    steps = training.epochs * len(subject.batches)
    if steps >= MANY_STEPS:
        return None
    way = training.learning_rate * math.fsum(
        step_share(step, training.schedule, training.warmup, steps) for step in range(steps)
    )
    if way >= LEAST_WAY:
        return None
    return (
        f"{steps:,} steps, {len(subject.batches):,} an epoch, at learning_rate "
        f"{training.learning_rate:g} and less: together a weight moves by about {way:.2g} at most"
    )


@check(
    "still-improving",
    "warning",
    "epochs",
    "training",
    cure="Raise training.epochs, or leave training.batch_size and training.epochs out: they then "
    "follow from the log.",
)
def still_improving(subject: Subject) -> str | None:
    """The validation figure was still rising when the epochs ran out."""
    epochs = subject.epochs
    if len(epochs) < 3 or epochs[-1].epoch < subject.training.epochs:
        return None
    late = math.ceil(len(epochs) / 4)
    before = max(epoch.score for epoch in epochs[:-late])
    best = max(epochs, key=lambda epoch: epoch.score)
    if best.score <= 1.1 * before:
        return None
    return (
        f"{subject.training.monitor} {before:.4f} up to epoch {epochs[-late - 1].epoch}, "
        f"{best.score:.4f} in epoch {best.epoch} of at most {subject.training.epochs}"
    )


@check(
    "best-at-first-epoch",
    "warning",
    "epochs",
    "training",
    cure="Lower training.learning_rate; raise model.dropout or training.weight_decay.",
)
def best_at_first_epoch(subject: Subject) -> str | None:
    """The first epoch was the best one: further training made the model worse."""
    scores = [epoch.score for epoch in subject.epochs]
    if len(scores) < 3 or max(scores[1:]) >= 0.97 * scores[0]:
        return None
    return (
        f"{subject.training.monitor} {scores[0]:.4f} in epoch 1, at most {max(scores[1:]):.4f} "
        f"later; learning_rate {subject.training.learning_rate:g}"
    )


@check(
    "worse-than-popular",
    "error",
    "report",
    cure="Fix the other findings first; then train longer, or serve popular items.",
)
def worse_than_popular(subject: Subject) -> str | None:
    """Showing everybody the most popular items is better than this model."""
    differences = subject.report.get("difference", {}).get("popularity", {})
    return _worse(subject, differences)


def _worse(subject: Subject, differences: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Return the evidence if the model is worse than a method in ndcg at every k.

    It takes the users and the interval that a report's summary takes for its verdict.

    differences: the model minus the method, as a report has them.
    """
    found = {
        name: Interval.of_dict(value, subject.report["users"])
        for name, value in differences.items()
        if name.startswith("ndcg@")
    }
    if not found or any(more.side() >= 0 for more in found.values()):
        return None
    name, more = next(iter(found.items()))
    model = subject.report["metrics"][name]["mean"]
    lies = (
        "is the same for each user"
        if more.ends is None
        else "lies between {:+.4f} and {:+.4f}".format(*more.ends)
    )
    return f"{name} {model:.4f} against {model - more.mean:.4f}; the difference {lies}"


@check(
    "worse-than-simple",
    "warning",
    "report",
    cure="Fix the other findings first; then blend the model with this method, as two channels "
    "of a recipe, or serve the method.",
)
def worse_than_simple(subject: Subject) -> str | None:
    """A method without training, fitted on the same rows, is better than this model."""
    worse = []
    for rung in subject.report.get("ladder", ()):
        if rung["name"] == "popular":
            continue  # worse-than-popular, which is an error
        if (evidence := _worse(subject, rung["difference"])) is not None:
            worse.append(f"{rung['name']}: {evidence}")
    return "; ".join(worse) or None


@check(
    "mostly-fallback",
    "warning",
    "report",
    cure="Give the user tower a history or features, not an id alone; or split by user, not time.",
)
def mostly_fallback(subject: Subject) -> str | None:
    """Most users get popular items, because the model knows nothing about them."""
    users = subject.report["users"]
    unknown = subject.report["counts"].get("users_answered_by_fallback", 0)
    if unknown <= 0.5 * users:
        return None
    return f"{unknown:,} of {users:,} users ({unknown / max(users, 1):.0%})"


@check(
    "figures-not-finite",
    "error",
    "epochs",
    cure="Lower training.learning_rate; check that no feature holds huge values.",
)
def figures_not_finite(subject: Subject) -> str | None:
    """A loss or a validation figure is not finite."""
    bad = [
        epoch.epoch
        for epoch in subject.epochs
        if not (math.isfinite(epoch.loss) and math.isfinite(epoch.score))
    ]
    return f"epochs {bad[:5]}" if bad else None


CHECKS = (
    refused,
    training_stopped,
    figures_not_finite,
    loss_does_not_fall,
    bfloat16_emulated,
    too_few_steps,
    still_improving,
    best_at_first_epoch,
    worse_than_popular,
    worse_than_simple,
    mostly_fallback,
)
