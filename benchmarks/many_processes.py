"""What do several processes at one address cost? CPU time an answer, and memory of each process.

`serve --processes N` beside one process, on the bundle of `serving_speed.py` (two towers of width
64): CPU time (user + system) of all its processes an answer, over kept connections, in rounds that
take turns; then what the kernel says of the memory of each process after these answers:

  private    pages nobody else can use, and that cannot be dropped (RssAnon)
  mapped     pages of files, which the processes share: the bundle, libraries (RssFile)

Wall time is for information: the client runs on the same cores.

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
from shortlist.serving.run import serve
from shortlist.serving.settings import Settings


def started(path: Path, processes: int) -> tuple[subprocess.Popen, int]:
    command = [sys.executable, __file__, "--serve", str(path), str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    port = int(child.stdout.readline().strip().rpartition(":")[2])
    warm: list = [(503, 0)]
    while warm[-1][0] != 200:
        time.sleep(0.1)
        ask(port, [0], 1, warm)
    return child, port


def family(pid: int) -> list[int]:
    """The process and those that it started."""
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in said)]


def used(pid: int) -> float:
    return sum(cpu_seconds(each) for each in family(pid))


def measured(child: subprocess.Popen, port: int, users: list, given) -> dict[str, float]:
    answers: list = []
    before, begun = used(child.pid), time.perf_counter()
    each = given.requests // given.clients
    threads = [Thread(target=ask, args=(port, users, each, answers)) for _ in range(given.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - begun
    if any(status != 200 for status, _ in answers):
        raise SystemExit("not every answer was 200")
    return {
        "cpu_us": (used(child.pid) - before) / len(answers) * 1e6,
        "wall_us": passed / len(answers) * 1e6,
    }


def memory(pid: int) -> list[dict[str, int]]:
    """MB of each process that has a bundle, and of the one that started them."""
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
    parser.add_argument("--serve", nargs=2, metavar=("PATH", "N"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        settings = Settings(processes=int(given.serve[1]))
        serve(given.serve[0], port=0, settings=settings, ready=lambda at: print(at, flush=True))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        make_bundle(path, given.items)
        users = load(path).retriever.data.users.ids.to_list()
        running = {count: started(path, count) for count in (1, given.processes)}
        try:
            for child, port in running.values():
                measured(child, port, users, given)  # all pages are there, all code is compiled
            rounds: dict[int, list[dict[str, float]]] = {count: [] for count in running}
            for _ in range(given.rounds):
                for count, (child, port) in running.items():
                    rounds[count].append(measured(child, port, users, given))
            for count, (child, _) in running.items():
                middle = {
                    name: round(statistics.median(each[name] for each in rounds[count]), 1)
                    for name in ("cpu_us", "wall_us")
                }
                print(json.dumps({"processes": count} | middle | {"memory": memory(child.pid)}))
            ratios = [
                many["cpu_us"] / one["cpu_us"]
                for one, many in zip(rounds[1], rounds[given.processes], strict=True)
            ]
            print(json.dumps({"ratio": round(statistics.median(ratios), 3), "items": given.items}))
        finally:
            for child, _ in running.values():
                child.terminate()
                child.wait(60)


if __name__ == "__main__":
    main()
