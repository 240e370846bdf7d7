"""What do stored events cost per request, and how many per second does one core store?

First, within one process and without HTTP, over 2,000 items, k = 10:

  none      the question and its answer, of a user without stored events, and no store
  empty     the same with a store
  stored    of a user with 200 stored events
  read      the same, of which this process knows nothing yet: every request asks the store
  logged    of a user whose 200 events stand in the bundle's log, and no store
  recent    of a user whose 200 events stand in the request, and no store

The arms alternate in short blocks; the median of the blocks is printed, in microseconds of CPU of
all threads. Then `shortlist serve --events` as a process of its own gets one event a request over
32 connections at once, each acknowledged before the next: events a second of its CPU time (user +
system; that of the client is not in it), and how long they waited. With `--store redis` the store
is a server that is started here; its CPU time is not in it either.

    .venv/bin/python benchmarks/events_speed.py [--blocks 150] [--events 10000] [--sync normal]
        [--store redis]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import torch
from serving_speed import make_bundle

from shortlist.bundle.bundle import load
from shortlist.data.histories import Events
from shortlist.data.ragged import Ragged
from shortlist.histories.events import Event, Keeping
from shortlist.histories.places import StorePlace, place_of
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.requests import RecommendRequest
from shortlist.serving.server import Server
from shortlist.serving.settings import Limits, Settings, Timeouts
from shortlist.serving.watching import Watch

TOKEN = "writer-writer-writer"
CONNECTIONS = 32
ITEMS = [n * 7 % 2_000 for n in range(200)]
HEAD = (
    "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    f"authorization: Bearer {TOKEN}\r\n"
)


def opened(bundle: Path, events: StorePlace | None, sync: str = "normal") -> App:
    """Return the application of `shortlist serve`, with --events if a store is given."""
    torch.set_num_threads(1)
    settings = Settings(
        write_token=TOKEN,
        events=events,
        limits=Limits(user_events=10**9),
        keeping=Keeping(synchronous=sync),
        timeouts=Timeouts(store=10),  # a busy machine must not leave events out here
    )
    measures = Measures()
    return App(Watch(bundle, measures, load), measures, settings)


def asked_within(bundle: Path, events: StorePlace, blocks: int) -> dict[str, float]:
    """Return the CPU microseconds of a request."""
    plain, kept = opened(bundle, None), opened(bundle, events)
    for app in (plain, kept):
        app.watch.look()
    kept.events.store.append([[Event(1_999, item)] for item in ITEMS])
    data = plain.watch.current.data
    rows = torch.from_numpy(data.items.rows(ITEMS))
    more = Events(Ragged(rows, torch.tensor([0, len(rows)])))
    user = torch.from_numpy(data.users.rows([1_998]))
    vars(data)["histories"] = data.histories.append(user, more)
    arms = {
        "none": (plain, {"users": [1_997], "k": 10}),
        "empty": (kept, {"users": [1_997], "k": 10}),
        "stored": (kept, {"users": [1_999], "k": 10}),
        "read": (kept, {"users": [1_999], "k": 10}),
        "logged": (plain, {"users": [1_998], "k": 10}),
        "recent": (plain, {"users": [1_999], "k": 10, "recent": [ITEMS]}),
    }
    spent: dict[str, list[float]] = {name: [] for name in arms}
    answers = {}
    for _ in range(blocks):
        for name, (app, question) in arms.items():
            body = json.dumps(question).encode()
            before = time.process_time()
            for _ in range(20):
                if name == "read":
                    kept.events._known.clear()
                answers[name] = json.loads(app.service.answer_bytes(RecommendRequest, body))
            spent[name].append((time.process_time() - before) / 20 * 1e6)
    assert answers["stored"]["items"] == answers["read"]["items"] == answers["recent"]["items"]
    for app in (plain, kept):
        app.close()
    return {name: statistics.median(each) for name, each in spent.items()}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, in nanoseconds, from /proc."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def sent_over_http(bundle: Path, events: StorePlace, sync: str, count: int) -> None:
    """Send events to a service, and print what they cost."""
    command = [sys.executable, __file__, "--serve", str(bundle), str(events), sync]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            port = int(child.stdout.readline().rpartition(":")[2])
            while not is_ready(port):
                time.sleep(0.1)
            rates, waited = [], []
            for number in range(5):
                before = cpu_seconds(child.pid)
                waited += asyncio.run(storm(port, count // 5, str(number)))
                rates.append(count // 5 / (cpu_seconds(child.pid) - before))
        finally:
            child.terminate()
    ordered = sorted(waited)
    print(f"events   {statistics.median(rates):8.0f} a second of CPU")
    for share in (0.5, 0.99):
        longest = ordered[int(share * len(ordered))] * 1e3
        print(f"         {share:.0%} acknowledged within {longest:.1f} ms")


@contextmanager
def stores(folder: Path, store: str) -> Iterator[list[StorePlace]]:
    """Yield two places for events: files, or databases of a Redis server started here."""
    if store == "sqlite":
        yield [folder / "a.sqlite", folder / "b.sqlite"]
        return
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    with subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL) as server:
        while not socket.exists():
            time.sleep(0.05)
        try:
            yield [place_of(f"unix://{socket}?db={number}") for number in (0, 1)]
        finally:
            server.terminate()


def is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/readyz")
    return connection.getresponse().status == 200


async def storm(port: int, count: int, name: str) -> list[float]:
    """Send events over all connections; return how many seconds each waited for its answer."""
    waited: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in range(number, count, CONNECTIONS):
            event = {"user": place % 1_990, "item": place % 2_000, "id": f"{name}-{place}"}
            body = json.dumps({"events": [event]})
            writer.write(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())
            begun = time.perf_counter()
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            waited.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    return waited


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=150)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--sync", default="normal", choices=["normal", "full"])
    parser.add_argument("--store", default="sqlite", choices=["sqlite", "redis"])
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        bundle, events, sync = given.serve
        app = opened(Path(bundle), place_of(events), sync)
        Server(app, "127.0.0.1", 0, app.settings, lambda at: print(at, flush=True)).run()
        app.close()
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        stores(Path(folder), given.store) as (within, over_http),
    ):
        bundle = Path(folder) / "bundle"
        make_bundle(bundle, 2_000)
        for name, cost in asked_within(bundle, within, given.blocks).items():
            print(f"{name:8} {cost:8.0f} us of CPU a request")
        sent_over_http(bundle, over_http, given.sync, given.events)


if __name__ == "__main__":
    main()
