"""Where are the figures of a training kept beside its bundle? In TensorBoard, MLflow or your own.

This file alone imports the packages of the two, which are extras, when a training asks for one.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from shortlist import outputs
from shortlist.errors import OutputError, QueryError, TrackingError, install, suggest
from shortlist.evaluation.report import Report
from shortlist.outputs import Output
from shortlist.training.progress import Progress, Quiet, of_part

logger = logging.getLogger("shortlist.runs")

Ended = Literal["finished", "failed", "killed"]
"""How a training ended: with a model, with an error, or by Ctrl-C."""


@runtime_checkable
class Tracker(Protocol):
    """What is told about one training after the other.

    Each training calls `begin` and `parameters`, then `figures` after every measured epoch and
    once for the test rows, and at last `end`. An error that one of these raises is said once; the
    training goes on without the tracker.
    """

    def begin(self, name: str, checkpoints: str | None, resumed: bool) -> None:
        """A training begins. name: its bundle, as a path of at most two folders.

        checkpoints: names the folder that the training can be taken up from, the same in each try;
        None where it has none. resumed: whether it is taken up now: it tells the epochs before
        again.
        """
        ...

    def parameters(self, values: Mapping[str, str]) -> None:
        """Take keys of the recipe and their values; called again with what "auto" became."""
        ...

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Take figures by name: "loss", "validation/ndcg@10", "test/ndcg@10", "popular/ndcg@10".

        Where a blend trains several channels, the name of the channel stands before the figures
        of its epochs: "towers/loss".
        """
        ...

    def end(self, how: Ended) -> None:
        """The training has ended."""
        ...


Track: TypeAlias = str | Tracker
"""A tracker, or the words for one: "tensorboard=FOLDER", "mlflow=ADDRESS" or "mlflow"."""


class TensorBoard:
    """Writes the event files of TensorBoard into a folder, each training below its own name.

    A training of the same name takes the place of the earlier one, of which TensorBoard then shows
    nothing; so a training that is taken up, which tells all its epochs again, is one run.
    """

    def __init__(self, place: str) -> None:
        if not place:
            raise QueryError("tensorboard needs a folder: tensorboard=FOLDER")
        self.folder = Path(place)
        self._writer: Any = None

    def check(self) -> None:
        """Refuse a folder that cannot be written, and a missing package."""
        outputs.check(places_of([self]))
        _summary_writer()

    def begin(self, name: str, checkpoints: str | None, resumed: bool) -> None:  # noqa: ARG002
        """Open the event file of a training."""
        # The step from which TensorBoard leaves out what earlier files of the folder say.
        self._writer = _summary_writer()(str(self.folder / name), purge_step=0)
        self._parameters: dict[str, str] = {}

    def parameters(self, values: Mapping[str, str]) -> None:
        """Write all parameters so far as a table, under "Text"."""
        step = 1 if self._parameters else 0
        self._parameters |= values
        rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in self._parameters.items())
        self._writer.add_text("parameters", f"| key | value |\n|---|---|\n{rows}", step)

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the figures of an epoch."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self, how: Ended) -> None:  # noqa: ARG002
        """Close the event file."""
        self._writer.close()


class MLflow:
    """Writes to MLflow: one run a training.

    place: the address of a server or of a database, as MLflow takes it; "" is what the environment
    says (MLFLOW_TRACKING_URI). The experiment is MLFLOW_EXPERIMENT_NAME, or "shortlist". A
    training that is taken up from checkpoints goes on in its run.
    """

    TAG = "shortlist.checkpoints"
    STATUS: Mapping[Ended, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
    LONGEST = 6000
    """Characters of a value that MLflow takes."""
    MOST = 100
    """Parameters that MLflow takes at once."""

    def __init__(self, place: str) -> None:
        self._place = place or None
        self._client: Any = None
        self._run = ""
        self._epochs: dict[str, set[int]] | None = None

    def check(self) -> None:
        """Refuse a missing package, and a place that does not answer."""
        self._experiment()

    def begin(self, name: str, checkpoints: str | None, resumed: bool) -> None:
        """Begin a run, or take up the one of the same checkpoints that has not finished."""
        experiment, found = self._experiment(), []
        tags = {} if checkpoints is None else {self.TAG: checkpoints}
        if resumed:
            wanted = f"tags.`{self.TAG}` = '{checkpoints}' and attributes.status != 'FINISHED'"
            found = self._client.search_runs([experiment], wanted, max_results=1)
        if found:
            self._run, self._epochs = found[0].info.run_id, {}
            self._client.update_run(self._run, status="RUNNING")
        else:
            made = self._client.create_run(experiment, run_name=name, tags=tags)
            self._run, self._epochs = made.info.run_id, None

    def parameters(self, values: Mapping[str, str]) -> None:
        """Write parameters; those that the run has already can never change."""
        from mlflow.entities import Param  # noqa: PLC0415

        known = self._client.get_run(self._run).data.params
        new = {_name(key): value[: self.LONGEST] for key, value in values.items()}
        params = [Param(key, value) for key, value in new.items() if key not in known]
        for start in range(0, len(params), self.MOST):
            self._client.log_batch(self._run, params=params[start : start + self.MOST])

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the figures of an epoch; one that a run that was taken up has is left as it is."""
        from mlflow.entities import Metric  # noqa: PLC0415

        now = time.time_ns() // 1_000_000
        named = {_name(name): value for name, value in values.items()}
        metrics = [
            Metric(name, float(value), now, epoch)
            for name, value in named.items()
            if not self._has(name, epoch)
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def _has(self, name: str, epoch: int) -> bool:
        """Whether the run had this figure when it was taken up."""
        if self._epochs is None:
            return False
        if name not in self._epochs:
            history = self._client.get_metric_history(self._run, name)
            self._epochs[name] = {point.step for point in history}
        return epoch in self._epochs[name]

    def end(self, how: Ended) -> None:
        """End the run."""
        self._client.set_terminated(self._run, self.STATUS[how])

    def _experiment(self) -> str:
        """Reach MLflow; return the id of the experiment, which is made where there is none."""
        # MLflow would ask a server that is gone seven times, over some minutes, at every epoch.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        if self._client is None:
            try:
                from mlflow.tracking import MlflowClient  # noqa: PLC0415
            except ImportError as error:
                raise QueryError(f"mlflow needs its client: {install('mlflow')}") from error
            self._client = MlflowClient(tracking_uri=self._place)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "shortlist"
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another rank, or another training, may have made it meanwhile
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)


TRACKERS: Mapping[str, Callable[[str], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def trackers_of(tracks: Iterable[Track]) -> tuple[Tracker, ...]:
    """Return the trackers that are asked for. Errors: QueryError."""
    if isinstance(tracks, str):
        raise QueryError(f"track must be a list, such as [{tracks!r:.80}]")
    return tuple(_tracker(track) for track in tracks)


def places_of(trackers: Iterable[Tracker]) -> dict[str, Output]:
    """Return the folders that trackers write into, as `outputs.check` takes them."""
    return {
        f"track tensorboard={tracker.folder}": Output(tracker.folder, "folder")
        for tracker in trackers
        if isinstance(tracker, TensorBoard)
    }


def check_trackers(trackers: Iterable[Tracker]) -> None:
    """Refuse, before any work, trackers that cannot be used. Errors: QueryError, TrackingError.

    A tracker of one's own is asked if it has a method `check`.
    """
    for tracker in trackers:
        check = getattr(tracker, "check", None)
        if check is None:
            continue
        try:
            check()
        except (QueryError, OutputError):
            raise
        except Exception as error:
            raise TrackingError(f"{_kind(tracker)} cannot be used: {_said(error)}") from error


class Tracking:
    """The trackers of a training that goes on; one that fails is left out from then on."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._left = list(trackers)
        self.epoch = 0

    def begin(self, name: str, checkpoints: Path | None) -> None:
        """Tell that a training begins, or is taken up from checkpoints that are there."""
        named = resumed = None
        if checkpoints is not None:
            named = hashlib.sha256(str(checkpoints.resolve()).encode()).hexdigest()[:32]
            resumed = any(checkpoints.glob("*.checkpoint.json"))
        self._tell(lambda tracker: tracker.begin(name, named, bool(resumed)))

    def parameters(self, values: Mapping[str, str]) -> None:
        """Tell parameters, if there are any."""
        if values:
            self._tell(lambda tracker: tracker.parameters(values))

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Tell the figures of an epoch."""
        self.epoch = max(self.epoch, epoch)
        self._tell(lambda tracker: tracker.figures(values, epoch))

    def tested(self, report: Report) -> None:
        """Tell the figures of the test rows, after the last epoch."""
        told = {f"test/{name}": figure.mean for name, figure in report.metrics.items()}
        told |= {f"popular/{name}": figure.mean for name, figure in report.popularity.items()}
        if told:
            self.figures(told, self.epoch)

    def end(self, how: Ended) -> None:
        """Tell how it ended."""
        self._tell(lambda tracker: tracker.end(how))

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._left):
            try:
                tell(tracker)
            except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises
                self._left.remove(tracker)
                logger.warning(
                    "warning: %s has failed, and the training goes on without it: %s",
                    _kind(tracker),
                    _said(error),
                )


class Tracked:
    """A Progress that passes everything on, and tells the trackers of each measured epoch."""

    def __init__(self, progress: Progress, tracking: Tracking, part: str = "") -> None:
        self._progress, self._tracking, self._part = progress, tracking, part

    def of(self, part: str) -> "Tracked":
        """Return what is told of one of several retrievers."""
        return Tracked(of_part(self._progress, part), self._tracking, f"{self._part}{part}/")

    def stage(self, what: str) -> None:
        """Work without epochs begins."""
        self._progress.stage(what)

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """An epoch begins."""
        self._progress.start(epoch, epochs, positives)

    def advance(self, positives: int) -> None:
        """So many more positives were used."""
        self._progress.advance(positives)

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """An epoch was measured: tell its figures."""
        self._progress.report(epoch, loss, monitor, score, skipped)
        figures = {"loss": loss, f"validation/{monitor}": score}
        self._tracking.figures({self._part + name: v for name, v in figures.items()}, epoch)


@contextmanager
def tracked(
    trackers: Iterable[Tracker],
    progress: Progress | None,
    *,
    out: str | Path,
    parameters: Mapping[str, Any],
    checkpoints: Path | None,
) -> Iterator[tuple[Tracking, Progress | None]]:
    """Tell trackers of a training from its begin to its end, whatever that is.

    Yields what tells them, and the progress that tells them of epochs. out: the place of the
    bundle. parameters: the recipe as its sections. checkpoints: the folder that the training can
    be taken up from.
    """
    tracking = Tracking(trackers)
    if not tracking._left:
        yield tracking, progress
        return
    tracking.begin(_run_name(Path(out)), checkpoints)
    tracking.parameters(flat(parameters))
    how: Ended = "failed"
    try:
        yield tracking, Tracked(progress or Quiet(), tracking)
        how = "finished"
    except KeyboardInterrupt:
        how = "killed"
        raise
    finally:
        tracking.end(how)


def flat(values: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Return nested values by their path; what is not given is left out.

    >>> flat({"model": {"dim": 64, "context": None}, "evaluation": {"k": [10, 100]}})
    {'model.dim': '64', 'evaluation.k': '[10, 100]'}
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{start}{key}.")
        elif value is not None:
            found[f"{start}{key}"] = str(value)
    return found


def _tracker(track: Track) -> Tracker:
    if not isinstance(track, str):
        if isinstance(track, Tracker):
            return track
        raise QueryError(
            f"a tracker has the methods begin, parameters, figures and end, got {track!r:.80}"
        )
    kind, given, place = track.partition("=")
    if kind not in TRACKERS:
        raise QueryError(f"there is no tracker {kind!r:.40}.{suggest(kind, TRACKERS)}")
    if given and not place:
        raise QueryError(f"{kind}= says no place: write {kind}=PLACE")
    return TRACKERS[kind](place)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise QueryError(f"tensorboard needs its package: {install('tensorboard')}") from error
    return SummaryWriter


def _run_name(out: Path) -> str:
    """The last two folders of a path: bundles of seeds and folds lie below their training's own.

    >>> _run_name(Path("/work/runs/first")), _run_name(Path("../first"))
    ('runs/first', 'first')
    """
    parts = [part for part in out.parts if part not in (out.anchor, "..")]
    return "/".join(parts[-2:]) or "bundle"


def _name(name: str) -> str:
    """A name as MLflow takes it.

    >>> _name("validation/ndcg@10")
    'validation/ndcg_at_10'
    """
    return re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"))


def _cell(value: str) -> str:
    """A value in a cell of a Markdown table."""
    return value.replace("|", "\\|").replace("\n", " ")


def _kind(tracker: Tracker) -> str:
    return type(tracker).__name__


def _said(error: Exception) -> str:
    """The first line of an error, without the password of an address."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
    return re.sub(r"//[^/\s]*@", "//...@", line)
