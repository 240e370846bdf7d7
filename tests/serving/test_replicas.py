"""Three replicas behind a real nginx: one is killed, one hangs, all are swapped and restarted.

`make replicas` runs it. The configuration is the one that the page shows.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from patience import PATIENCE, wait_until
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.popular import Popular

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docker" / "nginx.conf"
TOKEN, ADMIN = "reader-reader-reader", "admin-admin-admin-admin"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CLIENTS = 2

MAIN = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/shortlist.conf;
}}
"""


def test_the_page_shows_the_configuration_that_is_tried():
    for page in ("many.md", "many.zh.md"):
        text = (ROOT / "docs" / "guide" / page).read_text(encoding="utf-8")
        assert f"```nginx\n{CONFIGURATION.read_text()}```" in text


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def asked(port: int, method: str, path: str, value=None, token: str = TOKEN):
    """Status and body of an answer, over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Replica:
    """A service of its own, over a folder of its own."""

    def __init__(self, folder: Path, port: int, bundle: Path) -> None:
        self.folder, self.port = folder, port
        shutil.copytree(bundle, folder / bundle.name)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "shortlist", "serve", str(self.folder)),
                *("--port", str(self.port), "--poll", "1000"),
            ],
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                **{"SHORTLIST_TOKEN": TOKEN, "SHORTLIST_ADMIN_TOKEN": ADMIN},
                "OMP_NUM_THREADS": "1",
            },
        )

    def ready(self) -> bool:
        try:
            return asked(self.port, "GET", "/readyz")[0] == 200
        except OSError:
            return False

    def publish(self, bundle: Path) -> None:
        shutil.copytree(bundle, self.folder / f".{bundle.name}")
        (self.folder / f".{bundle.name}").rename(self.folder / bundle.name)
        status, said = asked(self.port, "POST", "/admin/reload", token=ADMIN)
        assert status == 200, said

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # one that was stopped, too
        self.process.wait(PATIENCE)


class Load:
    """Clients that ask through the balancer, and note what they get."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self._port, self._stop = port, Event()
        self._clients = [Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for client in self._clients:
            client.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                said = asked(self._port, "POST", "/v1/recommend", {"histories": [[]], "k": 5})
            except (OSError, http.client.HTTPException) as error:
                said = (0, str(error).encode())
            self.answers.append(said)
            self._stop.wait(0.02)  # so that replicas that start have a processor, too

    def more(self, count: int = 200) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted)

    def end(self) -> None:
        self._stop.set()
        for client in self._clients:
            client.join(PATIENCE)


@pytest.mark.skipif(not os.environ.get("SHORTLIST_REPLICAS"), reason="`make replicas` runs it")
def test_no_request_fails_while_replicas_die_hang_and_change(split, tmp_path, say):
    assert NGINX, "there is no nginx (Debian: apt-get install nginx-light)"
    old, new = tmp_path / "v1", tmp_path / "v2"
    for number, path in enumerate((old, new), start=1):
        save(Popular(half_life=number * 1e6).fit(split), path)
    ids = [load(path).id for path in (old, new)]
    front, *ports = free_ports(4)
    text = CONFIGURATION.read_text().replace("listen 8000", f"listen 127.0.0.1:{front}")
    for number, port in enumerate(ports, start=1):
        text = text.replace(f"127.0.0.1:800{number}", f"127.0.0.1:{port}")
    # A busy machine may be slower than a hanging one should be.
    text = re.sub(r"proxy_(connect|read)_timeout \d+s", r"proxy_\1_timeout 20s", text)
    (tmp_path / "shortlist.conf").write_text(text)
    (tmp_path / "nginx.conf").write_text(MAIN.format(folder=tmp_path))
    replicas = [Replica(tmp_path / f"replica-{port}", port, old) for port in ports]
    first, second, _ = replicas
    nginx = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    clients = None
    try:
        wait_until(lambda: all(replica.ready() for replica in replicas))
        clients = Load(front)
        clients.more()

        first.process.kill()
        first.process.wait(PATIENCE)
        clients.more()
        first.start()
        wait_until(first.ready)
        clients.more()

        second.process.send_signal(signal.SIGSTOP)
        clients.more()
        second.process.send_signal(signal.SIGCONT)
        clients.more()

        for replica in replicas:
            replica.publish(new)
            clients.more()

        for replica in replicas:  # a rolling restart, as for a new version of the program
            replica.process.send_signal(signal.SIGTERM)
            assert replica.process.wait(PATIENCE) == 0
            replica.start()
            wait_until(replica.ready)
            clients.more()
    finally:
        if clients is not None:
            clients.end()
        nginx.terminate()
        nginx.wait(PATIENCE)
        for replica in replicas:
            replica.end()
    failed = [said for said in clients.answers if said[0] != 200]
    assert not failed, failed[:3]
    by = [json.loads(body)["bundle"] for _, body in clients.answers]
    assert set(by) == set(ids)
    assert by[0] == ids[0]
    assert set(by[-100:]) == {ids[1]}
    say(f"{len(by)} answers, none failed")
