"""Ranks beside one process over losses, samplers and towers in pairs, and kills: `make ranks`."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from patience import PATIENCE, wait_until
from shortlist.errors import ModelError
from shortlist.losses import LOSSES
from shortlist.sampling import SAMPLERS
from training import several
from training.test_ranks import further_than_orders, run_ranks

if not os.environ.get("SHORTLIST_RANKS"):
    pytest.skip("minutes: `make ranks`", allow_module_level=True)

TOWERS = {
    "ids": {"history": "none"},
    "layers": {"user_layers": [8], "item_layers": [8]},
    "features in histories": {"history_reads": "items"},
    "attention": {"history": "attention"},
    "gru": {"history": "gru", "encode_rows": 30},
    "hstu": {"history": "hstu"},
    "neighbours": {"item_neighbours": 5},
    "comirec": {"history": "comirec"},
    "mind": {"history": "mind"},
    "windows": {"history_windows": True},
    "row-wise": {"optimizer": "row-wise", "clip": 0.5},
    "weighted": {"weighted": True, "ema": 0.9},
    "i2i": {"positives": "i2i", "session_gap": 10**9},
    "u2u": {"positives": "u2u", "batch_size": 20},
}
DRAWS = {
    **{name: {"sampler": name} for name in SAMPLERS},
    "its mode's": {},
    "own": {"sampler": "uniform", "negatives": 3, "shared": False},
    "masked": {"sampler": "mixture", "mask_known": True},
    "hardest": {"hard": "hardest"},
}
LEARNED = {
    **{name: {"loss": name} for name in LOSSES},
    "τ learned": {"loss": "softmax", "learn_temperature": True},
    "dot": {"loss": "softmax", "similarity": "dot"},
    "euclidean": {"loss": "bce", "similarity": "euclidean"},
    "values": {"loss": "squared", "values": "explicit", "similarity": "dot", "biases": True},
    "popularity": {"loss": "softmax", "similarity": "dot", "popularity": 0.07},
    "positives as they are": {"loss": "softmax", "correct_positives": False},
}


def pairs() -> Iterator[dict]:
    """Options in which each two of a kind of towers, a draw and a loss meet, where they can."""
    dice = random.Random(7)
    everything = list(itertools.product(TOWERS, DRAWS, LEARNED))
    dice.shuffle(everything)
    met = set()
    for names in everything:
        new = set(itertools.combinations(enumerate(names), 2)) - met
        if not new:
            continue
        tower, draw, learned = names
        options = {**TOWERS[tower], **DRAWS[draw], **LEARNED[learned]}
        if "negatives" not in options and draw in ("uniform", "popularity", "mixture", "memory"):
            options["negatives"] = 30
        if options.get("positives") == "u2u" and draw in ("own", "its mode's"):
            options["shared"] = True  # refused otherwise
        try:
            several.begun(options)
        except ModelError:
            continue
        met |= new
        yield options


@pytest.fixture(scope="module")
def cases():
    return list(pairs())


def test_the_pairs_are_many(cases):
    assert len(cases) > 60
    for table, key in ((LOSSES, "loss"), (SAMPLERS, "sampler")):
        assert set(table) - {options.get(key) for options in cases} == set()
    for own in TOWERS.values():
        assert any(own.items() <= options.items() for options in cases)


def test_one_rank_is_one_process_bit_for_bit(tmp_path, cases):
    cases = cases[::12]
    for options, (found,) in zip(cases, run_ranks(tmp_path, 1, cases), strict=True):
        as_ever = several.beside_others(options)
        assert as_ever["losses"].tolist() == found["losses"].tolist()
        for name, value in as_ever["weights"].items():
            assert torch.equal(value, found["weights"][name]), (options, name)


@pytest.mark.parametrize(("size", "every"), [(2, 1), (3, 4)])
def test_ranks_are_one_process_with_the_rows_of_all(size, every, tmp_path, cases):
    cases = cases[::every]
    found = run_ranks(tmp_path, size, cases)
    wrong = []
    for options, ranks in zip(cases, found, strict=True):
        wrong += [(options, *found) for found in further_than_orders(options, ranks).items()]
        for other in ranks[1:]:
            for name, value in ranks[0]["weights"].items():
                assert torch.equal(value, other["weights"][name]), (options, name)
    assert wrong == []


RECIPE = """[data]
interactions = "log.csv"
time = "timestamp"
[model]
dim = 8
history = "attention"
dropout = 0.2
[training]
epochs = 5
batch_size = 64
refit = "all"
[evaluation]
ladder = false
"""


def started(folder: Path, out: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    train = ["-m", "shortlist", "train", str(folder / "recipe.toml"), "--out", str(folder / out)]
    saved = ["--checkpoint", str(folder / "saved"), "--checkpoint-every", "0"]
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            [*command, *more, *train, *saved, "--quiet"], stdout=said, stderr=subprocess.STDOUT
        )


def ranks_of(agent: int) -> list[int]:
    """The processes that an agent of torchrun has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
        except OSError:  # gone
            continue
        state, parent = rest.split()[:2]
        if int(parent) == agent and state != "Z":
            found.append(int(name.split(" ", 1)[0]))
    return found


def saved_last(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in (folder / "saved").glob("*.json"))


def wait_for_another(folder: Path, running: subprocess.Popen) -> None:
    """Wait for the next checkpoint, or the end."""
    before = saved_last(folder)
    wait_until(lambda: saved_last(folder) != before or running.poll() is not None)


def files_of(bundle: Path) -> dict[str, bytes]:
    """All but what tells when, and how long it took."""
    return {p.name: p.read_bytes() for p in bundle.iterdir() if p.name != "manifest.json"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    several.planted().interactions.write_csv(tmp_path / "log.csv")
    return tmp_path


def test_ten_kills_end_all_processes_and_the_last_run_has_the_same_bytes(folder):
    assert started(folder, "unbroken").wait(PATIENCE) == 0, (folder / "said").read_text()
    dice, kills = random.Random(0), 0
    while kills < 10:
        running = started(folder, "killed")
        for _ in range(dice.randint(1, 6)):
            wait_for_another(folder, running)
        ranks = ranks_of(running.pid)
        if len(ranks) < 2:
            break  # done before it could be killed
        os.kill(dice.choice(ranks), signal.SIGKILL)
        kills += 1
        assert running.wait(PATIENCE) != 0
        wait_until(lambda ranks=ranks: not any(Path(f"/proc/{rank}").exists() for rank in ranks))
        assert not (folder / "killed").exists()
    assert kills == 10
    assert started(folder, "killed").wait(PATIENCE) == 0, (folder / "said").read_text()
    assert files_of(folder / "killed") == files_of(folder / "unbroken")
    assert not (folder / "saved").exists()


def test_torchrun_itself_starts_the_killed_again(folder):
    assert started(folder, "unbroken").wait(PATIENCE) == 0, (folder / "said").read_text()
    running = started(folder, "killed", "--max-restarts", "2")
    for kill in range(2):
        wait_for_another(folder, running)
        assert running.poll() is None
        os.kill(random.Random(kill).choice(ranks_of(running.pid)), signal.SIGKILL)
    assert running.wait(PATIENCE) == 0, (folder / "said").read_text()
    assert files_of(folder / "killed") == files_of(folder / "unbroken")


def test_another_number_of_ranks_is_told(folder):
    running = started(folder, "killed")
    wait_until(lambda: saved_last(folder))
    os.kill(ranks_of(running.pid)[1], signal.SIGKILL)
    assert running.wait(PATIENCE) != 0
    shutil.move(folder / "said", folder / "before")
    assert started(folder, "killed", "--nproc-per-node", "3").wait(PATIENCE) != 0
    said = (folder / "said").read_text()
    assert said.count("belongs to a training with 2 processes, and this training has 3") == 1
