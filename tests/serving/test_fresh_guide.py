"""docs/guide/fresh.md does what it says, line by line, and the Chinese page has the same lines."""

import json
import os
import re
import shlex
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest

from patience import PATIENCE, wait_until
from shortlist.cli.app import app as commands
from shortlist.serving import server as serving

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
BLOCK = re.compile(r"^```(python|sh|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((GUIDE / page).read_text(encoding="utf-8"))


def test_both_languages_have_the_same_lines():
    assert blocks("fresh.md") == blocks("fresh.zh.md")


class Reader:
    """Carries out the blocks of the page, as a shell and Python would."""

    def __init__(self):
        self.servers: list[serving.Server] = []
        self.threads: list[Thread] = []
        self.names: dict = {}
        self.elsewhere: dict[str, str] = {}  # what the page says, and where the store is here
        self.said: list = []  # what each curl was answered

    def python(self, text):
        exec(text.replace("localhost:8000", f"localhost:{self.port}"), self.names)

    def toml(self, text):
        Path("recipe.toml").write_text(text)

    def sh(self, text):
        for told, new in self.elsewhere.items():
            text = text.replace(told, new)
        for line in text.replace("\\\n", " ").strip().splitlines():
            words = shlex.split(os.path.expandvars(line.replace("'", "\0")).replace("\0", "'"))
            {"shortlist": self.shortlist, "export": self.export, "curl": self.curl}[words[0]](
                *words[1:]
            )

    def export(self, assignment):
        name, _, value = assignment.partition("=")
        os.environ[name] = value

    def shortlist(self, *arguments):
        if arguments[0] != "serve":
            commands(list(arguments), standalone_mode=False)
            return
        self.threads.append(
            Thread(
                target=commands,
                args=([*arguments, "--port", "0"],),
                kwargs={"standalone_mode": False},
            )
        )
        self.threads[-1].start()
        wait_until(lambda: self.servers and self.servers[0].app.watch.current)

    @property
    def port(self):
        return self.servers[0].servers[0].sockets[0].getsockname()[1] if self.servers else 8000

    def curl(self, *words):
        method, headers, body, path = "GET", {}, None, ""
        rest = iter(words)
        for word in rest:
            if word == "-d":
                method, body = "POST", next(rest)
            elif word == "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            elif word == "-X":
                method = next(rest)
            elif word != "-s":
                path = word.removeprefix("localhost:8000")
        connection = HTTPConnection("localhost", self.port, timeout=PATIENCE)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == 200, text
        self.said.append(json.loads(text))


@pytest.fixture
def reader(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    for name in ("SHORTLIST_DATA", "SHORTLIST_TOKEN", *TOKENS):
        monkeypatch.setenv(name, "")  # and what the page sets is undone
        monkeypatch.delenv(name)
    made = Reader()
    if os.environ.get("SHORTLIST_STORE") == "redis":
        url = request.getfixturevalue("redis").url()
        made.elsewhere = {"live --events\n": f"live --events {url}\n", "live.events.sqlite": url}

    class Server(serving.Server):
        def __init__(self, app, *arguments):
            app.settings.timeouts.__dict__["store"] = PATIENCE
            super().__init__(app, *arguments)
            made.servers.append(self)

    monkeypatch.setattr(serving, "Server", Server)
    yield made
    for server in made.servers:
        server.should_exit = True
    for thread in made.threads:
        thread.join(PATIENCE)


TOKENS = ("SHORTLIST_WRITE_TOKEN", "SHORTLIST_ADMIN_TOKEN")


def test_the_page_does_what_it_says(reader):
    for kind, text in blocks("fresh.md"):
        getattr(reader, kind)(text)
        for command, made in (("shortlist update", "v2"), ("shortlist refresh", "v3")):
            if command in text:
                watch = reader.servers[0].app.watch
                wait_until(lambda watch=watch, made=made: watch.current.name == made)
    before, kept, after, _, first, cheap, second, left, listed, back, deleted = reader.said
    assert kept == {"sequence": [1], "repeated": 0}
    assert before["items"][0][0] == 500093
    assert 500093 not in after["items"][0]
    assert (first["change"], second["change"], back["change"]) == (1, 2, 3)
    assert first["durable"]
    assert (set(cheap["items"][0]), left["items"]) == ({500014, 500013}, [[500014]])
    assert [one["change"] for one in listed["changes"]] == [2, 1]
    assert deleted == {"user": 77, "events": 2, "held_by": ["v2", "v3"]}
    served = reader.servers[0].app.watch.current
    assert (served.name, served.bundle.watermark.sequence) == ("v3", 304)
    assert (served.change, served.left_out) == (3, ())
    titles = served.data.item_frame.filter(served.data.item_frame["price"] < 0.8)
    assert set(titles["id"]) == {500014, 500013}
