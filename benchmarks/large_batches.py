"""What a step of a large in-batch softmax costs, with training.encode_rows and without.

    OMP_NUM_THREADS=1 python benchmarks/large_batches.py [--rows 65536] [--encode-rows 4096]

Towers of width 64 over a log of 1,000,000 events (training_speed.py says which): "pooled" is a
recency history, ids and three columns a side under layers of 256 and 128; "attention" two blocks
over the latest 50 events, items by id. Each line comes from a process of its own: CPU seconds of
a step (median of --steps) and the peak memory above that before the first step (Linux).
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from training_speed import ITEM_COLUMNS, USER_COLUMNS, peak_mb, world

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema

LAYERS = (256, 128)
TOWERS: dict[str, dict[str, Any]] = {
    "pooled": {"history": "recency", "user_layers": LAYERS, "item_layers": LAYERS},
    "attention": {"history": "attention", "user_features": (), "item_features": ()},
}


def resident_mb() -> float:
    """The memory this process has now, MB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024)


def measure(towers: str, rows: int, encode_rows: int | None, steps: int) -> dict[str, float]:
    """Time steps in this process."""
    drawn = world(1_000_000)
    sides = {
        side: pl.DataFrame({"id": range(1, len(columns[names[0][0]]) + 1)} | columns)
        for side, columns, names in (
            ("users", drawn["users"], USER_COLUMNS),
            ("items", drawn["items"], ITEM_COLUMNS),
        )
    }
    schema = Schema(
        user="user",
        item="item",
        time="time",
        user_features=tuple(Feature(name, "categorical") for name, _ in USER_COLUMNS),
        item_features=tuple(Feature(name, "categorical") for name, _ in ITEM_COLUMNS),
    )
    log = pl.DataFrame({name: drawn[name] for name in ("user", "item", "time")})
    users, items = (
        frame.rename({"id": name})
        for frame, name in zip(sides.values(), ("user", "item"), strict=True)
    )
    split = Dataset.load(log, users=users, items=items, schema=schema).split("leave-last-out")
    retriever = TwoTower(
        batch_size=rows, encode_rows=encode_rows, history_length=50, **TOWERS[towers]
    )
    data = split.training_data("train")
    retriever.set_data(data)
    trainer = retriever._trainer(data)
    before, seconds = resident_mb(), []
    begun = time.process_time()
    for _ in islice(trainer.epoch(), steps):
        seconds.append(time.process_time() - begun)
        begun = time.process_time()
    return {"cpu_s": round(median(seconds), 1), "peak_extra_mb": peak_mb() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--encode-rows", type=int, default=4_096)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        towers, blocks = arguments.one
        found = measure(towers, arguments.rows, int(blocks) or None, arguments.steps)
        print(json.dumps(found))
        return
    print("| towers | encode_rows | CPU s a step | peak extra MB |\n|---|---|---|---|")
    for towers in TOWERS:
        for blocks in (0, arguments.encode_rows):
            command = [sys.executable, __file__, "--one", towers, str(blocks)]
            command += ["--rows", str(arguments.rows), "--steps", str(arguments.steps)]
            line = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            print(
                f"| {towers} | {blocks or 'all'} | {line['cpu_s']} | {line['peak_extra_mb']:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
