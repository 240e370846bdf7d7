"""What do the stages of a job cost beside one machine, in CPU seconds and memory?

    python benchmarks/jobs_speed.py [--events N ...] [--processes N ...] [--spark 'local[2]']

The log is that of item_cf_speed.py with the time of each event: 100,000 items, 10 events a user,
lists cut at the latest 100 items, 100 neighbours. Each measurement is a process of its own, with
its children: one machine reads, splits and finds the neighbours in memory (`train` without
measuring and saving); a job makes the stages `log` and `item-cf`. cpu_s is all of it, with what a
process takes to start. Of a job, prepare_s and item_cf_s are the CPU seconds of these stages;
on Spark a session and its first workers are started before, by a job of a thousand events.
shuffled_mib: what Spark wrote to deal rows. peak_mib: the largest process; on Spark the JVM and the
largest Python worker. CPU and memory are read from /proc, so this needs Linux. Wall seconds mean
something on an idle machine only. A line of JSON each goes to benchmarks/results/jobs_speed.jsonl.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
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


def processes():
    """This process and all below it, by number: the words of /proc/N/stat after the name."""
    found, below = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                below.setdefault(int(words[1]), []).append(int(entry))
                found[int(entry)] = words
    here = [os.getpid()]
    for number in here:
        here += below.get(number, [])
    return {number: found[number] for number in here}


def cpu():
    """CPU seconds of this process and of all below it, those that have ended among them."""
    ticks = sum(sum(map(int, words[11:15])) for words in processes().values())
    return ticks / os.sysconf("SC_CLK_TCK")


class Peaks:
    """The largest resident memory of a process of each program below this one, looked at often."""

    def __init__(self):
        self.found, self._ended = {}, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while not self._ended.wait(0.25):
            for number in processes():
                with contextlib.suppress(OSError, KeyError):
                    lines = Path(f"/proc/{number}/status").read_text().splitlines()
                    said = dict(line.split(":", 1) for line in lines)
                    name = "java" if said["Name"].strip() == "java" else "python"
                    size = int(said["VmHWM"].split()[0]) / 1024
                    self.found[name] = max(self.found.get(name, 0), round(size))

    def close(self):
        self._ended.set()
        self._thread.join()
        return self.found


def one_machine(recipe, _work, _how):
    from shortlist.runs import pipeline  # noqa: PLC0415

    pipeline.build(recipe).fit(pipeline.load_split(recipe))
    return {}


def staged(recipe, work, engine):
    """Make the stages; return what each took."""
    from shortlist.jobs.steps import Job  # noqa: PLC0415

    job, before = Job(recipe, work, engine), cpu()
    job.prepare()
    prepared = cpu()
    job.item_cf()
    return {"prepare_s": round(prepared - before, 2), "item_cf_s": round(cpu() - prepared, 2)}


def local(recipe, work, processes):
    from shortlist.jobs.local import Local  # noqa: PLC0415

    engine = Local(work, int(processes))
    found = staged(recipe, work, engine)
    engine.close()
    return found


def spark(recipe, work, master):
    from shortlist.spark.engine import Spark  # noqa: PLC0415

    engine = Spark(8, master, {"spark.ui.enabled": "false"})
    first = work.with_name("first.parquet")
    write_log(first, 1_000)
    staged(recipe_of(first), work.with_name("first"), engine)

    def shuffled():
        store = engine.session.sparkContext._jsc.sc().statusStore().executorList(False)
        return sum(store.apply(n).totalShuffleWrite() for n in range(store.size()))

    before = shuffled()
    found = staged(recipe, work, engine)
    found["shuffled_mib"] = round((shuffled() - before) / 2**20, 1)
    found["cpu_s"] = round(cpu(), 2)
    engine.close()
    return found


KINDS = {"one machine": one_machine, "local": local, "spark": spark}


def measured(kind, how, log):
    """Run one kind in this process; print CPU and wall seconds, and the largest process' peak."""
    peaks = Peaks()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = KINDS[kind](recipe_of(log), Path(folder) / "work", how)
        wall = time.perf_counter() - start
    peak = peaks.close()
    found = {"cpu_s": round(cpu(), 2), **found, "wall_s": round(wall, 2)}
    print(json.dumps(found | {"peak_mib": peak if kind == "spark" else peak["python"]}))


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
