"""Which values of a recipe's keys are best? Trials with pruning; the best one as a recipe."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shortlist import outputs
from shortlist.channels.learned.base import Learner
from shortlist.config import Recipe, to_toml
from shortlist.data.dataset import Split
from shortlist.errors import ModelError, OutputError, RecipeError, TrainingError, install
from shortlist.evaluation.plots import new_figure, plain_numbers, write_figure
from shortlist.outputs import Output, reason_of
from shortlist.runs.pipeline import build, check, load_split
from shortlist.training.checkpoint import fingerprint
from shortlist.training.progress import Forwarding, Progress, Quiet

JOURNAL = "trials.jsonl"
BEST = "best.toml"

STARTUP = 5
"""Number of first trials that are drawn uniformly and never pruned."""


@dataclass(frozen=True)
class Trial:
    """One combination of values and its result.

    number: position among the trials, from 0.
    values: the tried values by dotted key.
    state: "complete", "pruned" (ended early because it was weak) or "failed".
    score: the best validation figure; None for a failed trial.
    scores: the validation figure after each measured epoch.
    reason: the error of a failed trial.
    """

    number: int
    values: Mapping[str, Any]
    state: Literal["complete", "pruned", "failed"]
    score: float | None
    scores: tuple[float, ...]
    reason: str | None = None

    def line(self) -> str:
        """Return the trial as one line of text.

        >>> Trial(3, {"model.dim": 32}, "complete", 0.25, (0.25,)).line()
        'trial 3  0.2500  model.dim = 32'
        """
        figure = f"{self.score:.4f}" if self.score is not None else self.reason
        values = ", ".join(f"{name} = {value}" for name, value in self.values.items())
        state = "" if self.state == "complete" else f"  ({self.state})"
        return f"trial {self.number}  {figure}  {values}{state}"


@dataclass(frozen=True)
class Tuned:
    """The result of a tuning.

    monitor: the compared validation metric.
    trials: all trials in their order.
    best: the complete trial with the highest score.
    recipe: the recipe with the values of the best trial and without [tune].
    """

    monitor: str
    trials: tuple[Trial, ...]
    best: Trial
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            "monitor": self.monitor,
            "best": self.best.number,
            "values": dict(self.best.values),
            "score": self.best.score,
            "trials": [
                {**vars(trial), "values": dict(trial.values), "scores": list(trial.scores)}
                for trial in self.trials
            ],
        }


class _PrunedError(Exception):
    """Ends a trial whose figure is below the median of the other trials at the same epoch."""


class _Listener(Forwarding):
    """A Progress that passes on all but figures, which it records; it can prune a trial.

    progress: the Progress to pass on to.
    hear: called with epoch and figure; returns True to end the trial.
    scores: the figures so far.
    """

    def __init__(self, progress: Progress, hear: Callable[[int, float], bool]) -> None:
        super().__init__(progress)
        self.hear = hear
        self.scores: list[float] = []

    def report(
        self,
        epoch: int,
        loss: float,  # noqa: ARG002
        monitor: str,  # noqa: ARG002
        score: float,
        skipped: int = 0,  # noqa: ARG002
    ) -> None:
        """Record the figure of an epoch. Errors: _PrunedError if the trial is to end."""
        self.scores.append(score)
        if self.hear(epoch, score):
            raise _PrunedError


def tune(
    recipe: Recipe,
    directory: Path,
    *,
    trials: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    told: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Try the values of the recipe's [tune], and write the best recipe to `directory`.

    Values come from a tree-structured Parzen estimator (Bergstra et al. 2011), seeded for each
    trial, so that a resumed tuning tries the same values as an uninterrupted one. A trial is pruned
    after an epoch if its figure is below the median of the other trials at that epoch. The test
    rows are not used.

    recipe: a recipe with a [tune] section.
    directory: folder of JOURNAL, from which a tuning resumes, and BEST, the best recipe.
    trials: total number of trials, those in JOURNAL included; None takes the recipe's number.
    device: where towers are trained, such as "cpu" or "cuda".
    progress: receives the progress of each training; None shows nothing.
    told: called with each trial that ends.

    Errors: ModelError without the extra `tune`, for a recipe without towers and for one with
    several channels; RecipeError for an invalid value; OutputError for a directory that cannot be
    written, or that holds a BEST without a JOURNAL; TrainingError if no trial completes.
    """
    optuna = _optuna()
    check_directory(directory)
    if recipe.tune is None:
        raise RecipeError(
            "the recipe names no values to try: give it a [tune] section with a space, such as "
            'space = { "model.dim" = [32, 64] }'
        )
    check_space(recipe)
    split = load_split(recipe)
    try:
        return _tuned(optuna, recipe, split, directory, trials, device, progress, told)
    except OSError as error:
        with suppress(OSError):
            _cut_torn_line(directory / JOURNAL)
        raise OutputError(f"cannot write to {directory}: {reason_of(error)}") from error


def _tuned(
    optuna: Any,
    recipe: Recipe,
    split: Split,
    directory: Path,
    trials: int | None,
    device: str,
    progress: Progress | None,
    told: Callable[[Trial], None] | None,
) -> Tuned:
    """Run the remaining trials. Errors: OSError if the directory cannot be written."""
    assert recipe.tune is not None
    directory.mkdir(parents=True, exist_ok=True)
    study = _study(optuna, recipe, split, directory)
    wanted = recipe.tune.trials if trials is None else trials
    while len(known := _ended(study)) < wanted:
        study.sampler = optuna.samplers.TPESampler(
            seed=recipe.tune.seed + len(known), n_startup_trials=STARTUP
        )
        trial = study.ask()
        values = {name: _suggest(trial, name, tried) for name, tried in recipe.tune.space.items()}
        _carry_out(optuna, study, trial, recipe, values, split, device, progress)
        if told is not None:
            told(_ended(study)[-1])
        if any(ended.state == "complete" for ended in _ended(study)):
            _write_best(recipe, study, directory)
    return Tuned(recipe.training.monitor, *_write_best(recipe, study, directory))


def check_directory(directory: Path) -> None:
    """Refuse a directory that cannot be written, or that holds a BEST of unknown origin.

    Errors: OutputError.
    """
    outputs.check({"directory": Output(directory, "folder")})
    best, journal = directory / BEST, directory / JOURNAL
    if os.path.lexists(best) and not journal.exists():
        raise OutputError(
            f"{best} exists already, and no {JOURNAL} beside it shows that a tuning wrote it: give "
            "another directory"
        )


def _cut_torn_line(journal: Path) -> None:
    """Remove an incomplete last line of the journal, left by a full disk or a killed process.

    A line appended to it would make the journal unreadable.
    """
    with suppress(FileNotFoundError), journal.open("r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some keys, given by their dotted names, set to other values.

    Errors: RecipeError for a value that the recipe refuses.
    """
    content = recipe.to_dict()
    for name, value in values.items():
        *tables, key = name.split(".")
        table = content
        for part in tables:
            table = table.setdefault(part, {})
        table[key] = value
    return Recipe.from_dict(content, recipe.base, "tune.space")


def check_space(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be tuned, and values of [tune] that the recipe refuses.

    Errors: ModelError, RecipeError.
    """
    assert recipe.tune is not None
    retriever = build(recipe)
    if not isinstance(retriever, Learner):
        raise ModelError(
            "tune compares the validation figures of towers: it needs a recipe with one retriever, "
            "and that one must have towers"
        )
    for name, tried in recipe.tune.space.items():
        values = [tried["low"], tried["high"]] if isinstance(tried, dict) else tried
        for value in values:
            try:
                check(with_values(recipe, {name: value}))
            except ModelError as error:
                raise ModelError(f"tune.space, {name} = {value!r}: {error}") from error


def plot_trials(tuned: Tuned, path: Path, *, overwrite: bool = False) -> None:
    """Plot the figure of each trial with the best so far, and the figure against each tried key.

    path: file to write; its suffix .png, .svg or .pdf chooses the format.
    overwrite: replaces a file that exists.
    Errors: ModelError without the extra "plot"; OutputError for a file that cannot be written.
    """
    names = list(tuned.best.values)
    figure = new_figure(figsize=(4 * (len(names) + 1), 3.6))
    panels = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    shown = [trial for trial in tuned.trials if trial.score is not None]
    best_so_far, best = [], -math.inf
    for trial in shown:
        best = max(best, trial.score if trial.score is not None else best)
        best_so_far.append(best)
    panels[0].plot([trial.number for trial in shown], best_so_far, color="black", linewidth=0.8)
    for panel, name in zip(panels, ["", *names], strict=True):
        for state, marker in (("complete", "o"), ("pruned", "x")):
            drawn = [trial for trial in shown if trial.state == state]
            places = [trial.values[name] if name else trial.number for trial in drawn]
            if not all(isinstance(place, int | float) for place in places):
                places = [str(place) for place in places]
            panel.scatter(places, [trial.score for trial in drawn], marker=marker, label=state)
        panel.set_xlabel(name or "trial")
        tried = [trial.values[name] for trial in shown] if name else []
        if _is_wide(tried):
            panel.set_xscale("log")
            plain_numbers(panel.xaxis)
    panels[0].set_ylabel(f"validation {tuned.monitor}")
    panels[0].legend(fontsize=8)
    write_figure(figure, path, overwrite=overwrite)


def _is_wide(values: list[Any]) -> bool:
    numbers = [value for value in values if type(value) in (int, float) and value > 0]
    return bool(numbers) and len(numbers) == len(values) and max(numbers) > 20 * min(numbers)


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"tuning needs optuna: {install('tune')}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, recipe: Recipe, split: Split, directory: Path) -> Any:
    """Open the journal's study, or create it. Errors: RecipeError for other data or recipe."""
    described = recipe.to_dict()
    described["tune"].pop("trials")  # a resumed tuning may run more trials
    mark = fingerprint(described, split.training_data("train"))
    _cut_torn_line(directory / JOURNAL)
    backend = optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="shortlist",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1),
    )
    if study.user_attrs.setdefault("fingerprint", mark) != mark:
        raise RecipeError(
            f"{directory / JOURNAL} holds trials of another recipe, another space or other data: "
            "give another directory, or remove the file"
        )
    study.set_user_attr("fingerprint", mark)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():  # its process was killed: the trial is repeated
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _suggest(trial: Any, name: str, tried: Any) -> Any:
    if not isinstance(tried, dict):
        chosen = trial.suggest_categorical(name, [json.dumps(value) for value in tried])
        return json.loads(chosen)
    low, high, log = tried["low"], tried["high"], tried.get("log", False)
    if type(low) is int and type(high) is int:
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _carry_out(
    optuna: Any,
    study: Any,
    trial: Any,
    recipe: Recipe,
    values: Mapping[str, Any],
    split: Split,
    device: str,
    progress: Progress | None,
) -> None:
    """Train one combination of values on the training rows, and record the result in the journal.

    A combination that is refused or cannot be trained is recorded as a failed trial.
    """

    def hear(epoch: int, score: float) -> bool:
        trial.report(score, epoch)
        return bool(trial.should_prune())

    listener = _Listener(progress or Quiet(), hear)
    states = optuna.trial.TrialState
    try:
        build(with_values(recipe, values), device).fit(split, progress=listener)
    except _PrunedError:
        study.tell(trial, state=states.PRUNED)
    except (RecipeError, ModelError, TrainingError) as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=states.FAIL)
    else:
        study.tell(trial, max(listener.scores))


def _ended(study: Any) -> list[Trial]:
    """Return the ended trials in their order, without those whose process was killed."""
    ended: list[Trial] = []
    for trial in study.get_trials(deepcopy=False):
        reason = trial.user_attrs.get("reason")
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name)
        if state is None or (state == "failed" and reason is None):
            continue
        scores = tuple(trial.intermediate_values[at] for at in sorted(trial.intermediate_values))
        ended.append(
            Trial(
                len(ended),
                {
                    name: json.loads(value) if isinstance(value, str) else value
                    for name, value in trial.params.items()
                },
                state,  # type: ignore[arg-type]
                max(scores) if scores and reason is None else None,
                scores,
                reason,
            )
        )
    return ended


def _write_best(
    recipe: Recipe, study: Any, directory: Path
) -> tuple[tuple[Trial, ...], Trial, Recipe]:
    """Write the recipe of the best complete trial; return the trials, the best and its recipe."""
    trials = _ended(study)
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        reason = next((trial.reason for trial in trials if trial.reason), "none has ended yet")
        raise TrainingError(f"no trial was completed: {reason}")
    best = max(complete, key=lambda trial: trial.score or -math.inf)
    chosen = with_values(recipe, best.values).model_copy(update={"tune": None})
    chosen = chosen.based_at(recipe.base)
    text = f"# The best of {len(trials)} trials: validation {recipe.training.monitor} "
    with outputs.whole(directory / BEST, overwrite=True) as made:
        made.write_text(f"{text}{best.score:.4f}\n\n{to_toml(chosen)}", encoding="utf-8")
    return tuple(trials), best, chosen
