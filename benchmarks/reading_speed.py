"""What does reading a log cost, compared with another revision, and in how much memory?

    git worktree add /tmp/base d73533f         # the revision before the checks of text files
    python benchmarks/reading_speed.py --base /tmp/base/src
    python benchmarks/reading_speed.py --memory 100000000

Each figure is the CPU time of a process from the file to the first batch of training, without
imports. Both revisions run in turn; the ratio is the median of those of the rounds. Targets, of 10
million rows: a CSV of 4 columns at most 1.10 times the base, 4 of 50 columns 1.3, Parquet 1.05; 100
million rows of Parquet are read, split and ready within 12 GB.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

OURS = Path(__file__).parents[1] / "src"
TARGETS = {"narrow": 1.10, "wide": 1.3, "quoted": 1.3, "parquet": 1.05}
CHUNK = 5_000_000


def chunk(rows: int, start: int, case: str) -> pl.DataFrame:
    """Rows of a log: a user for a hundred events, a Zipf law of items, times in order."""
    random = np.random.default_rng(start)
    frame = pl.DataFrame(
        {
            "user_id": random.integers(1, max(rows, CHUNK) // 50, rows, dtype=np.uint32),
            "item_id": (random.zipf(1.2, rows) % 100_000).astype(np.uint32),
            "timestamp": (start + np.arange(rows)).astype(np.int32) + 1_600_000_000,
            "rating": random.integers(1, 6, rows, dtype=np.uint8),
        }
    )
    if case not in ("wide", "quoted"):
        return frame
    text = pl.lit("some words, quoted" if case == "quoted" else "some plain words")
    return frame.with_columns(
        *(pl.Series(random.integers(0, 10**6, rows)).alias(f"number_{n}") for n in range(30)),
        *(text.alias(f"text_{n}") for n in range(16)),
    )


def make(path: Path, rows: int, case: str) -> None:
    """Write a log, some rows at a time."""
    starts = range(0, rows, CHUNK)
    if path.suffix == ".parquet":
        writer = None
        for start in starts:
            table = chunk(min(CHUNK, rows - start), start, case).to_arrow()
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
        return
    with path.open("wb") as file:
        for start in starts:
            chunk(min(CHUNK, rows - start), start, case).write_csv(file, include_header=start == 0)


def first_batch(path: Path) -> None:
    """Read, split and batch; print seconds and the peak of the process."""
    import torch  # noqa: PLC0415

    from shortlist import Dataset, Schema  # noqa: PLC0415
    from shortlist.data.batches import PairBatches  # noqa: PLC0415

    times = [time.process_time()]
    schema = Schema(time="timestamp", weight="rating")
    dataset = Dataset.load(path, schema=schema)
    times.append(time.process_time())
    data = dataset.split().training_data()
    batches = PairBatches(data.training_log, ordered=True, batch_size=4096, history_length=63)
    next(batches.epoch(torch.Generator().manual_seed(0)))
    times.append(time.process_time())
    told = {
        "cpu": times[-1] - times[0],
        "read": times[1] - times[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(told))


def run(source: Path, path: Path) -> dict[str, float]:
    """One process with the package of a source folder."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "first-batch", str(path)]
    told = subprocess.run(command, check=True, capture_output=True, env=environment, text=True)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def compare(base: Path, folder: Path, rows: int, rounds: int, cases: list[str]) -> None:
    for case in cases:
        path = folder / f"log.{'parquet' if case == 'parquet' else 'csv'}"
        make(path, rows, case)
        run(OURS, path)  # the file is in memory now, and compiled code on disk
        pairs = []
        for number in range(rounds):
            order = (base, OURS) if number % 2 else (OURS, base)
            told = {source: run(source, path) for source in order}
            pairs.append((told[base], told[OURS]))
        ratio = statistics.median(ours["cpu"] / old["cpu"] for old, ours in pairs)
        cpu = [statistics.median(pair[n]["cpu"] for pair in pairs) for n in (0, 1)]
        peak = [max(pair[n]["peak_mb"] for pair in pairs) for n in (0, 1)]
        print(
            f"{case}, {rows:,} rows: {cpu[1]:.1f} s CPU, base {cpu[0]:.1f} s, ratio {ratio:.2f} "
            f"(target {TARGETS[case]:.2f}); peak {peak[1]:,.0f} MB, base {peak[0]:,.0f} MB",
            flush=True,
        )
        path.unlink()


def main() -> None:
    if sys.argv[1:2] == ["first-batch"]:
        first_batch(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, help="the folder src of another revision")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--memory", type=int, help="rows of Parquet to read once")
    parser.add_argument("--folder", type=Path, help="where the files are made, and removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.memory:
            path = Path(folder) / "log.parquet"
            make(path, given.memory, "parquet")
            told = run(OURS, path)
            print(
                f"{given.memory:,} rows of Parquet: {told['cpu']:.0f} s CPU, {told['read']:.0f} of "
                f"them to read; peak {told['peak_mb'] / 1000:.2f} GB of the whole process"
            )
        if given.base:
            compare(given.base, Path(folder), given.rows, given.rounds, given.cases)


if __name__ == "__main__":
    main()
