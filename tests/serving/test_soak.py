"""A service that answers for long does not grow, and this would be seen if it did.

The ordinary suite counts what Python holds after many requests: the same number every time. `make
soak` asks a process for SHORTLIST_SOAK seconds, changes items and bundles under it, and watches the
memory the system has given it.
"""

import gc
import http.client
import itertools
import json
import os
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
from shortlist.bundle.store import publish, verify
from shortlist.serving.service import Service
from shortlist.serving.settings import Settings

SECONDS = float(os.environ.get("SHORTLIST_SOAK", "0"))
TOKEN = "admin-admin-admin-admin"
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
        Leaky.kept.append(body + b"x" * 200)
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
        held = [ask(0), *(ask(2 * requests) for _ in range(3))]
        # The middle one of three spans: what else is held for a moment moves one of them.
        return statistics.median(b - a for a, b in itertools.pairwise(held)) / (2 * requests)
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
    assert (grown > 150) if leaks else (grown < 75), grown


PROGRAM = """
import sys
from shortlist.serving.run import serve
from shortlist.serving.service import Service
from shortlist.serving.settings import Settings
if sys.argv[2] == "leaks":
    kept, answer = [], Service.answer_bytes
    def leaking(self, model, body):
        kept.append(b"x" * 20_000)
        return answer(self, model, body)
    Service.answer_bytes = leaking
serve(sys.argv[1], port=0, settings=Settings(poll=0.5, admin_token=sys.argv[3]),
      ready=lambda address: sys.stdout.write(address + "\\n") or sys.stdout.flush())
"""


def resident(pid):
    """Bytes of memory that the system has given the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def publish_again(path, number):
    """The same bundle under another id, over the one that is served."""
    found = verify(path)
    files = {name: found.read(name) for name in found.files}
    publish(path, files, {**found.fields, "metrics": {"number": number}}, overwrite=True)


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
        self.asked, self.failed, self.stop = [0, 0, 0], [], Event()
        self.threads = [Thread(target=self.client, args=(n,)) for n in range(2)]
        self.threads.append(Thread(target=self.administrator))

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

    def say(self, connection, path, value, number, expected=(200, 404, 422)):
        connection.request("POST", path, json.dumps(value), HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in expected:
            self.failed.append((path, answer.status, body[:200]))
        self.asked[number] += 1


def soak(path, seconds, leaks):
    """Bytes that the process grew by, by request, from the first third on; and the requests."""
    command = [sys.executable, "-c", PROGRAM, str(path), "leaks" if leaks else "-", TOKEN]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            port = int(process.stdout.readline().strip().rpartition(":")[2])
            load, samples = Load(port, path), []
            wait_ready(port)
            for thread in load.threads:
                thread.start()
            end = time.monotonic() + seconds
            while time.monotonic() < end and all(thread.is_alive() for thread in load.threads):
                time.sleep(min(1.0, seconds / 60))
                samples.append((sum(load.asked), resident(process.pid)))
            load.stop.set()
            for thread in load.threads:
                thread.join(PATIENCE)
            assert time.monotonic() >= end
            assert load.failed == []
        finally:
            process.send_signal(signal.SIGKILL)
    third = len(samples) // 3
    first, last = samples[third : third + third // 2], samples[-(third // 2) :]
    requests, memory = (
        statistics.median(part) - statistics.median(early)
        for part, early in zip(zip(*last, strict=True), zip(*first, strict=True), strict=True)
    )
    return memory, requests, samples


@pytest.mark.skipif(not SECONDS, reason="for minutes: make soak")
@pytest.mark.parametrize("leaks", [False, True], ids=["as it is", "with a leak"])
def test_the_memory_of_a_service_under_load_does_not_grow(bundle, tmp_path, say, leaks):
    path = tmp_path / "bundle"
    found = verify(bundle)
    publish(path, {name: found.read(name) for name in found.files}, found.fields)
    memory, requests, samples = soak(path, min(SECONDS, 60) if leaks else SECONDS, leaks)
    say(
        f"{samples[-1][0]:,} requests; resident {samples[0][1] / 1e6:.0f} MB at first, "
        f"{samples[-1][1] / 1e6:.0f} MB at last; {memory / 1e6:+.1f} MB over the "
        f"{requests:,.0f} requests between the middle third and the end"
    )
    allowed = 8e6 + 100 * requests
    assert (memory > allowed) if leaks else (memory < allowed)
