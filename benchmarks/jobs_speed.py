"""What do the stages of a job cost, compared with one machine, in CPU time and memory?

    python benchmarks/jobs_speed.py [--events N ...] [--processes N ...] [--spark 'local[2]']

The log is that of item_cf_speed.py with the time of each event: 100,000 items, 10 events a user,
lists cut at the latest 100 items, 100 neighbours. One machine reads, splits and finds the
neighbours in memory (`train` without measuring and saving); a job makes the stages `log` and
`item-cf`. Each measurement is a process of its own with its children, one kind after the other;
Spark has one session for all logs. What processes and sessions take to start is left out: all do
the same before with a small log (20,000 events, on Spark a million).
cpu_s is all of it; of a job, prepare_s, counts_s and item_cf_s are the CPU seconds of the stages.
lists_mib: what Spark wrote to deal rows in item-cf, and bound_mib the most that the lists alone can
take, 4 bytes of each item once a block; log_mib: the same in prepare. peak_mib: the largest process
so far; on Spark the JVM and the largest Python worker. CPU and memory are read from /proc, so this
needs Linux. Wall seconds mean something on an idle machine only. A line of JSON each goes to
benchmarks/results/jobs_speed.jsonl.
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
PARTS = 8
"""Parts and blocks on Spark."""

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
    """Return the words of /proc/N/stat after the name, for this process and its descendants."""
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
    """Return CPU seconds of this process and its descendants, also of ended ones."""
    ticks = sum(sum(map(int, words[11:15])) for words in processes().values())
    return ticks / os.sysconf("SC_CLK_TCK")


class Peaks:
    """Samples the resident memory of descendants, and keeps the peak of each program."""

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


def one_machine(recipe, _work):
    from shortlist.runs import pipeline  # noqa: PLC0415

    pipeline.build(recipe).fit(pipeline.load_split(recipe))
    return {}


def staged(recipe, work, engine, shuffled=lambda: 0):
    """Make the stages; return what each took."""
    from shortlist.jobs.steps import Job  # noqa: PLC0415

    job, found, before = Job(recipe, work, engine), {}, (cpu(), shuffled())
    for name in ("prepare", "counts", "item_cf"):
        getattr(job, name)()
        now = cpu(), shuffled()
        found |= {f"{name}_s": round(now[0] - before[0], 2), name: now[1] - before[1]}
        before = now
    return found


class Local:
    """Jobs in processes of this machine."""

    def __init__(self, work, processes):
        from shortlist.jobs.local import Local  # noqa: PLC0415

        self.engine = Local(work, int(processes))

    def __call__(self, recipe, work):
        found = staged(recipe, work, self.engine)
        return {name: of for name, of in found.items() if name.endswith("_s")}


class Spark:
    """Jobs in one session of Spark."""

    def __init__(self, _work, master):
        from shortlist.spark.engine import Spark  # noqa: PLC0415

        self.engine = Spark(PARTS, master, {"spark.ui.enabled": "false"})

    def _shuffled(self):
        store = self.engine.session.sparkContext._jsc.sc().statusStore().executorList(False)
        return sum(store.apply(n).totalShuffleWrite() for n in range(store.size())) / 2**20

    def __call__(self, recipe, work):
        found = staged(recipe, work, self.engine, self._shuffled)
        written = {"log_mib": found.pop("prepare"), "lists_mib": found.pop("item_cf")}
        found.pop("counts")
        log = pl.read_parquet(work / "log" / "*.parquet").filter(pl.col("role") == 0)
        most = OPTIONS["most_items"]
        length = log.group_by("user").agg(pl.col("item").n_unique())["item"].clip(upper_bound=most)
        bound = int((length * length.clip(upper_bound=PARTS)).sum()) * 4 / 2**20
        return found | {name: round(of, 1) for name, of in (written | {"bound_mib": bound}).items()}


KINDS = {"one machine": lambda _work, _how: one_machine, "local": Local, "spark": Spark}


def measured(kind, how, logs):
    """Run one kind in this process; print CPU and wall seconds, and the largest process' peak."""
    peaks = Peaks()
    with tempfile.TemporaryDirectory() as folder:
        made = KINDS[kind](Path(folder) / "work", how)
        first = Path(folder) / "first.parquet"
        write_log(first, 1_000_000 if kind == "spark" else 20_000)
        made(recipe_of(first), Path(folder) / "first")
        for log in logs:
            before, start = cpu(), time.perf_counter()
            found = made(recipe_of(log), Path(folder) / Path(log).stem)
            took = {"cpu_s": round(cpu() - before, 2)}
            wall = round(time.perf_counter() - start, 2)
            peak = peaks.found if kind == "spark" else peaks.found["python"]
            print(json.dumps(took | found | {"wall_s": wall, "peak_mib": peak}), flush=True)
        if kind != "one machine":
            made.engine.close()
    peaks.close()


def main():
    """Measure every kind on every log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--spark", help="a master of Spark, such as local[2]")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, how, *logs = given.one
        measured(kind, how, logs)
        return
    RESULTS.parent.mkdir(exist_ok=True)
    alone = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        logs = {events: Path(folder) / f"{events}.parquet" for events in given.events}
        for events, log in logs.items():
            write_log(log, events)
        kinds = [("one machine", ""), *(("local", str(count)) for count in given.processes)]
        runs = [(*kind, [events]) for events in logs for kind in kinds]
        runs += [("spark", given.spark, [*logs])] if given.spark else []
        for kind, how, sizes in runs:
            command = [sys.executable, __file__, "--one", kind, how]
            done = subprocess.run(
                [*command, *(str(logs[events]) for events in sizes)],
                env=os.environ | alone,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            for events, line in zip(sizes, lines, strict=True):
                found = {"kind": kind, "how": how, "events": events, **json.loads(line)}
                print(found, flush=True)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
