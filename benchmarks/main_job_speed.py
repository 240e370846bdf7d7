"""How long do 10 million rows take to prepare, and an evaluation on a large catalogue?

    python benchmarks/main_job_speed.py            # both, each in a process of its own

Targets (2 cores): 10 million rows loaded, split and ready to train in under 15 s and 2 GB;
20,000 users × 50,000 items at k = 100 evaluated, with baseline and intervals, in 20 CPU seconds and
1.5 GB above the vectors.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def loading(events: int) -> None:
    """Write a Zipf log, then time everything before the first batch."""
    from shortlist import Dataset, Schema  # noqa: PLC0415
    from shortlist.data.batches import PairBatches  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        subprocess.run([sys.executable, __file__, "make", str(events), str(path)], check=True)
        wall, cpu = time.perf_counter(), time.process_time()
        split = Dataset.load(path, schema=Schema(time="timestamp")).split()
        data = split.training_data()
        batches = PairBatches(data.training_log, ordered=True, batch_size=4096, history_length=63)
        import torch  # noqa: PLC0415

        next(batches.epoch(torch.Generator().manual_seed(0)))
        print(
            f"{events:,} rows to the first batch: {time.perf_counter() - wall:.1f} s wall, "
            f"{time.process_time() - cpu:.1f} s CPU, peak {peak_mb():,} MB of the whole process"
        )


def make(events: int, path: Path) -> None:
    """A log of one user for ten events and at most 100,000 items, Zipf-distributed."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user_id": random.integers(1, events // 10 + 1, events),
            "item_id": random.zipf(1.2, events) % 100_000,
            "timestamp": random.integers(0, 10**9, events),
        }
    )
    frame.write_parquet(path)


def evaluation(users: int, items: int) -> None:
    """Evaluate untrained towers: the cost does not depend on what they learned."""
    import torch  # noqa: PLC0415

    from shortlist import Dataset, Schema, TwoTower, evaluate  # noqa: PLC0415

    random = np.random.default_rng(0)
    each = 50
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), each),
            "item_id": np.concatenate(
                [np.arange(items), random.integers(0, items, users * each - items)]
            ),
            "time": np.tile(np.arange(each), users),
        }
    ).unique(["user_id", "item_id"], maintain_order=True)
    split = Dataset.load(frame, schema=Schema(time="time")).split()
    model = TwoTower(dim=64)
    torch.manual_seed(0)
    model.set_data(split.training_data())
    model.place_items()
    before, cpu, wall = peak_mb(), time.process_time(), time.perf_counter()
    report = evaluate(model, k=(10, 20, 100))
    print(
        f"{report.users:,} users × {report.candidate_items:,} items, k = 100, popularity and "
        f"intervals included: {time.process_time() - cpu:.1f} s CPU, "
        f"{time.perf_counter() - wall:.1f} s wall, peak {peak_mb() - before:,} MB above before"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["loading", "evaluation", "make"])
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    if arguments.part == "make":
        make(int(arguments.rest[0]), Path(arguments.rest[1]))
    elif arguments.part == "loading":
        loading(10_000_000)
    elif arguments.part == "evaluation":
        evaluation(20_000, 50_000)
    else:
        for part in ("loading", "evaluation"):
            subprocess.run([sys.executable, __file__, part], check=True)


if __name__ == "__main__":
    main()
