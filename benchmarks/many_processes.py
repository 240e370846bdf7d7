"""What do several processes at one address cost in CPU time per answer and in memory?

On the bundle of `serving_speed.py` (two towers of width 64), four in rounds that take turns, each
with the same clients, and all but the first with the same number of threads that answer:

  one thread   one process, one thread
  one          one process, N threads
  together     `serve --processes N`, one thread each
  apart        N services of one process and one thread, each with its share of the clients

CPU time (user + system) is of the services alone, over kept connections. `together` beside `one` is
what a service of several processes costs, `together` beside `apart` what it costs that they share
an address. `--cores` gives these cores to the services and the others to the clients. On a busy
machine, `chrt --rr 1` before the command keeps other programs off the cores.

Then what the kernel says of the memory of each process after these answers; the first process of a
service of several, and one that Python adds, come before those that answer:

  private    pages nobody else can use, and that cannot be dropped (RssAnon), in MB
  mapped     pages of files, which the processes share: the bundle, libraries (RssFile), in MB

Wall time is for information: the clients run on the same machine.

    .venv/bin/python benchmarks/many_processes.py [--items 100000] [--processes 2] [--requests 2000]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

from serving_speed import ask, cpu_seconds, make_bundle

from shortlist.bundle.bundle import load

Service = tuple[subprocess.Popen, int]
"""The first process of a service, and its port."""


def started(path: Path, processes: int, workers: int, cores: set[int]) -> Service:
    command = [sys.executable, "-m", "shortlist", "serve", str(path), "--port", "0"]
    command += ["--processes", str(processes), "--workers", str(workers), "--log-level", "error"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    os.sched_setaffinity(child.pid, cores)  # and those that it starts later
    assert child.stderr is not None
    said = ""
    while (address := re.search(r"at http://[^:]*:(\d+) ", said)) is None:
        if not (line := child.stderr.readline()):
            raise SystemExit(f"the service ended: {said}")
        said += line
    port = int(address[1])
    warm: list = [(503, 0)]
    while warm[-1][0] != 200:
        time.sleep(0.1)
        ask(port, [0], 1, warm)
    return child, port


def family(pid: int) -> list[int]:
    """The process and those that it started."""
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in said)]


def used(services: list[Service]) -> float:
    return sum(cpu_seconds(pid) for child, _ in services for pid in family(child.pid))


def measured(services: list[Service], users: list, given) -> dict[str, float]:
    answers: list = []
    before, begun = used(services), time.perf_counter()
    each = given.requests // given.clients
    threads = [
        Thread(target=ask, args=(services[at % len(services)][1], users, each, answers))
        for at in range(given.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - begun
    if any(status != 200 for status, _ in answers):
        raise SystemExit("not every answer was 200")
    return {
        "cpu_us": (used(services) - before) / len(answers) * 1e6,
        "wall_us": passed / len(answers) * 1e6,
    }


def memory(pid: int) -> list[dict[str, int]]:
    """MB of each process of a service."""
    found = []
    for each in family(pid):
        said = Path(f"/proc/{each}/status").read_text()
        private, mapped = (
            int(re.search(rf"{name}:\s+(\d+) kB", said)[1]) // 1024
            for name in ("RssAnon", "RssFile")
        )
        found.append({"private": private, "mapped": mapped})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+", help="cores of the services")
    given = parser.parse_args()
    count = given.processes
    every = os.sched_getaffinity(0)
    cores = set(given.cores or every)
    if not cores <= every or (given.cores and cores == every):
        parser.error(f"--cores must leave some of {sorted(every)} for the clients")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        make_bundle(path, given.items)
        users = load(path).retriever.data.users.ids.to_list()
        os.sched_setaffinity(0, every - cores or every)
        running: dict[str, list[Service]] = {}
        try:
            running["one thread"] = [started(path, 1, 1, cores)]
            running["one"] = [started(path, 1, count, cores)]
            running["together"] = [started(path, count, 1, cores)]
            running["apart"] = [started(path, 1, 1, cores) for _ in range(count)]
            for services in running.values():
                measured(services, users, given)  # all pages are there, all code is compiled
            rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in running}
            for _ in range(given.rounds):
                for kind, services in running.items():
                    rounds[kind].append(measured(services, users, given))
            for kind, services in running.items():
                middle = {
                    name: round(statistics.median(each[name] for each in rounds[kind]), 1)
                    for name in ("cpu_us", "wall_us")
                }
                kept = [each for child, _ in services for each in memory(child.pid)]
                print(json.dumps({"service": kind} | middle | {"memory": kept}))
            for beside in ("one thread", "one", "apart"):
                ratios = [
                    many["cpu_us"] / other["cpu_us"]
                    for other, many in zip(rounds[beside], rounds["together"], strict=True)
                ]
                print(json.dumps({f"together / {beside}": round(statistics.median(ratios), 3)}))
        finally:
            for services in running.values():
                for child, _ in services:
                    child.terminate()
                    child.wait(60)


if __name__ == "__main__":
    main()
