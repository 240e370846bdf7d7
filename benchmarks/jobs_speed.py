"""What do the stages of a job cost beside one machine, in CPU seconds and memory?

    python benchmarks/jobs_speed.py [--events N ...] [--processes N ...] [--spark 'local[2]']

The log is that of item_cf_speed.py with the time of each event: 100,000 items, 10 events a user,
lists cut at the latest 100 items, 100 neighbours. Each measurement is a process of its own, with
its children: one machine reads, splits and finds the neighbours in memory (`train` without
measuring and saving); a job makes the stages `log` and `item-cf`. What a process takes to start,
and a session of Spark to start and stop, is in the figures. Wall seconds mean something on an idle
machine only. A line of JSON each goes to benchmarks/results/jobs_speed.jsonl.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from item_cf_speed import zipf_log

RESULTS = Path(__file__).parent / "results" / "jobs_speed.jsonl"
OPTIONS = {"kind": "item-cf", "most_items": 100, "neighbours": 100}


def write_log(path, events):
    """Write the log, its rows in the order of time."""
    user, item = zipf_log(events, events // 10, seed=0)
    when = np.random.default_rng(1).permutation(events) + 1_600_000_000
    frame = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": when}).sort("timestamp")
    frame.write_parquet(path, row_group_size=500_000)


def recipe_of(path):
    from shortlist.config import Recipe  # noqa: PLC0415

    return Recipe.from_dict(
        {
            "data": {"interactions": str(path), "time": "timestamp"},
            "channels": {"cf": OPTIONS},
        }
    )


def one_machine(recipe, _work, _how):
    from shortlist.runs import pipeline  # noqa: PLC0415

    pipeline.build(recipe).fit(pipeline.load_split(recipe))


def local(recipe, work, processes):
    from shortlist.jobs.local import Local  # noqa: PLC0415
    from shortlist.jobs.steps import Job  # noqa: PLC0415

    engine = Local(work, int(processes))
    Job(recipe, work, engine).item_cf()
    engine.close()


def spark(recipe, work, master):
    from shortlist.jobs.steps import Job  # noqa: PLC0415
    from shortlist.spark.engine import Spark  # noqa: PLC0415

    engine = Spark(8, master, {"spark.ui.enabled": "false"})
    Job(recipe, work, engine).item_cf()
    engine.close()


KINDS = {"one machine": one_machine, "local": local, "spark": spark}


def measured(kind, how, log):
    """Run one kind in this process; print CPU and wall seconds, and the largest process' peak."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        KINDS[kind](recipe_of(log), Path(folder) / "work", how)
        wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    peak = max(one.ru_maxrss for one in used) / 1024
    print(json.dumps({"cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "peak_mib": round(peak)}))


def main():
    """Measure every kind on every log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--spark", help="a master of Spark, such as local[2]")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measured(*given.one)
        return
    runs = [("one machine", ""), *(("local", str(count)) for count in given.processes)]
    runs += [("spark", given.spark)] if given.spark else []
    RESULTS.parent.mkdir(exist_ok=True)
    alone = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        for events in given.events:
            log = Path(folder) / f"{events}.parquet"
            write_log(log, events)
            for kind, how in runs:
                command = [sys.executable, __file__, "--one", kind, how, str(log)]
                done = subprocess.run(
                    command, env=os.environ | alone, check=True, stdout=subprocess.PIPE, text=True
                )
                found = {"kind": kind, "how": how, "events": events}
                found |= json.loads(done.stdout.splitlines()[-1])
                print(found)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
