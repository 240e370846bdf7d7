"""How are the figures of a training recorded outside its bundle? With TensorBoard, MLflow or yours.

Only this file imports the packages of TensorBoard and MLflow, which are extras, and only when a
training uses them.
"""

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
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.progress import Forwarding, Progress, Quiet, of_part

logger = logging.getLogger("shortlist.runs")

Ended = Literal["finished", "failed", "killed"]
"""How a training ended: "finished" with a model, "failed" with an error, "killed" by Ctrl-C."""


@runtime_checkable
class Tracker(Protocol):
    """Receives parameters and figures of trainings, one training after the other.

    Each training calls `begin` and `parameters`, then `figures` after every measured epoch and once
    for the test rows, and finally `end`. If one of these raises an error, a warning is logged and
    the training continues without the tracker.
    """

    def begin(self, name: str, checkpoints: str | None, resumed: bool) -> None:
        """Begin a training.

        name: name of the training, the last two folders of its bundle's path.
        checkpoints: id of a training with checkpoints, the same each time it is resumed; None
        without checkpoints.
        resumed: whether the training continues from a checkpoint. It then reports the earlier
        epochs again.
        """
        ...

    def parameters(self, values: Mapping[str, str]) -> None:
        """Receive the keys of the recipe and their values.

        Called a second time with the numbers that replaced "auto", under names that begin with
        "auto.".
        """
        ...

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Receive figures by name: "loss", "validation/ndcg@10", "test/ndcg@10", "popular/ndcg@10".

        In a blend of several channels, the figures of an epoch begin with the name of the channel:
        "towers/loss".
        """
        ...

    def end(self, how: Ended) -> None:
        """End the training. how: "finished", "failed" or "killed"."""
        ...


Track: TypeAlias = str | Tracker
"""A tracker, or a text that names one: "tensorboard=FOLDER", "mlflow=ADDRESS" or "mlflow"."""


class TensorBoard:
    """Writes TensorBoard event files: one subfolder per training, with the name of the training.

    A training replaces an earlier one of the same name, which TensorBoard no longer shows. A
    resumed training reports all its epochs again, so it is shown as one run.

    place: the folder.
    Errors: QueryError without a folder.
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
        # TensorBoard hides the values of earlier files from this step on.
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
    """Writes to MLflow: one run per training.

    The experiment is named by MLFLOW_EXPERIMENT_NAME; by default it is "shortlist". A training that
    is resumed from checkpoints continues its run.

    place: tracking URI of MLflow, a server or a database; "" takes MLFLOW_TRACKING_URI.
    """

    TAG = "shortlist.checkpoints"
    STATUS: Mapping[Ended, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
    LONGEST = 6000
    """Longest value that MLflow accepts, in characters; longer ones are cut."""
    MOST = 100
    """Largest number of parameters in one request to MLflow."""

    def __init__(self, place: str) -> None:
        self._place = place or None
        self._client: Any = None
        self._run = ""
        self._epochs: dict[str, set[int]] | None = None

    def check(self) -> None:
        """Refuse a missing package, and a place that does not answer."""
        self._experiment()

    def begin(self, name: str, checkpoints: str | None, resumed: bool) -> None:
        """Begin a run, or continue the unfinished run with the same checkpoints."""
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
        """Write parameters. MLflow cannot change a parameter, so those of a resumed run stay."""
        from mlflow.entities import Param  # noqa: PLC0415

        known = self._client.get_run(self._run).data.params
        new = {_name(key): value[: self.LONGEST] for key, value in values.items()}
        params = [Param(key, value) for key, value in new.items() if key not in known]
        for start in range(0, len(params), self.MOST):
            self._client.log_batch(self._run, params=params[start : start + self.MOST])

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the figures of an epoch, except those that a resumed run has already."""
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
        """Tell whether the run had this figure when it was resumed."""
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
        """Connect to MLflow; return the id of the experiment, which is created if missing."""
        # By default MLflow retries seven times, which takes minutes at every epoch.
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
    """Return the trackers that texts name, and tracker objects as they are. Errors: QueryError."""
    if isinstance(tracks, str):
        raise QueryError(f"track must be a list, such as [{tracks!r:.80}]")
    given = list(tracks)
    for track in given:
        if isinstance(track, str) and given.count(track) > 1:
            raise QueryError(f"track has {track!r:.80} twice: give it once")
    trackers = tuple(_tracker(track) for track in given)
    folders = [each.folder.resolve() for each in trackers if isinstance(each, TensorBoard)]
    if len(set(folders)) < len(folders):
        raise QueryError("track has one folder of TensorBoard twice: give it once")
    return trackers


def places_of(trackers: Iterable[Tracker]) -> dict[str, Output]:
    """Return the folders that trackers write into, as arguments of `outputs.check`."""
    return {
        f"track tensorboard={tracker.folder}": Output(tracker.folder, "folder")
        for tracker in trackers
        if isinstance(tracker, TensorBoard)
    }


def check_trackers(trackers: Iterable[Tracker]) -> None:
    """Refuse trackers that cannot be used, before any work.

    Calls the method `check` of each tracker that has one.
    Errors: QueryError, OutputError, TrackingError.
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
            raise TrackingError(f"{_kind(tracker)} cannot be used: {_first_line(error)}") from error


class Tracking:
    """The trackers of a running training. A tracker that fails is removed."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._left = list(trackers)
        self.epoch = 0

    def begin(self, name: str, checkpoints: Checkpoints | None) -> None:
        """Begin a training, or resume it if there are checkpoints."""
        identity, resumed = (None, False) if checkpoints is None else checkpoints.identity()
        self._call(lambda tracker: tracker.begin(name, identity, resumed))

    def parameters(self, values: Mapping[str, str]) -> None:
        """Send parameters to the trackers, if there are any."""
        if values:
            self._call(lambda tracker: tracker.parameters(values))

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Send the figures of an epoch to the trackers."""
        self.epoch = max(self.epoch, epoch)
        self._call(lambda tracker: tracker.figures(values, epoch))

    def tested(self, report: Report) -> None:
        """Send the figures of the test rows to the trackers, with the number of the last epoch."""
        means = {f"test/{name}": figure.mean for name, figure in report.metrics.items()}
        means |= {f"popular/{name}": figure.mean for name, figure in report.popularity.items()}
        if means:
            self.figures(means, self.epoch)

    def end(self, how: Ended) -> None:
        """End the training."""
        self._call(lambda tracker: tracker.end(how))

    def _call(self, method: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._left):
            try:
                method(tracker)
            except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises
                self._left.remove(tracker)
                logger.warning(
                    "warning: %s has failed, and the training goes on without it: %s",
                    _kind(tracker),
                    _first_line(error),
                )


class TrackedProgress(Forwarding):
    """A Progress that passes everything on, and sends each measured epoch to the trackers."""

    def __init__(self, progress: Progress, tracking: Tracking, part: str = "") -> None:
        super().__init__(progress)
        self._tracking, self._part = tracking, part

    def of(self, part: str) -> "TrackedProgress":
        """Return the Progress of one of several retrievers; its figures begin with its name."""
        inner = of_part(self._progress, part)
        return TrackedProgress(inner, self._tracking, f"{self._part}{part}/")

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Pass on the figures of an epoch, and send them to the trackers."""
        super().report(epoch, loss, monitor, score, skipped)
        figures = {"loss": loss, f"validation/{monitor}": score}
        self._tracking.figures({self._part + name: v for name, v in figures.items()}, epoch)


@contextmanager
def tracked(
    trackers: Iterable[Tracker],
    progress: Progress | None,
    *,
    out: str | Path,
    parameters: Mapping[str, Any],
    checkpoints: Checkpoints | None,
) -> Iterator[tuple[Tracking, Progress | None]]:
    """Report a training to trackers from its beginning to its end, also if it fails.

    The block ends with the saving of the model: what fails in it is reported as "failed".
    Yields the Tracking, and the Progress to train with.

    progress: receives the progress of the training as well; None shows nothing.
    out: path of the bundle; it names the training.
    parameters: the recipe as nested sections.
    checkpoints: where the training is saved while it runs; None without.
    """
    tracking = Tracking(trackers)
    if not tracking._left:
        yield tracking, progress
        return
    tracking.begin(_run_name(Path(out)), checkpoints)
    tracking.parameters(flat(parameters))
    how: Ended = "failed"
    try:
        yield tracking, TrackedProgress(progress or Quiet(), tracking)
        how = "finished"
    except KeyboardInterrupt:
        how = "killed"
        raise
    finally:
        tracking.end(how)


def flat(values: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Return nested values as texts by their dotted path; None is left out.

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
        raise QueryError(f"{kind}= names no place: write {kind}=PLACE")
    return TRACKERS[kind](place)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise QueryError(f"tensorboard needs its package: {install('tensorboard')}") from error
    return SummaryWriter


def _run_name(out: Path) -> str:
    """Return the last two folders of a path: the folder of a seed or fold alone is no clear name.

    >>> _run_name(Path("/data/runs/first")), _run_name(Path("../first"))
    ('runs/first', 'first')
    """
    parts = [part for part in out.parts if part not in (out.anchor, "..")]
    return "/".join(parts[-2:]) or "bundle"


def _name(name: str) -> str:
    """Replace the characters of a name that MLflow does not accept.

    >>> _name("validation/ndcg@10")
    'validation/ndcg_at_10'
    """
    return re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"))


def _cell(value: str) -> str:
    """Escape a value for a cell of a Markdown table."""
    return value.replace("|", "\\|").replace("\n", " ")


def _kind(tracker: Tracker) -> str:
    return type(tracker).__name__


def _first_line(error: Exception) -> str:
    """Return the first line of an error, without the user and password of an address."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
    return re.sub(r"//[^/\s]*@", "//...@", line)
