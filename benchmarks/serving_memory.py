"""How much memory does a service of a large catalogue take, and how much while it loads?

Makes a two-tower bundle of so many items of width 64 (towers as initialised: what they have
learned does not matter here), runs `shortlist serve` on it as a process of its own, asks some
questions, and reads what the kernel says of the process:

  resident        all pages of it in memory (VmRSS), and the most there ever were (VmHWM)
  private         pages nobody else can use, and that cannot be dropped (RssAnon)
  file_backed     pages of files: the bundle, mapped, and libraries; the kernel drops them when
                  memory is short, and two services of one bundle share them (RssFile)

    .venv/bin/python benchmarks/serving_memory.py [--items 1000000] [--index exact] [--dim 64]

--limit-mb puts the service into a control group with so much memory, pages of files included, and
no more: it is then killed if it cannot live with that (root, Linux, cgroup v1 or v2, no swap).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import polars as pl
import torch

from shortlist.bundle.bundle import save
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.index import INDEXES

USERS = 5_000
EVENTS = 20
REQUESTS = 300
K = 100


def make_bundle(path: Path, items: int, dim: int, similarity: str, index: str) -> None:
    """A bundle whose towers were never trained."""
    random = np.random.default_rng(0)
    item = np.concatenate([np.arange(items), random.integers(0, items, USERS * EVENTS)])
    user = np.concatenate([random.integers(0, USERS, items), np.repeat(np.arange(USERS), EVENTS)])
    log = pl.DataFrame({"user_id": user, "item_id": item, "time": np.arange(len(user))})
    split = Dataset.load(log, schema=Schema(time="time")).split("leave-last-out")
    model = TwoTower(dim=dim, seed=0, similarity=similarity, user_id=False)
    torch.manual_seed(0)
    model.set_data(split.training_data())
    model.place_items()
    if index != "exact":
        model.use_index(INDEXES[index](similarity).build(*model.placed_vectors()))
    save(model, path)


def memory_mb(process: int) -> dict[str, int]:
    """What the kernel says of a process, in MB of 10^6 bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    names = {
        "resident": "VmRSS",
        "peak": "VmHWM",
        "private": "RssAnon",
        "file_backed": "RssFile",
    }
    kib = {name: re.search(rf"{field}:\s+(\d+)", status) for name, field in names.items()}
    return {name: round(int(found[1]) * 1.024 / 1000) for name, found in kib.items() if found}


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, read


def limited(command: list[str], megabytes: int) -> list[str]:
    """The command, in a control group of its own with so much memory."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup", *([] if v2 else ["memory"]), "shortlist-serving-memory")
    group.mkdir(exist_ok=True)
    limit = group / ("memory.max" if v2 else "memory.limit_in_bytes")
    limit.write_text(str(megabytes * 1_000_000))
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]


def forget_pages(folder: Path) -> None:
    """Drop the files' pages from memory: the service is then charged for those it reads."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(bundle: Path, limit: int | None) -> dict[str, object]:
    """Start a service of the bundle, ask it, and end it."""
    command = [sys.executable, "-m", "shortlist.cli", "serve", str(bundle), "--port", "0"]
    if limit is not None:
        command = limited(command, limit)
        forget_pages(bundle)
    started = time.monotonic()
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        line = service.stderr.readline()
        while "http://" not in line:
            line = service.stderr.readline()
        port = int(re.search(r"http://[^:]+:(\d+)", line)[1])  # type: ignore[index]
        while ask(port, "GET", "/readyz")[0] != 200:
            time.sleep(0.05)
        ready = time.monotonic() - started
        loaded = memory_mb(service.pid)
        random = np.random.default_rng(1)
        began = time.monotonic()
        for _ in range(REQUESTS):
            user = int(random.integers(USERS))
            status, read = ask(port, "POST", "/v1/recommend", {"users": [user], "k": K})
            assert status == 200, read
        taken = time.monotonic() - began
        return {
            "ready_s": round(ready, 1),
            "loaded_mb": loaded,
            "after_requests_mb": memory_mb(service.pid),
            "request_ms": round(taken / REQUESTS * 1e3, 1),
        }
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--similarity", default="cosine")
    parser.add_argument("--index", choices=("exact", "faiss-ivf"), default="exact")
    parser.add_argument("--bundle", type=Path, help="One that is there, made by an earlier run.")
    parser.add_argument("--limit-mb", type=int, help="The most memory the service may have.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or Path(folder) / "bundle"
        if not bundle.exists():
            make_bundle(
                *(bundle, arguments.items, arguments.dim, arguments.similarity, arguments.index)
            )
        told = {"items": arguments.items, "index": arguments.index, "limit_mb": arguments.limit_mb}
        print(json.dumps({**told, **measure(bundle, arguments.limit_mb)}))


if __name__ == "__main__":
    main()
