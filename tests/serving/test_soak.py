"""A service that answers for long does not grow, and this would be seen if it did.

The ordinary suite counts what Python holds after many requests: the same number every time. `make
soak` asks a process for SHORTLIST_SOAK seconds while events arrive, a refresh learns them every ten
seconds and items and bundles change, and watches the memory and the descriptors it has.
"""

import gc
import http.client
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from threading import Event, Thread

import pytest

from patience import PATIENCE
from shortlist import train
from shortlist.bundle.store import publish, verify
from shortlist.data.synthetic import planted_world
from shortlist.serving.service import Service
from shortlist.serving.settings import Settings

SECONDS = float(os.environ.get("SHORTLIST_SOAK", "0"))
TOKEN, WRITE = "admin-admin-admin-admin", "write-write-write-write"
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
USER, ITEM = 10_001, 500_005
QUESTIONS = [
    ("/v1/recommend", {"users": [USER, USER + 7, -1], "k": 50}),
    ("/v1/recommend", {"histories": [[ITEM, ITEM + 1], []], "k": 20}),
    ("/v1/recommend", {"users": [USER], "where": {"column": "price", "min": 5}}),
    ("/v1/recommend", {"users": [USER + 3], "deny": [ITEM], "k": 5}),
    ("/v1/history", {"user": USER}),
    ("/v1/titles", {"items": [ITEM, ITEM + 2]}),
    ("/v1/recommend", {"users": ["x"]}),  # 422
    ("/v1/recommend", {"users": [USER], "where": {"column": "no", "eq": 1}}),  # 422
    ("/v1/nothing", {}),  # 404
]


class Leaky(Service):
    """Keeps a little of every answer, as a cache without a bound does."""

    kept = []  # noqa: RUF012 - shared, as such caches are

    def answer_bytes(self, model, body):
        Leaky.kept.append(body + b"x" * 2_000)
        return super().answer_bytes(model, body)


def grown_by_request(client, requests=180):
    """Bytes that Python holds more after so many requests, by request."""

    def ask(count):
        for path, value in itertools.islice(itertools.cycle(QUESTIONS), count):
            client.post(path, value)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        ask(6 * requests)  # caches, and Python's lists of free objects, are full then
        held = [ask(0), *(ask(2 * requests) for _ in range(4))]
        # The smallest of four spans: a leak grows in each, other things that are held for a
        # moment (a buffer that doubles, an object the collector has not seen) in some.
        return min(b - a for a, b in itertools.pairwise(held)) / (2 * requests)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("leaks", [False, True], ids=["as it is", "with a leak"])
def test_what_python_holds_does_not_grow_with_requests(
    open_app, make_client, bundle, leaks, monkeypatch
):
    app = open_app(bundle, Settings(admin_token=TOKEN))
    if leaks:
        monkeypatch.setattr(Leaky, "kept", [])
        app.service.__class__ = Leaky
    grown = grown_by_request(make_client(app, TOKEN))
    assert (grown > 600) if leaks else (grown < 150), grown


PROGRAM = """
import sys
from pathlib import Path
from shortlist.serving.run import serve
from shortlist.serving.service import Service
from shortlist.serving.settings import Settings, Timeouts
if sys.argv[2] == "leaks":
    kept, answer = [], Service.answer_bytes
    def leaking(self, model, body):
        kept.append(b"x" * 20_000)
        return answer(self, model, body)
    Service.answer_bytes = leaking
settings = Settings(poll=0.5, admin_token=sys.argv[3], write_token=sys.argv[4],
                    events=Path(sys.argv[5]),
                    timeouts=Timeouts(head=300, body=300, answer=300, keep_alive=300))
serve(sys.argv[1], port=0, settings=settings,
      ready=lambda address: sys.stdout.write(address + "\\n") or sys.stdout.flush())
"""


def resident(pid):
    """Bytes of memory that the system has given the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid):
    """How many files and sockets the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def publish_again(folder, number):
    """The newest bundle under another id and a higher name; all older ones go."""
    *older, newest = sorted(
        (path for path in folder.iterdir() if (path / "manifest.json").exists()),
        key=lambda path: [int(part) for part in path.name.removeprefix("v").split("-r")],
    )
    found = verify(newest)
    files = {name: found.read(name) for name in found.files}
    publish(
        folder / f"v{number + 2}", files, {**found.fields, "findings": [{"name": f"copy {number}"}]}
    )
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def wait_ready(port):
    end = time.monotonic() + PATIENCE
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    while time.monotonic() < end:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            break
        time.sleep(0.1)
    connection.close()


class Load:
    """Clients that ask without a pause, and an administrator who changes things now and then."""

    def __init__(self, port, path):
        self.port, self.path = port, path
        self.asked, self.failed, self.stop = [0, 0, 0, 0], [], Event()
        self.threads = [Thread(target=self.client, args=(n,)) for n in range(2)]
        self.threads += [Thread(target=self.administrator), Thread(target=self.sender)]

    def client(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        for path, value in itertools.cycle(QUESTIONS):
            if self.stop.is_set():
                return connection.close()
            self.say(connection, path, value, number)

    def administrator(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        for number in itertools.count():
            if self.stop.wait(0.5):
                return connection.close()
            if number % 20 == 0:
                publish_again(self.path, number)
            self.say(connection, "/admin/reload", {}, 2)
            self.say(connection, "/admin/items", {"remove": [ITEM]}, 2, (200, 422))
            self.say(connection, "/admin/items", {"restore": [ITEM]}, 2, (200, 422))

    def sender(self):
        """Events of a hundred users, old items and new ones."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        for number in itertools.count():
            if self.stop.wait(0.02):
                return connection.close()
            event = {"user": USER + number % 100, "item": ITEM + number % 37, "id": str(number)}
            self.say(connection, "/v1/events", {"events": [event]}, 3, (200,), WRITE)

    def say(self, connection, path, value, number, expected=(200, 404, 422), token=TOKEN):
        headers = HEADERS | {"authorization": f"Bearer {token}"}
        connection.request("POST", path, json.dumps(value), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in expected:
            self.failed.append((path, answer.status, body[:200]))
        self.asked[number] += 1


def soak(path, seconds, leaks):
    """Bytes and descriptors it grew by from the first third on; requests, samples, refreshes."""
    store = path.parent / "events.sqlite"
    command = [sys.executable, "-c", PROGRAM, str(path), "leaks" if leaks else "-", TOKEN, WRITE]
    following = [sys.executable, "-m", "shortlist", "refresh", str(path), "--events", str(store)]
    following += ["--every", "10s", "--least-users", "2", "--keep", "2", "--out", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = path.parent / "refresh.log"
    with (
        subprocess.Popen(
            [*command, str(store)], stdout=subprocess.PIPE, text=True, env=environment
        ) as process,
        log.open("w") as said,
    ):
        refreshing = None
        try:
            port = int(process.stdout.readline().strip().rpartition(":")[2])
            load, samples = Load(port, path), []
            wait_ready(port)
            for thread in load.threads:
                thread.start()
            refreshing = subprocess.Popen(following, stdout=said, stderr=said, env=environment)
            end = time.monotonic() + seconds
            while time.monotonic() < end and all(thread.is_alive() for thread in load.threads):
                time.sleep(min(1.0, seconds / 60))
                samples.append((sum(load.asked), resident(process.pid), descriptors(process.pid)))
            load.stop.set()
            for thread in load.threads:
                thread.join(PATIENCE)
            assert time.monotonic() >= end
            assert load.failed == []
            assert refreshing.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            if refreshing is not None:
                refreshing.kill()
                refreshing.wait()
    third = len(samples) // 3
    first, last = samples[third : third + third // 2], samples[-(third // 2) :]
    requests, memory, opened = (
        statistics.median(part) - statistics.median(early)
        for part, early in zip(zip(*last, strict=True), zip(*first, strict=True), strict=True)
    )
    return memory, requests, samples, opened, log.read_text()


RECIPE = """
[data]
interactions = "log.csv"
items = "items.csv"
time = "timestamp"

[features]
title = "title"

[model]
dim = 16

[training]
epochs = 2
refit = "all"
"""


@pytest.mark.skipif(not SECONDS, reason="for minutes: make soak")
@pytest.mark.parametrize("leaks", [False, True], ids=["as it is", "with a leak"])
def test_the_memory_of_a_service_under_load_does_not_grow(tmp_path, say, leaks, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    world = planted_world(users=300, items=200, events=6_000, seed=3)
    world.interactions.write_csv(tmp_path / "log.csv")
    world.items.select("item_id", "title", "price").write_csv(tmp_path / "items.csv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    path = tmp_path / "served"
    train(tmp_path / "recipe.toml", path / "v1")
    memory, requests, samples, opened, refreshes = soak(
        path, min(SECONDS, 60) if leaks else SECONDS, leaks
    )
    say(
        f"{samples[-1][0]:,} requests; resident {samples[0][1] / 1e6:.0f} MB at first, "
        f"{samples[-1][1] / 1e6:.0f} MB at last; {memory / 1e6:+.1f} MB over the "
        f"{requests:,.0f} requests between the middle third and the end; {opened:+.0f} "
        f"descriptors of {samples[-1][2]}; refreshes said:\n{refreshes[-2_000:]}"
    )
    allowed = 8e6 + 100 * requests
    assert (memory > allowed) if leaks else (memory < allowed)
    assert opened < 10
    assert "error" not in refreshes
    assert leaks or "Saved" in refreshes
