"""A server on a socket, and as a process: slow clients, heads without end, SIGTERM."""

import json
import signal
import socket
import time
from dataclasses import replace
from threading import Thread

import pytest

from patience import PATIENCE, PATIENT, wait_until
from shortlist.bundle.bundle import load
from shortlist.errors import BundleError, ServingError
from shortlist.serving.run import serve
from shortlist.serving.settings import Limits, Settings

HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def get(connection: socket.socket, path: bytes) -> bytes:
    """The status line of the answer, which is read to its end."""
    connection.sendall(b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path)
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("closed without an answer")
        answer += part
    return answer.partition(b"\r\n")[0]


def wait_ready(running) -> None:
    wait_until(lambda: running.app.watch.current is not None)


@pytest.fixture
def strict(running, bundle):
    """A server with small limits, and all the time there is."""
    with running(bundle, Settings(head_bytes=2000, limits=Limits(body=4000))) as server:
        wait_ready(server)
        yield server


@pytest.fixture
def hasty(running, bundle):
    """A server that does not wait for heads."""
    times = replace(PATIENT, head=0.3)
    with running(bundle, Settings(timeouts=times, head_bytes=2000)) as server:
        wait_ready(server)
        yield server


def test_answers_over_a_socket_are_those_of_the_library(running, bundle, fitted):
    users = fitted.data.users.ids.head(20).to_list()
    with running(bundle) as server:
        wait_ready(server)
        said = server.post("/v1/recommend", {"users": users, "k": 5})
        assert said.json["items"] == fitted.recommend(users, 5).ids
        assert said.headers["content-length"] == str(len(said.body))
        assert "server" not in said.headers


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/rec",
        HEAD,
        HEAD + b"x-more: " + b"a",
    ],
)
def test_a_client_that_does_not_finish_its_head_is_cut_off(hasty, connect, sent):
    connection = connect(hasty.port)
    connection.sendall(sent)
    assert read_all(connection) == b""


def test_one_byte_after_another_does_not_buy_time(hasty, connect):
    connection = connect(hasty.port)
    try:
        for byte in HEAD + b"x: " + b"a" * 3000:
            connection.send(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        pass
    assert read_all(connection) == b""  # cut off long before its head was too long


def test_an_answered_connection_has_no_more_patience_for_its_second_request(hasty, connect):
    body = b'{"users": [1]}'
    answer = b""
    while not answer:  # a busy machine may need more time for the first head than it has here
        connection = connect(hasty.port)
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    connection.sendall(b"POST /v1")
    read_all(connection)  # it ends


def test_a_body_that_does_not_come_is_told_so(running, bundle, connect):
    with running(bundle, Settings(timeouts=replace(PATIENT, body=0.3))) as server:
        for sent in (b"content-length: 20\r\n\r\n", b"content-length: 20\r\n\r\n{", b"\r\n"):
            connection = connect(server.port)
            chunked = b"transfer-encoding: chunked\r\n" if sent == b"\r\n" else b""
            connection.sendall(HEAD + chunked + sent)
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 408")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"


def test_a_body_without_end_is_refused(strict, connect):
    connection = connect(strict.port)
    connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    try:
        for _ in range(50):
            connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
    except OSError:
        pass
    assert read_all(connection)[:12] in (b"HTTP/1.1 413", b"")


def test_a_head_without_end_is_refused(strict, connect):
    for start in (b"GET /", HEAD + b"x: "):
        connection = connect(strict.port)
        connection.sendall(start + b"a" * 2500)
        assert read_all(connection).startswith(b"HTTP/1.1 431")


def test_what_is_not_http_gets_the_same_kind_of_error(strict, connect):
    connection = connect(strict.port)
    connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_too_many_connections_are_told_to_come_again(running, bundle, connect):
    with running(bundle, Settings(connections=2)) as server:
        first, second = connect(server.port), connect(server.port)
        for connection in (first, second):
            assert get(connection, b"/healthz").endswith(b"OK")
        assert read_all(connect(server.port)).startswith(b"HTTP/1.1 503")
        first.close()
        second.close()


def test_who_stalls_does_not_hold_up_others(strict, connect):
    for _ in range(50):
        connect(strict.port).sendall(b"POST /v1/recommend HTTP/1.1\r\n")
    assert strict.post("/v1/recommend", {"users": [1]}).status == 200


def ready(port, connect) -> bytes:
    """What a new connection is told of /readyz; nothing where there is no socket any more."""
    try:
        with connect(port) as probe:
            return get(probe, b"/readyz").removeprefix(b"HTTP/1.1 ")
    except OSError:
        return b""


def test_sigterm_lets_requests_finish_and_ends_in_peace(process, bundle, connect):
    child, port = process(bundle, drain=PATIENCE)
    wait_until(lambda: ready(port, connect) == b"200 OK")
    body = b'{"users": [1]}'
    slow, probe = connect(port), connect(port)
    slow.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
    assert get(probe, b"/healthz").endswith(b"OK")  # so what was sent before it has arrived
    child.send_signal(signal.SIGTERM)
    wait_until(lambda: ready(port, connect).startswith(b"503"))
    child.send_signal(signal.SIGTERM)  # enough notice was given
    wait_until(lambda: ready(port, connect) == b"")
    slow.sendall(body[5:])
    assert read_all(slow).startswith(b"HTTP/1.1 200")
    assert child.wait(PATIENCE) == 0
    assert "Traceback" not in child.stderr.read()


def test_sigterm_waits_for_a_stuck_client_no_longer_than_it_may(process, bundle, connect):
    child, port = process(bundle, drain=1)
    stuck, probe = connect(port), connect(port)
    stuck.sendall(HEAD + b"content-length: 99\r\n\r\n{")
    assert get(probe, b"/healthz").endswith(b"OK")
    child.send_signal(signal.SIGTERM)
    wait_until(lambda: ready(port, connect).startswith(b"503"))
    child.send_signal(signal.SIGTERM)
    assert child.wait(PATIENCE) == 0
    assert "Traceback" not in child.stderr.read()


def test_a_bundle_that_cannot_be_served_ends_the_command(bundle, tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    for file in bundle.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "users.parquet").write_bytes(b"")
    failures = []

    def run():
        try:
            serve(path, port=0)
        except BundleError as error:
            failures.append(str(error))

    thread = Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert "users.parquet" in failures[0]


def test_what_cannot_be_started_is_refused_before_a_socket_is_open(bundle, tmp_path):
    for port in (-1, 65_536, 99_999):
        with pytest.raises(ServingError, match="between 0 and 65535"):
            serve(bundle, port=port)
    with pytest.raises(ServingError, match="SHORTLIST_TOKEN"):
        serve(bundle, host="0.0.0.0")
    with pytest.raises(BundleError, match="nothing to serve"):
        serve(tmp_path / "nothing")
    assert load(bundle)
