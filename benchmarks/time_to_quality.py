"""How many CPU minutes of training until HR@10 on the validation rows is .30, beside RecTools?

    SHORTLIST_DATA=... python benchmarks/time_to_quality.py --peer-python PATH/TO/VENV/bin/python \
        [--target 0.30] [--most 40] [--epochs 6]

MovieLens-1M as recipes/ml-1m-attention.toml cuts it. Ours is that recipe with a schedule of
--epochs. The peer is RecTools' SASRec with a softmax over the whole catalogue: the same width,
layers and length of histories, and dropout .2, rate .001 and batches of 128 users, as Klenitskiy &
Vasilev (2023) train it. One thread a side, one side after the other, full ranking without the items
of the history. What counts is the CPU time of training; measuring is left out. A side ends at the
target or after --most CPU minutes. One JSON line a side is added to
benchmarks/results/time_to_quality.jsonl.
"""

# ruff: noqa: PLC0415 - each side imports what the other may not have
# ruff: noqa: ARG001, ARG002 - a progress is told more than is used here

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "results" / "time_to_quality.jsonl"
RECIPE = Path(__file__).parents[1] / "recipes" / "ml-1m-attention.toml"
LOG = "ml-1m/sasrec_5core_sequences.parquet"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Enough(Exception):  # noqa: N818 - no error
    """The target, or the most time, is reached."""


class Course:
    """The figure after each epoch, and the CPU seconds of training until then."""

    def __init__(self, target: float, most: float) -> None:
        self.points: list[dict[str, float]] = []
        self._target, self._most = target, most
        self._trained = 0.0
        self._since = time.process_time()

    def go(self) -> None:
        """Training goes on from here."""
        self._since = time.process_time()

    def stop(self) -> None:
        """Training has paused."""
        self._trained += time.process_time() - self._since
        self._since = time.process_time()

    def note(self, epoch: int, figure: float) -> None:
        """Keep a figure; Enough when that was the last one."""
        self.points.append({"epoch": epoch, "cpu_s": round(self._trained, 1), "hr@10": figure})
        print(f"  epoch {epoch:3d}  {self._trained:7.0f} s  {figure:.4f}", file=sys.stderr)
        if figure >= self._target or self._trained >= 60 * self._most:
            raise Enough


def ours(course: Course, epochs: int) -> None:
    """Train the recipe."""
    import torch

    from shortlist.config import load_recipe
    from shortlist.runs.pipeline import build, load_split

    torch.set_num_threads(1)

    class Watch:
        def stage(self, what: str) -> None:
            """Nothing to time."""

        def start(self, epoch: int, epochs: int, positives: int) -> None:
            course.go()

        def advance(self, positives: int) -> None:
            course.stop()  # the last one of an epoch counts: what follows is measuring

        def report(self, epoch: int, loss: float, monitor: str, score: float) -> None:
            course.note(epoch, score)  # one item is held out: recall is the hit rate

    recipe = load_recipe(RECIPE)
    wanted = {"epochs": epochs, "validate_every": 1, "monitor": "recall@10"}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=wanted)})
    build(recipe).fit(load_split(recipe), progress=Watch())


def theirs(course: Course, epochs: int) -> None:
    """Train RecTools' SASRec an epoch at a time; epochs is not used, its rate is constant."""
    import pandas as pd
    import torch
    from pytorch_lightning import Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(1)
    read = {"sas_user_id": Columns.User, "sas_item_id": Columns.Item, "position": Columns.Datetime}
    log = pd.read_parquet(
        Path(os.environ.get("SHORTLIST_DATA", ".")) / LOG, columns=[*read, "split"]
    )
    log = log.rename(columns=read)
    log[Columns.Datetime] = pd.to_datetime(log[Columns.Datetime].astype("int64"), unit="D")
    log[Columns.Weight] = 1.0
    columns = [*read.values(), Columns.Weight]
    data = Dataset.construct(log[log["split"] == "train"][columns])
    wanted = log[log["split"] == "val"].set_index(Columns.User)[Columns.Item]

    def trainer() -> Any:
        return Trainer(
            max_epochs=1, min_epochs=1, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    model = SASRecModel(
        n_factors=128, n_blocks=2, n_heads=4, session_max_len=200, dropout_rate=0.2, lr=0.001,
        batch_size=128, epochs=1, loss="softmax", get_trainer_func=trainer,
        recommend_torch_device="cpu",
    )  # fmt: skip
    epoch = 0
    while True:
        epoch += 1
        course.go()
        if epoch == 1:
            model.fit(data)
        else:
            model.fit_partial(data, min_epochs=1, max_epochs=1)
        course.stop()
        found = model.recommend(wanted.index.to_numpy(), data, k=10, filter_viewed=True)
        right = found[Columns.Item].to_numpy() == wanted.loc[found[Columns.User]].to_numpy()
        course.note(epoch, float(right.sum() / len(wanted)))


def child(side: str, target: float, most: float, epochs: int) -> None:
    """Run a side, print its course."""
    course = Course(target, most)
    run: Callable[[Course, int], None] = {"ours": ours, "theirs": theirs}[side]
    with suppress(Enough):
        run(course, epochs)
    reached = [point["cpu_s"] for point in course.points if point["hr@10"] >= target]
    line = {"side": side, "target": target, "reached_cpu_s": reached[0] if reached else None}
    print(json.dumps(line | {"points": course.points}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python")
    parser.add_argument("--target", type=float, default=0.30)
    parser.add_argument("--most", type=float, default=40.0, help="CPU minutes of training")
    parser.add_argument("--epochs", type=int, default=6, help="of our schedule")
    parser.add_argument("--child", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.target, given.most, given.epochs)
        return
    pythons = {"ours": sys.executable} | (
        {"theirs": given.peer_python} if given.peer_python else {}
    )
    for side, python in pythons.items():
        options = {"target": given.target, "most": given.most, "epochs": given.epochs}
        command = [python, __file__, "--child", side]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True
        )
        line = done.stdout.splitlines()[-1]
        print(line)
        with OUT.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
