"""What does the service do under more requests than it can answer?

One user a request over 100,000 items, k = 100, as in `serving_speed.py`. The service has one core
and this load generator another, where the machine has two. Each round measures

  capacity  answers a second that 8 clients get who ask one request after another
  open      requests come at 5 times that rate, whether or not earlier ones are answered
  stubborn  200 clients ask one request after another, and ask again at once when refused

and prints the answers a second (as a share of the capacity of the same round), and how long the
refused and the answered ones waited. `late_ms` says how far behind its plan the generator fell in
the open loop: above a few milliseconds the generator was slow, and not the service.

    .venv/bin/python benchmarks/overload.py [--seconds 5] [--rounds 3] [--items 100000]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from serving_speed import K, cpu_seconds, make_bundle

from shortlist.bundle.bundle import load

HEAD = "POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class Seen:
    """The results: seconds of answered and of refused requests, and other outcomes."""

    def __init__(self) -> None:
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.other: list[int] = []
        self.lost = 0

    def take(self, status: int, seconds: float) -> None:
        if status == 200:
            self.answered.append(seconds)
        elif status == 503:
            self.refused.append(seconds)
        else:
            self.other.append(status)


class Connection(asyncio.Protocol):
    """One kept-alive connection with one request under way at most."""

    def __init__(self, seen: Seen, free: Callable[["Connection"], None]) -> None:
        self.seen, self.free = seen, free
        self.open = False
        self.data = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.open = transport, True

    def ask(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.data, sent, self.sent = b"", self.sent, 0.0
        self.seen.take(int(head[9:12]), time.perf_counter() - sent)
        self.free(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self.open = False
        if self.sent:
            self.seen.lost += 1


def requests(users: list) -> list[bytes]:
    """Requests of some users, ready to be sent."""
    made = []
    for at in np.random.default_rng(1).integers(0, len(users), 500):
        body = json.dumps({"users": [users[at]], "k": K})
        made.append(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())
    return made


async def closed_loop(port: int, wanted: list[bytes], clients: int, seconds: float) -> Seen:
    """Run clients that send one request after another."""
    loop, seen = asyncio.get_running_loop(), Seen()
    end = time.perf_counter() + seconds
    count = 0

    def again(connection: Connection) -> None:
        nonlocal count
        if connection.open and time.perf_counter() < end:
            count += 1
            connection.ask(wanted[count % len(wanted)])

    made = []
    for _ in range(clients):
        _, connection = await loop.create_connection(
            lambda: Connection(seen, again), "127.0.0.1", port
        )
        made.append(connection)
    for connection in made:
        again(connection)
    await asyncio.sleep(end - time.perf_counter())
    for connection in made:
        connection.sent = 0.0
        connection.transport.close()
    await asyncio.sleep(0.3)
    return seen


async def open_loop(port: int, wanted: list[bytes], rate: float, seconds: float) -> dict:
    """Send requests at a rate, each on a free connection or a new one."""
    loop, seen = asyncio.get_running_loop(), Seen()
    free: list[Connection] = []
    made: list[Connection] = []
    opening: set[asyncio.Task] = set()

    async def on_a_new_one(request: bytes) -> None:
        _, connection = await loop.create_connection(
            lambda: Connection(seen, free.append), "127.0.0.1", port
        )
        made.append(connection)
        connection.ask(request)

    arrivals = np.cumsum(np.random.default_rng(2).exponential(1 / rate, int(rate * seconds)))
    started = time.perf_counter()
    late = 0.0
    for number, due in enumerate(arrivals.tolist()):
        ahead = due - (time.perf_counter() - started)
        if ahead > 0.0005:
            await asyncio.sleep(ahead)
        elif number % 20 == 0:
            await asyncio.sleep(0)
        late = max(late, time.perf_counter() - started - due)
        request = wanted[number % len(wanted)]
        connection = free.pop() if free else None
        if connection is not None and connection.open:
            connection.ask(request)
        else:
            task = loop.create_task(on_a_new_one(request))
            opening.add(task)
            task.add_done_callback(opening.discard)
    passed = time.perf_counter() - started
    waiting = sum(connection.sent > 0 for connection in made)
    for connection in made:
        connection.sent = 0.0
        connection.transport.close()
    await asyncio.sleep(0.3)
    return {"seen": seen, "seconds": passed, "late": late, "waiting": waiting}


def told(seen: Seen, seconds: float, capacity: float) -> dict:
    """The figures of one phase."""
    figures = {
        "answers_per_s": len(seen.answered) / seconds,
        "share": len(seen.answered) / seconds / capacity,
        "refusals_per_s": len(seen.refused) / seconds,
    }
    for name, waited in (("answered", seen.answered), ("refused", seen.refused)):
        for quantile in (50, 99):
            figures[f"{name}_p{quantile}_ms"] = (
                float(np.percentile(waited, quantile)) * 1e3 if waited else 0.0
            )
    if seen.other or seen.lost:
        figures |= {"other": len(seen.other), "lost": seen.lost}
    return {name: round(figure, 3 if name == "share" else 1) for name, figure in figures.items()}


def one_round(port: int, pid: int, wanted: list[bytes], seconds: float, times: float) -> dict:
    found = asyncio.run(closed_loop(port, wanted, 8, seconds))
    capacity = len(found.answered) / seconds
    before = cpu_seconds(pid)
    loaded = asyncio.run(open_loop(port, wanted, times * capacity, seconds))
    used = cpu_seconds(pid) - before
    stubborn = asyncio.run(closed_loop(port, wanted, 200, seconds))
    return {
        "capacity": round(capacity, 1),
        "open": told(loaded["seen"], loaded["seconds"], capacity)
        | {
            "late_ms": round(loaded["late"] * 1e3, 1),
            "unanswered": loaded["waiting"],
            "service_cpu": round(used / loaded["seconds"], 2),
        },
        "stubborn": told(stubborn, seconds, capacity),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--bundle", type=Path, help="measure this one instead of making one")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = given.bundle or Path(folder) / "bundle"
        if given.bundle is None:
            make_bundle(path, given.items)
        wanted = requests(load(path).retriever.data.users.ids.to_list())
        command = [sys.executable, str(Path(__file__).parent / "serving_speed.py")]
        os.sched_setaffinity(0, cores[:1])  # which the child inherits
        child = subprocess.Popen(
            [*command, "--serve", "service", str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        os.sched_setaffinity(0, cores[1:2] or cores)
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline().strip().rpartition(":")[2])
            while not asyncio.run(closed_loop(port, wanted, 1, 0.5)).answered:
                pass
            asyncio.run(closed_loop(port, wanted, 4, 1.0))
            for _ in range(given.rounds):
                print(json.dumps(one_round(port, child.pid, wanted, given.seconds, given.times)))
        finally:
            child.terminate()
            child.wait(30)


if __name__ == "__main__":
    main()
