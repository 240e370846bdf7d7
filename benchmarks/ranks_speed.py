"""How many positives a second do several processes train, beside one?

    python benchmarks/ranks_speed.py [--ranks 1 2] [--events 1000000] [--steps 20]

One thread and one core each, on an otherwise idle machine with as many cores. Strong: the processes
share batches of 4,096 rows; weak: each brings 4,096. Towers of width 64 over a log of
training_speed.py: "dssm" is a recency history, ids and three columns a side under layers of 256 and
128, with in-batch negatives; "attention" two blocks over the latest 50 events; "rows" is dssm with
row-wise tables. Gradients of large tables travel as the rows that were read. Wall and CPU seconds
are of the steps after three that are not counted: CPU of all processes, and of the one that needs
most, which bounds what a machine with a core for each can do. Bytes are those that a process sends
in a step, counted from the tensors: of n bytes, 2 (N - 1) / N n for a sum and (N - 1) n for a
gathering. One JSON line each is added to benchmarks/results/ranks_speed.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.distributed as dist
from training_speed import ITEM_COLUMNS, ONE_THREAD, USER_COLUMNS, world

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.training.ranks import together

OUT = Path(__file__).parent / "results" / "ranks_speed.jsonl"
ROWS, WARM = 4096, 3
DSSM = {"history": "recency", "user_layers": (256, 128), "item_layers": (256, 128)}
CASES: dict[str, dict[str, Any]] = {
    "dssm": DSSM,
    "rows": {**DSSM, "optimizer": "row-wise"},
    "attention": {"history": "attention", "user_features": (), "item_features": ()},
}


class Sent:
    """Counts the bytes that this process sends."""

    def __init__(self, size: int) -> None:
        self.bytes = 0.0
        for name, share in (("all_reduce", 2 * (size - 1) / size), ("all_gather", size - 1)):
            setattr(dist, name, self._counted(getattr(dist, name), share))

    def _counted(self, meet: Any, share: float) -> Any:
        def counted(*given: Any, **options: Any) -> Any:
            tensor = given[-1]  # a sum is in place; a gathering names its part last
            self.bytes += share * tensor.numel() * tensor.element_size()
            return meet(*given, **options)

        return counted


def prepared(case: str, events: int, rows: int) -> TwoTower:
    drawn = world(events)
    frames = [
        pl.DataFrame({f"{side[:-1]}": range(1, len(drawn[side][names[0][0]]) + 1)} | drawn[side])
        for side, names in (("users", USER_COLUMNS), ("items", ITEM_COLUMNS))
    ]
    schema = Schema(
        user="user",
        item="item",
        time="time",
        user_features=tuple(Feature(name, "categorical") for name, _ in USER_COLUMNS),
        item_features=tuple(Feature(name, "categorical") for name, _ in ITEM_COLUMNS),
    )
    log = pl.DataFrame({name: drawn[name] for name in ("user", "item", "time")})
    data = Dataset.load(log, users=frames[0], items=frames[1], schema=schema)
    retriever = TwoTower(batch_size=rows, dim=64, history_length=50, **CASES[case])
    torch.manual_seed(0)
    retriever.set_data(data.split("leave-last-out").training_data("train"))
    return retriever


def measure(
    case: str, events: int, rows: int, steps: int, place: str, rank: int, size: int
) -> None:
    """Be one of the ranks; the first one prints."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=size)
    retriever = prepared(case, events, rows)
    with together() as ranks:
        running = retriever._trainer(retriever.data).epoch()
        for _ in islice(running, WARM):
            pass
        sent = Sent(size)
        wall, cpu, positives = time.perf_counter(), time.process_time(), 0
        for step in islice(running, steps):
            positives += step.positives
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        each = torch.tensor([cpu], dtype=torch.float64)
        if ranks.several:
            each = ranks.everyones(each)
    if rank == 0:
        print(
            json.dumps(
                {
                    "positives_a_second": round(positives / wall),
                    "cpu_us_a_positive": round(1e6 * float(each.sum()) / positives, 2),
                    "slowest_us_a_positive": round(1e6 * float(each.max()) / positives, 2),
                    "mb_sent_a_step": round(sent.bytes / steps / 1e6, 2),
                    "positives_a_step": round(positives / steps),
                }
            )
        )


def run(case: str, size: int, rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--events", str(arguments.events)]
        command += ["--steps", str(arguments.steps), "--one", case, str(rows), f"{folder}/meet"]
        started = [
            subprocess.Popen(
                [*command, str(rank), str(size)],
                stdout=subprocess.PIPE,
                env=os.environ | ONE_THREAD,
                text=True,
            )
            for rank in range(size)
        ]
        said = [process.communicate()[0] for process in started]
    found: dict[str, Any] = json.loads(said[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, rows, place, rank, size = arguments.one
        where = (place, int(rank), int(size))
        measure(case, arguments.events, int(rows), arguments.steps, *where)
        return
    for case in arguments.cases:
        for size in arguments.ranks:
            for scaling, rows in (("strong", ROWS), ("weak", ROWS * size)):
                if size == 1 and scaling == "weak":
                    continue
                line = {"case": case, "ranks": size, "scaling": scaling}
                line |= run(case, size, rows, arguments)
                print(json.dumps(line), flush=True)
                with OUT.open("a") as out:
                    out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
