"""Trackers: which figures of a training they receive, and what happens if one fails."""

import logging
import re
from importlib.util import find_spec
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import shortlist
from shortlist.cli.app import app
from shortlist.config import load_recipe
from shortlist.data.synthetic import planted_world
from shortlist.errors import OutputError, QueryError, TrackingError
from shortlist.runs.tracking import MLflow, TensorBoard, Tracker, trackers_of
from shortlist.training.checkpoint import IDENTITY, Checkpoints, State
from shortlist.training.progress import Quiet

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[model]
dim = "auto"
dropout = 0.2

[training]
epochs = 3
batch_size = 128
patience = 3

[evaluation]
k = [10]
"""
BLEND = """
[channels.towers]
kind = "two-tower"

[channels.pairs]
kind = "item-to-item"

[channels.counts]
kind = "item-cf"

[blend]
quotas = { towers = 4, pairs = 3, counts = 3 }
"""


class Told(NamedTuple):
    """One thing that a tracker was told."""

    what: str
    values: dict | str
    epoch: int = 0


class Recording:
    """Keeps what it is told, and raises at the N-th thing."""

    def __init__(self, raises_at: int = -1, error: BaseException | None = None) -> None:
        self.told: list[Told] = []
        self._raises_at, self._error = raises_at, error or RuntimeError("the disk is full\nno room")

    def _keep(self, told: Told) -> None:
        self.told.append(told)
        if len(self.told) == self._raises_at:
            raise self._error

    def begin(self, name, checkpoints, resumed):
        self._keep(Told("resumed" if resumed else "begin", name))

    def parameters(self, values):
        self._keep(Told("parameters", dict(values)))

    def figures(self, values, epoch):
        self._keep(Told("figures", dict(values), epoch))

    def end(self, how):
        self._keep(Told("end", how))

    def epochs(self, name: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for each in self.told:
            if each.what == "figures" and name in each.values:
                assert each.epoch not in found
                found[each.epoch] = each.values[name]
        return found


class StopsAt(Quiet):
    """Ctrl-C once an epoch was measured."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def report(self, epoch, loss, monitor, score, skipped=0):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    world = planted_world(users=60, items=40, events=600, seed=3)
    log = world.interactions.with_columns(session=world.interactions["user_id"] % 50)
    log.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_a_tracker_is_told_the_recipe_each_epoch_and_the_test_rows(folder):
    tracker = Recording()
    run = shortlist.train("recipe.toml", "runs/first", track=[tracker])
    assert isinstance(tracker, Tracker)
    first, parameters, *_, auto, tested, last = tracker.told
    assert (first, last) == (Told("begin", "runs/first"), Told("end", "finished"))
    assert parameters.values["training.epochs"] == "3"
    assert parameters.values["model.dim"] == "auto"
    assert auto.values == {"auto.model.dim": str(run.retriever.model_section.dim)}
    losses = {epoch.epoch: epoch.loss for epoch in run.retriever.epochs_run}
    assert tracker.epochs("loss") == losses
    assert tracker.epochs("validation/ndcg@10").keys() == losses.keys() == {1, 2, 3}
    assert tested.epoch == 3
    assert tested.values["test/recall@10"] == run.report.metrics["recall@10"].mean
    assert tested.values["popular/recall@10"] == run.report.popularity["recall@10"].mean


def test_epochs_of_the_channels_of_a_blend_are_kept_apart(folder):
    (folder / "recipe.toml").write_text(
        RECIPE.replace("[model]", 'session = "session"\n[model]') + BLEND
    )
    tracker = Recording()
    shortlist.train("recipe.toml", "out", track=[tracker])
    for channel in ("towers", "pairs"):
        assert tracker.epochs(f"{channel}/loss").keys() == {1, 2, 3}
    assert tracker.epochs("test/recall@10").keys() == {3}


def test_a_training_that_is_taken_up_says_so_and_tells_every_epoch(folder):
    recipe = load_recipe(folder / "recipe.toml")
    stopped, goes_on = Recording(), Recording()
    saved = {"checkpoints": Checkpoints(folder / "saved", every=0)}
    with pytest.raises(KeyboardInterrupt):
        shortlist.train(recipe, "out", **saved, progress=StopsAt(2), track=[stopped])
    assert stopped.told[-1] == Told("end", "killed")
    shortlist.train(recipe, "out", **saved, track=[goes_on])
    assert stopped.told[0].what == "begin"
    assert goes_on.told[0] == Told("resumed", "out")
    assert goes_on.epochs("loss").keys() == {1, 2, 3}
    assert goes_on.epochs("loss")[1] == stopped.epochs("loss")[1]


@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_tracker_that_fails_is_named_once_and_changes_nothing(folder, caplog, at):
    broken, whole = Recording(raises_at=at), Recording()
    run = shortlist.train("recipe.toml", "out", track=[broken, whole])
    assert shortlist.load("out").metrics == run.report.to_dict()
    assert len(broken.told) == at
    assert len(whole.told) == 8
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.getMessage() == (
        "warning: Recording has failed, and the training goes on without it: the disk is full"
    )


def test_a_training_that_breaks_ends_as_failed(folder):
    tracker = Recording()
    with pytest.raises(shortlist.ShortlistError):
        shortlist.train(
            "recipe.toml", "out", overrides=["training.learning_rate=1e30"], track=[tracker]
        )
    assert tracker.told[-1] == Told("end", "failed")


def test_a_training_whose_bundle_cannot_be_saved_ends_as_failed(folder, monkeypatch):
    def full(*_, **__):
        raise OutputError("the disk is full")

    monkeypatch.setattr("shortlist.runs.whole.save_or_keep", full)
    tracker = Recording()
    with pytest.raises(OutputError):
        shortlist.train("recipe.toml", "out", track=[tracker])
    assert tracker.told[-1] == Told("end", "failed")


def test_a_training_keeps_its_id_beside_its_checkpoints_and_another_has_another(tmp_path):
    first, other = Checkpoints(tmp_path / "first"), Checkpoints(tmp_path / "other")
    identity, resumed = first.identity()
    assert not resumed
    assert first.identity()[0] != identity  # the training began again: nothing was saved
    identity = first.identity()[0]
    first.stage("train", "of it", "float32").save(State({}, {}))
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = Checkpoints(tmp_path / "moved")
    assert moved.identity() == (identity, True)
    (tmp_path / "moved" / IDENTITY).write_text("' or 1 = 1")
    assert moved.identity()[0] not in (identity, other.identity()[0], "' or 1 = 1")
    moved.stage("train", "of it", "float32")
    moved.remove()
    assert not moved.directory.exists()


@pytest.mark.parametrize(
    ("track", "words"),
    [
        (["wandb=x"], "there is no tracker 'wandb'"),
        (["tensorbord=x"], "Did you mean 'tensorboard'"),
        (["tensorboard"], "tensorboard=FOLDER"),
        (["mlflow="], "mlflow=PLACE"),
        ("mlflow", r"track must be a list, such as \['mlflow'\]"),
        (["mlflow", "mlflow"], "track has 'mlflow' twice"),
        (["tensorboard=a", "tensorboard=./a"], "one folder of TensorBoard twice"),
        ([object()], "begin, parameters, figures and end"),
    ],
)
def test_what_is_no_tracker_is_refused_before_the_log_is_read(folder, track, words):
    (folder / "log.csv").write_text("broken")
    with pytest.raises(QueryError, match=words):
        shortlist.train("recipe.toml", "out", track=track)


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_the_log_is_read(folder, monkeypatch, kind):
    (folder / "log.csv").write_text("broken")
    for module in ("torch.utils.tensorboard", "mlflow.tracking"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(QueryError, match=f"{kind} needs its .*pip install '"):
        app(["train", "recipe.toml", "--out", "out", "--track", f"{kind}=x"], standalone_mode=False)


def test_a_folder_that_is_a_file_or_lies_in_the_bundle_is_refused(folder):
    (folder / "file").touch()
    for place, words in (("file", "file"), ("out/logs", "would lie in the bundle")):
        with pytest.raises(OutputError, match=words):
            shortlist.train("recipe.toml", "out", track=[f"tensorboard={place}"])


def test_a_place_that_cannot_be_reached_is_refused_without_its_password(folder):
    class Gone(Recording):
        def check(self):
            raise ConnectionError("no answer from http://me:secret-word@host:5000")

    with pytest.raises(TrackingError) as refused:
        shortlist.train("recipe.toml", "out", track=[Gone()])
    assert "no answer from http://...@host:5000" in str(refused.value)
    assert "secret-word" not in str(refused.value)


def twice(track: str) -> None:
    """Train until Ctrl-C in the second epoch, and go on; then train something else."""
    recipe = load_recipe("recipe.toml")
    saved = {"checkpoints": Checkpoints("saved", every=0)}
    with pytest.raises(KeyboardInterrupt):
        shortlist.train(recipe, "runs/first", **saved, progress=StopsAt(3), track=[track])
    shortlist.train(recipe, "runs/first", **saved, track=[track])
    shortlist.train(recipe, "runs/other", track=[track])


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_event_files_hold_each_epoch_once_also_of_a_training_that_was_taken_up(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    twice("tensorboard=logs")
    for name in ("first", "other"):
        events = EventAccumulator(str(folder / "logs" / "runs" / name))
        events.Reload()
        assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
        assert [event.step for event in events.Scalars("test/recall@10")] == [3]
        text = events.Tensors("parameters/text_summary")
        assert b"| training.epochs | 3 |" in text[-1].tensor_proto.string_val[0]
        assert b"| auto.model.dim |" in text[-1].tensor_proto.string_val[0]
    assert isinstance(trackers_of(["tensorboard=logs"])[0], TensorBoard)


def test_an_experiment_that_another_rank_makes_meanwhile_is_taken():
    class Client:
        """A client for which there is no experiment until it tries to make one."""

        experiment = None

        def get_experiment_by_name(self, name):
            return self.experiment

        def create_experiment(self, name):
            self.experiment = self.made
            raise RuntimeError(f"Experiment '{name}' already exists.")

    tracker = MLflow("http://127.0.0.1:9")
    tracker._client = Client()
    Client.made = SimpleNamespace(experiment_id=7)
    tracker.check()
    assert tracker._experiment() == "7"
    tracker._client, Client.made = Client(), None
    with pytest.raises(RuntimeError, match="already exists"):
        tracker.check()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra mlflow")
@pytest.mark.filterwarnings("default")
def test_mlflow_has_one_run_a_training_also_of_one_that_was_taken_up(folder, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    twice("mlflow=store")
    client = MlflowClient("store")
    experiment = client.get_experiment_by_name("shortlist").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert sorted(runs) == ["runs/first", "runs/other"]
    assert len(client.search_runs([experiment])) == 2
    for run in runs.values():
        assert run.info.status == "FINISHED"
        assert run.data.params["training.epochs"] == "3"
        assert re.fullmatch(r"\d+", run.data.params["auto.model.dim"])
        for name in ("loss", "validation/ndcg_at_10"):
            history = client.get_metric_history(run.info.run_id, name)
            assert [point.step for point in history] == [1, 2, 3]
        assert "test/recall_at_10" in run.data.metrics
    assert runs["runs/first"].data.metrics["loss"] == runs["runs/other"].data.metrics["loss"]
    with pytest.raises(TrackingError, match="MLflow cannot be used"):
        shortlist.train("recipe.toml", "x", track=["mlflow=http://127.0.0.1:9"])
    assert isinstance(trackers_of(["mlflow"])[0], MLflow)
