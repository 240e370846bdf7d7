"""Bundles to serve, and three ways to query: the application, a thread, a process."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import pytest

from patience import PATIENCE, PATIENT
from shortlist.blending.blend import Blend
from shortlist.bundle.bundle import save
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.popular import Popular
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.server import Server
from shortlist.serving.settings import Settings, Timeouts
from shortlist.serving.watching import Watch

TOKEN, ADMIN = "reader-reader-reader", "admin-admin-admin-admin"


class Said(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        assert set(self.json) == {"error"}
        assert set(self.json["error"]) == {"code", "message"}
        return self.json["error"]["code"]


class Client:
    """Asks an application without a socket: one event loop, one request after another."""

    def __init__(self, app: App, token: str | None = None) -> None:
        self.app, self.token = app, token
        self.loop = asyncio.new_event_loop()

    def ask(self, *arguments, **more):
        return self.loop.run_until_complete(self.sent(*arguments, **more))

    async def sent(
        self, method, path, value=None, *, body=None, headers=None, query="", host="localhost"
    ):
        sent = {"host": host} | ({"authorization": f"Bearer {self.token}"} if self.token else {})
        if value is not None:
            body = json.dumps(value).encode()
        if method == "POST":
            sent["content-type"] = "application/json"
        sent |= headers or {}
        answer = call(self.app, method, path, sent, body or b"", query)
        return await asyncio.wait_for(answer, PATIENCE)

    def post(self, path, value=None, **more):
        return self.ask("POST", path, value, **more)

    def get(self, path, query="", **more):
        return self.ask("GET", path, query=query, **more)


async def call(app, method, path, headers, body, query):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in headers.items()
            if value is not None
        ],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
    }
    sent = []
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return unread.pop() if unread else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return Said(start["status"], named, b"".join(part.get("body", b"") for part in rest))


@pytest.fixture(scope="session")
def bundle(fitted, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "bundle"
    save(fitted, path)
    return path


@pytest.fixture
def events_place(request, tmp_path):
    """Where a service keeps events: a file, or with SHORTLIST_STORE=redis a prefix in Redis."""
    if os.environ.get("SHORTLIST_STORE") == "redis":
        return request.getfixturevalue("redis").place()
    return tmp_path / "events.sqlite"


@pytest.fixture
def events_file(events_place):
    """The same, for what is true of files only."""
    if not isinstance(events_place, Path):
        pytest.skip("this is about a store in a file")
    return events_place


@pytest.fixture(scope="session")
def blended(split) -> Blend:
    options = {"quotas": {"ease": 3, "popular": 1}}
    return Blend({"ease": EASE(), "popular": Popular()}, **options).fit(split)


@pytest.fixture(scope="session")
def blend_bundle(blended, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "blend"
    save(blended, path)
    return path


@pytest.fixture(scope="session")
def say(pytestconfig):
    """Writes a line that is seen although the test passes."""

    def line(text: str) -> None:
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            sys.stdout.write(f"\n{text}\n")

    return line


def patient(settings: Settings | None) -> Settings:
    """The settings, and all the time there is for a test that says nothing of times."""
    settings = settings or Settings()
    return replace(settings, timeouts=PATIENT) if settings.timeouts == Timeouts() else settings


@pytest.fixture(scope="session")
def open_app():
    """Opens an application over a path: what is served is loaded, and closed at the end."""
    opened = []

    def start(path: Path, settings: Settings | None = None, look: bool = True, **more) -> App:
        measures = Measures()
        watch = Watch(path, measures, **more)
        app = App(watch, measures, patient(settings))
        opened.append(app)
        if look:
            watch.look()
        return app

    yield start
    for app in opened:
        app.close()


@pytest.fixture(scope="session")
def make_client():
    made = []

    def make(app: App, token: str | None = None) -> Client:
        made.append(Client(app, token))
        return made[-1]

    yield make
    for client in made:
        client.loop.close()


@pytest.fixture(scope="session")
def client(open_app, make_client, bundle) -> Client:
    return make_client(open_app(bundle))


@pytest.fixture(scope="session")
def blend_client(open_app, make_client, blend_bundle) -> Client:
    return make_client(open_app(blend_bundle))


class Running(NamedTuple):
    """A server on a port of this machine."""

    app: App
    server: Server
    port: int

    def post(self, path, value, timeout=PATIENCE, headers=None):
        return post(self.port, path, value, timeout, headers)


def post(port, path, value, timeout=PATIENCE, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        body = json.dumps(value)
        sent = {"content-type": "application/json"} | (headers or {})
        connection.request("POST", path, body, sent)
        answer = connection.getresponse()
        return Said(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@pytest.fixture
def running(open_app):
    """Runs an application on a free port in a thread, and ends it."""

    @contextmanager
    def run(path: Path, settings: Settings | None = None):
        settings = patient(settings)
        app = open_app(path, settings)
        told: list[str] = []
        opened = Event()

        def ready(address: str) -> None:
            told.append(address)
            opened.set()

        server = Server(app, "127.0.0.1", 0, settings, ready)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        assert opened.wait(PATIENCE)
        try:
            yield Running(app, server, int(told[0].rpartition(":")[2]))
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()

    return run


PROGRAM = """
import sys
from shortlist.serving.run import serve
from shortlist.serving.settings import Settings, Timeouts
times = Timeouts(notice=300, drain=float(sys.argv[2]), head=300, body=300, answer=300)
serve(sys.argv[1], port=0, settings=Settings(timeouts=times),
      ready=lambda address: sys.stdout.write(address + "\\n") or sys.stdout.flush())
"""


@pytest.fixture
def process():
    """Starts `serve` as a process of its own: (process, port) once its socket is open."""
    started = []

    def start(path: Path, drain: float):
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(drain)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(child)
        line = child.stdout.readline()
        return child, int(line.strip().rpartition(":")[2]) if line else 0

    yield start
    for child in started:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=PATIENCE)


@pytest.fixture
def connect():
    """Opens plain sockets, and closes them at the end."""
    opened = []

    def to(port: int, timeout: float = PATIENCE) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=timeout))
        return opened[-1]

    yield to
    for each in opened:
        each.close()
