"""Several processes at one address: they answer alike, change together, and are replaced.

The services are real ones, started by the command line; in some of them the processes are told to
misbehave.
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
from threading import Thread

import pytest

from patience import PATIENCE, wait_until
from shortlist.bundle.bundle import save
from shortlist.channels.counting.popular import Popular
from shortlist.errors import ServingError
from shortlist.serving.run import serve
from shortlist.serving.settings import Settings

ADMIN, WRITE = "admin-admin-admin-admin", "writer-writer-writer"

PROGRAM = """
import os, signal, sys
from pathlib import Path

here = Path(__file__).parent
if __name__ == "__mp_main__":
    (here / str(os.getpid())).touch()
    {misbehave}
else:
    from shortlist.cli.app import main
    main()
"""

REFUSE_OR_DIE = """
    from shortlist.errors import BundleError
    from shortlist.serving import watching

    sound = watching.self_test

    def self_test(served):
        if served.name == "v3":
            os.kill(os.getpid(), signal.SIGKILL)
        if served.name == "v2":
            try:
                (here / "refused").mkdir()
            except FileExistsError:
                pass
            else:
                raise BundleError("this process has no room for it")
        sound(served)

    watching.self_test = self_test
"""


class Service:
    """A service as a process, and what it says."""

    def __init__(self, folder: Path, served: Path, *options: str, misbehave: str = "pass") -> None:
        program = folder / "program.py"
        program.write_text(PROGRAM.format(misbehave=misbehave))
        self.folder, self.lines = folder, []
        waits = ("--timeout", "300", "--drain", "300", "--notice", "0")
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(program), "serve", str(served)),
                *("--port", "0", "--processes", "2", *waits, *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **{"SHORTLIST_ADMIN_TOKEN": ADMIN, "SHORTLIST_WRITE_TOKEN": WRITE},
                **{"OMP_NUM_THREADS": "1", "COLUMNS": "300"},
            },
        )
        self._hearing = Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def _hear(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    @property
    def port(self) -> int:
        wait_until(lambda: "Serving" in self.said or self.process.poll() is not None)
        return int(re.search(r"Serving .* at http://[^:]*:(\d+) ", self.said, re.DOTALL)[1])

    def pids(self) -> set[int]:
        """The processes that answer, or once did."""
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdigit()}

    def alive(self) -> set[int]:
        return {pid for pid in self.pids() if is_alive(pid)}

    def ask(self, method, path, value=None, token=ADMIN, connection=None):
        """Status, headers and JSON (or text) of the answer."""
        asked = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        asked.request(method, path, json.dumps(value) if value is not None else None, headers)
        answer = asked.getresponse()
        body = answer.read()
        if connection is None:
            asked.close()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, dict(answer.getheaders()), json.loads(body) if is_json else body

    def of_both(self, method="GET", path="/v1/bundle", value=None):
        """What each of the two processes says, by the sign that begins the ids of its requests."""
        found, connections = {}, []

        def asked() -> bool:
            connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE))
            _, headers, said = self.ask(method, path, value, connection=connections[-1])
            found[headers["x-request-id"].partition("-")[0]] = said
            return len(found) == 2

        try:
            wait_until(asked)  # the one that has fewer connections takes the next
        finally:
            for each in connections:
                each.close()
        return found

    def figure(self, name: str) -> float:
        return self.figures(name)[0]

    def figures(self, *names: str) -> list[float]:
        """Several figures of one answer of /metrics, which counts itself once it is sent."""
        _, _, text = self.ask("GET", "/metrics")
        return [
            sum(
                float(line.rpartition(" ")[2])
                for line in text.decode().splitlines()
                if re.fullmatch(rf"{name}(\{{.*\}})? \S+", line)
            )
            for name in names
        ]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._hearing.join(PATIENCE)
        self.process.stderr.close()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def bundles(split, tmp_path_factory):
    """Three bundles that differ."""
    folder = tmp_path_factory.mktemp("bundles")
    for number in (1, 2, 3):
        save(Popular(half_life=number * 1e6).fit(split), folder / f"v{number}")
    return folder


def publish(bundles: Path, name: str, served: Path) -> None:
    shutil.copytree(bundles / name, served / f".{name}")
    (served / f".{name}").rename(served / name)


def start(folder: Path, bundles: Path, *options: str, **more) -> Service:
    (served := folder / "served").mkdir()
    publish(bundles, "v1", served)
    return Service(folder, served, *options, **more)


@pytest.fixture(scope="module")
def service(bundles, tmp_path_factory):
    """Of its processes one refuses v2 once, and v3 ends all that load it."""
    folder = tmp_path_factory.mktemp("service")
    events = ("--events", "--events-file", str(folder / "events.sqlite"))
    running = start(folder, bundles, *events, misbehave=REFUSE_OR_DIE)
    yield running
    running.end()


def test_processes_answer_alike_and_their_figures_are_summed(service):
    asked = {"histories": [[]], "k": 5}
    before = service.figure("shortlist_requests_total")
    answers = service.of_both("POST", "/v1/recommend", asked)
    one, other = (
        {name: each[name] for name in ("bundle", "items", "scores", "fallback")}
        for each in answers.values()
    )
    assert one == other
    assert service.figure("shortlist_processes") == 2
    names = ("shortlist_requests_total", "shortlist_stage_seconds_count", "shortlist_queries_total")

    def are_summed():
        counted, stages, queries = service.figures(*names)
        # Two questions and the request for the first figures; a question has three stages more.
        return counted >= before + 3 and stages == counted + 3 * queries

    wait_until(are_summed)


def test_connections_are_dealt_evenly(service):
    connections = [
        http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE) for _ in range(10)
    ]
    by = [
        service.ask("GET", "/healthz", connection=each)[1]["x-request-id"].partition("-")[0]
        for each in connections
    ]
    for each in connections:
        each.close()
    assert 2 <= by.count(by[0]) <= 8


def test_a_process_that_is_killed_is_replaced_and_its_counts_stay(service):
    service.of_both("POST", "/v1/recommend", {"histories": [[]], "k": 5})
    before, signs = service.figure("shortlist_queries_total"), set(service.of_both())
    lists = r'shortlist_shown_lists_total\{by="all",value=""\}'
    wait_until(lambda: service.figure(lists) == before)  # of both, which keep them once a second
    ended = service.figure("shortlist_processes_ended_total")
    victim = min(service.alive())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: service.figure("shortlist_processes_ended_total") == ended + 1)
    wait_until(lambda: service.figure("shortlist_processes") == 2)
    assert service.figure("shortlist_queries_total") == before
    assert service.figure(lists) == before
    again = service.of_both()
    assert len(signs & set(again)) == 1
    assert len({said["bundle"] for said in again.values()}) == 1
    assert f"process {victim} of the service was ended by SIGKILL: a new" in service.said


def test_a_bundle_that_one_process_refuses_is_taken_by_none(service, bundles):
    first = {said["bundle"] for said in service.of_both().values()}
    publish(bundles, "v2", service.folder / "served")
    _, _, said = service.ask("POST", "/admin/reload")
    after = service.of_both()
    # A look at the same moment may have found it first: then the reload tries it again, and the
    # process that had no room has it now.
    if said["refused"]:
        assert {each["bundle"] for each in after.values()} == first
        for each in after.values():
            assert "this process has no room for it" in each["refused"][0]["reason"]
        assert not said["changed"]
        _, _, said = service.ask("POST", "/admin/reload")
        after = service.of_both()
    assert {each["name"] for each in after.values()} == {"v2"}
    assert "this process has no room for it" in service.said


def test_a_bundle_that_ends_the_processes_that_load_it_is_refused(service, bundles):
    before = {said["bundle"] for said in service.of_both().values()}
    publish(bundles, "v3", service.folder / "served")
    wait_until(lambda: "v3: 2 processes ended while they loaded it" in service.said)
    wait_until(lambda: service.figure("shortlist_processes") == 2)
    after = service.of_both().values()
    assert {each["bundle"] for each in after} == before
    assert all("v3" in str(each["refused"]) for each in after)
    shutil.rmtree(service.folder / "served" / "v3")  # a reload would try it again


def test_a_refused_bundle_of_many_files_does_not_end_the_service(service, bundles, tmp_path):
    shutil.copytree(bundles / "v1", tmp_path / "v4")
    for number in range(1_500):  # what is told of them is longer than asyncio reads by itself
        (tmp_path / "v4" / f"{number}").touch()
    publish(tmp_path, "v4", service.folder / "served")
    assert service.ask("POST", "/admin/reload")[0] == 200
    assert all("v4" in str(each["refused"]) for each in service.of_both().values())


def test_changes_of_items_are_seen_by_all_processes_where_a_store_keeps_them(service):
    item = service.ask("POST", "/v1/recommend", {"histories": [[]], "k": 1})[2]["items"][0][0]
    assert service.ask("POST", "/admin/items", {"remove": [item]})[0] == 200
    wait_until(lambda: {each["item_change"] for each in service.of_both().values()} == {1})
    for said in service.of_both("POST", "/v1/recommend", {"histories": [[]], "k": 300}).values():
        assert item not in said["items"][0]


def test_changes_of_items_without_a_shared_store_are_refused(bundle, open_app, make_client):
    settings = Settings(processes=2, admin_token=ADMIN)
    client = make_client(open_app(bundle, settings), ADMIN)
    for said in (
        client.post("/admin/items", {"remove": [1]}),
        client.post("/admin/items/revert", {"change": 1}),
        client.get("/admin/items/changes"),
    ):
        assert said.code == "not_supported"
        assert "--events" in said.json["error"]["message"]


def test_sigterm_lets_all_processes_finish(service):
    slow = [socket.create_connection(("127.0.0.1", service.port), PATIENCE) for _ in range(4)]
    body = b'{"histories": [[]], "k": 3}'
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for each in slow:
        each.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
    service.of_both()  # so the connections before are taken
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: service.said.count("draining") == 3)
    for each in slow:
        each.sendall(body[5:])
        assert each.recv(4096).startswith(b"HTTP/1.1 200")
        each.close()
    assert service.process.wait(PATIENCE) == 0
    wait_until(lambda: not service.alive())
    assert "Traceback" not in service.said


def test_processes_end_when_the_one_that_started_them_is_killed(bundles, tmp_path):
    service = start(tmp_path, bundles)
    try:
        wait_until(lambda: len(service.pids()) == 2)
        service.process.kill()
        wait_until(lambda: not service.alive())
    finally:
        service.end()


def test_processes_that_cannot_start_end_the_service_with_one_sentence(bundles, tmp_path):
    service = start(tmp_path, bundles, misbehave="sys.exit(7)")
    try:
        assert service.process.wait(PATIENCE) == ServingError.exit_code
        service._hearing.join(PATIENCE)
        assert "error: 3 processes of the service ended with exit code 7, one after" in service.said
        assert "Traceback" not in service.said
    finally:
        service.end()


def test_a_single_bundle_that_is_damaged_ends_the_service_with_its_reason(bundles, tmp_path):
    shutil.copytree(bundles / "v1", damaged := tmp_path / "damaged")
    (damaged / "manifest.json").write_text("{}")
    service = Service(tmp_path, damaged)
    try:
        assert service.process.wait(PATIENCE) == 3
        service._hearing.join(PATIENCE)
        assert "error: the bundle cannot be served: " in service.said
        assert "Serving" not in service.said
    finally:
        service.end()


def test_a_script_that_does_not_guard_its_call_is_told_so_in_one_sentence(bundles, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from shortlist.serving.run import serve\n"
        "from shortlist.serving.settings import Settings\n"
        f"serve({str(bundles)!r}, port=0, settings=Settings(processes=2))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith('put the call below the line if __name__ == "__main__":\n')


def test_an_address_that_is_taken_is_refused_before_anything_starts(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1, port {port}"):
            serve(bundle, port=port, settings=Settings(processes=2))
