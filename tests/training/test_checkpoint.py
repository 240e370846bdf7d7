"""A killed training continues to the same bytes; checkpoints of others are refused."""

import random
import signal
import subprocess
import sys

import polars as pl
import pytest
import torch

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.batches import Batch
from shortlist.data.dataset import Dataset
from shortlist.data.ragged import Ragged
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import CheckpointError
from shortlist.sampling import SAMPLERS, build_sampler
from shortlist.sampling.base import Remembering
from shortlist.training.checkpoint import Checkpoints, Stage, State, fingerprint
from shortlist.training.trainer import Trainer

KINDS = {
    "pooled": (TwoTower, {}),
    "attention": (TwoTower, {"history": "attention", "history_dropout": 0.1}),
    "refit": (TwoTower, {"refit": "all"}),
    "memory": (TwoTower, {"sampler": "memory", "negatives": 50}),
    "streaming": (TwoTower, {"sampler": "in_batch_streaming", "learn_temperature": True}),
    "mined": (TwoTower, {"hard": "mined", "hard_ranks": (2, 9), "loss": "bce"}),
    "averaged": (TwoTower, {"ema": 0.9, "warmup": 3}),
    "row-wise": (TwoTower, {"optimizer": "row-wise", "clip": 1.0}),
    "blocks": (TwoTower, {"history": "attention", "history_time": True, "encode_rows": 20}),
    "stretches": (TwoTower, {"history_windows": True, "history_dropout": 0.1}),
    "i2i": (ItemToItem, {"session_gap": 10**9}),
    "u2u": (UserToUser, {"batch_size": 10}),
}
COMMON = {"dim": 8, "epochs": 2, "batch_size": 64, "dropout": 0.2, "history_length": 8, "seed": 4}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def log():
    return planted_world(users=60, items=40, events=500, seed=5).interactions


@pytest.fixture(scope="module")
def split(log):
    return Dataset.load(log, schema=Schema(time="timestamp")).split("leave-last-out")


def build(kind, **options):
    retriever, own = KINDS[kind]
    common = {k: v for k, v in COMMON.items() if k in retriever.reads}
    return retriever(**{**common, **own, **options})


def bytes_of(retriever):
    _, states = retriever.state()
    return {
        f"{file}.{name}": value.numpy().tobytes()
        for file, tensors in states.items()
        for name, value in tensors.items()
    }


def killed_after(steps, monkeypatch, go):
    """Run until so many optimizer steps are done; return whether it was still running then."""
    taken, whole = 0, Trainer._loss

    def counted(self, *given):
        nonlocal taken
        if taken == steps:
            raise Killed
        taken += 1
        return whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_loss", counted)
        try:
            go()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_twice_ends_with_the_bytes_of_an_unbroken_one(
    kind, split, tmp_path, monkeypatch
):
    unbroken = build(kind).fit(split)
    dice = random.Random(kind)
    checkpoints = Checkpoints(tmp_path, every=0)
    for steps in (dice.randint(1, 6), dice.randint(1, 4)):
        assert killed_after(
            steps, monkeypatch, lambda: build(kind).fit(split, checkpoints=checkpoints)
        )
    resumed = build(kind).fit(split, checkpoints=checkpoints)
    assert bytes_of(resumed) == bytes_of(unbroken)
    assert resumed.epochs_run == unbroken.epochs_run
    checkpoints.remove()
    assert not tmp_path.exists()


def test_ten_random_kill_points_and_checkpoints_now_and_then(split, tmp_path, monkeypatch):
    """Checkpoints that lie some steps back; also just before, in and after the last epoch."""
    unbroken = bytes_of(build("attention", refit="all").fit(split))
    dice = random.Random(0)
    whole = Stage.due
    monkeypatch.setattr(Stage, "due", lambda self: whole(self) and dice.random() < 0.4)
    for steps in dice.sample(range(1, 24), 10):
        checkpoints = Checkpoints(tmp_path / str(steps), every=0)
        fit = lambda: build("attention", refit="all").fit(split, checkpoints=checkpoints)  # noqa: B023,E731
        killed_after(steps, monkeypatch, fit)
        assert bytes_of(fit()) == unbroken


def test_the_same_training_twice_gives_the_same_bytes(split):
    assert bytes_of(build("averaged").fit(split)) == bytes_of(build("averaged").fit(split))


SCRIPT = """
import sys, torch
from shortlist.cli import main
torch.set_num_threads(1)
sys.argv = ["shortlist", *sys.argv[1:]]
main()
"""

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"
[model]
dim = 8
[training]
epochs = 60
patience = 0
validate_every = 30
batch_size = 64
"""


def test_a_command_killed_by_the_system_goes_on_from_its_checkpoint(log, tmp_path, monkeypatch):
    """kill -9 while it trains and writes checkpoints, then the same command again, to its end."""
    from safetensors.torch import load_file

    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    log.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def command(out, *more):
        return [
            *(sys.executable, "-c", SCRIPT, "train", str(tmp_path / "recipe.toml")),
            *("--out", str(tmp_path / out), "--quiet", *more),
        ]

    saved = ("--checkpoint", str(tmp_path / "saved"), "--checkpoint-every", "0")
    running = subprocess.Popen(command("bundle", *saved))
    while not list(tmp_path.glob("saved/*.json")):
        assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    rare = (*saved[:2], "--checkpoint-every", "9999")
    subprocess.run(command("bundle", *rare), check=True)
    subprocess.run(command("unbroken"), check=True)
    for file in ("towers.safetensors", "item_vectors.safetensors"):
        ours, theirs = (load_file(tmp_path / out / file) for out in ("bundle", "unbroken"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "saved").exists()


def saved_once(split, directory, monkeypatch):
    checkpoints = Checkpoints(directory, every=0)
    assert killed_after(3, monkeypatch, lambda: build("pooled").fit(split, checkpoints=checkpoints))
    return checkpoints


@pytest.mark.parametrize("options", [{"dim": 16}, {"seed": 5}, {"learning_rate": 0.01}])
def test_the_checkpoint_of_another_recipe_is_refused(split, tmp_path, monkeypatch, options):
    checkpoints = saved_once(split, tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match=r"another recipe.*remove the checkpoint"):
        build("pooled", **options).fit(split, checkpoints=checkpoints)


def test_the_checkpoint_of_other_data_is_refused(log, split, tmp_path, monkeypatch):
    checkpoints = saved_once(split, tmp_path, monkeypatch)
    less = Dataset.load(log.head(-1), schema=Schema(time="timestamp")).split("leave-last-out")
    with pytest.raises(CheckpointError, match="other data"):
        build("pooled").fit(less, checkpoints=checkpoints)


@pytest.mark.parametrize("file", ["json", "safetensors"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
def test_a_torn_checkpoint_is_refused_and_never_read(split, tmp_path, monkeypatch, file, harm):
    checkpoints = saved_once(split, tmp_path, monkeypatch)
    (path,) = tmp_path.glob(f"*.checkpoint.{file}")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if harm == "flipped" and file == "json":
        content[content.index(b'"sha256"') + 12] ^= 1
    elif harm == "flipped":
        content[middle] ^= 1
    else:
        del content[middle if harm == "cut" else 0 :]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint"):
        build("pooled").fit(split, checkpoints=checkpoints)


def test_a_writer_killed_between_any_two_of_its_steps_leaves_a_whole_checkpoint(
    tmp_path, monkeypatch
):
    """The N-th access to the disk fails, for every N: what is read is the old or the new state."""
    from shortlist.training import checkpoint

    old, new = (State({"n": n}, {"x": torch.full((3,), float(n))}) for n in (1, 2))
    survived = 0
    for fail_at in range(1, 20):
        stage = Stage(tmp_path / str(fail_at), "train", "of it", 0)
        stage.save(old)
        calls = 0

        def failing(real):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == fail_at:  # noqa: B023
                    raise Killed
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in (
                (checkpoint.safetensors.torch, "save_file"),
                (checkpoint.os, "fsync"),
                (checkpoint.os, "replace"),
                (checkpoint.Path, "write_bytes"),
                (checkpoint.Path, "unlink"),
            ):
                patch.setattr(module, name, failing(getattr(module, name)))
            try:
                stage.save(new)
            except Killed:
                survived += 1
        found = Stage(tmp_path / str(fail_at), "train", "of it", 0).load()
        assert found.plain["n"] == found.tensors["x"][0]
        stage.save(new)  # and what the killed writer left is cleared away
        assert len(list((tmp_path / str(fail_at)).iterdir())) == 2
    assert survived >= 6


def test_a_newer_state_replaces_the_one_before(tmp_path):
    stage = Stage(tmp_path, "train", "of it", 0)
    assert stage.load() is None
    for number in (1, 2):
        stage.save(State({"n": number}, {}))
        assert stage.load().plain == {"n": number}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_goes_on_from_its_state_as_if_nothing_had_happened(name):
    counts = torch.tensor([0, 5, 4, 3, 2, 1])

    def batch(seed):
        ids = torch.randint(1, 6, (6,), generator=torch.Generator().manual_seed(seed))
        lists = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(7, dtype=torch.int64))
        return Batch(ids, ids, torch.ones(6), lists)

    def pool(sampler, seed):
        return sampler.sample(batch(seed), torch.Generator().manual_seed(seed))

    sampler, other = build_sampler(name, counts), build_sampler(name, counts)
    for seed in range(3):
        pool(sampler, seed)
    if isinstance(sampler, Remembering):
        state = {key: value.clone() for key, value in sampler.state_dict().items()}
        other.load_state_dict(state)
    for ours, theirs in zip(pool(sampler, 9)[:3], pool(other, 9)[:3], strict=True):
        assert torch.equal(ours, theirs)


def test_what_ranks_compare_leaves_out_the_rounding_of_numeric_features_alone(log):
    people = pl.DataFrame(
        {"user_id": [10001, 10002, 10003], "age": [20.0, 30.0, 50.0], "sex": ["f", "m", "f"]}
    )

    def data(frame):
        features = (Feature("age", "numeric"), Feature("sex", "categorical"))
        schema = Schema(time="timestamp", user_features=features)
        loaded = Dataset.load(log, users=frame, schema=schema)
        return loaded.split("leave-last-out").training_data("train")

    plain, nudged = data(people), data(people)
    ages = nudged.user_features.columns["age"]
    ages.copy_(torch.nextafter(ages, torch.tensor(9.0)))
    assert fingerprint({}, plain) != fingerprint({}, nudged)
    assert fingerprint({}, plain, numeric_features=False) == fingerprint(
        {}, nudged, numeric_features=False
    )
    other = data(people.with_columns(sex=pl.Series(["m", "m", "f"])))
    assert fingerprint({}, plain, numeric_features=False) != fingerprint(
        {}, other, numeric_features=False
    )
