"""A full queue: new requests are refused early, in order, and can be sent again."""

import asyncio
import json
import logging
from threading import Event

import pytest

from shortlist.serving.settings import Limits, Settings
from shortlist.serving.workers import Workers

BODY = b'{"users": [1]}'
PATIENCE = 120


def request(body=BODY, more=b"", path=b"/v1/recommend"):
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" % path
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


def answers(connection, count):
    """So many answers from a connection: (status, headers, body) of each."""
    stream, found = connection.makefile("rb"), []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name] = value
        found.append((status, headers, stream.read(int(headers[b"content-length"]))))
    return found


@pytest.fixture
def full(running, bundle, connect, monkeypatch):
    """A server whose one worker and one place in the queue are taken; and the way to free them."""
    settings = Settings(workers=1, queue=1, access_log=True, limits=Limits(body=100_000))
    with running(bundle, settings) as server:
        served, begun, gate = server.app.watch.current, Event(), Event()
        recommend = served.retriever.recommend

        def slow(*arguments):
            begun.set()
            assert gate.wait(PATIENCE)
            return recommend(*arguments)

        monkeypatch.setattr(served.retriever, "recommend", slow)
        taken = [connect(server.port, PATIENCE) for _ in range(2)]
        for connection in taken:
            connection.sendall(request())
        assert begun.wait(PATIENCE)
        probe = connect(server.port, PATIENCE)
        while not server.app.workers.full:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answers(probe, 1)
        yield server, taken, gate
        gate.set()


def test_a_full_queue_is_told_early_as_it_is_told_late(full, connect, caplog):
    caplog.set_level(logging.INFO, "shortlist.access")
    server, taken, gate = full
    early, late = connect(server.port, PATIENCE), connect(server.port, PATIENCE)
    early.sendall(request())
    late.sendall(request(path=b"/v1/recommend?"))  # such a path is not looked at early
    said = [answers(connection, 1)[0] for connection in (early, late)]
    for status, headers, body in said:
        assert (status, json.loads(body)["error"]["code"]) == (503, "busy")
        assert headers[b"retry-after"] == b"1"
    ids = [headers.pop(b"x-request-id") for _, headers, _ in said]
    assert ids[0] != ids[1]
    said[1][1].pop(b"date")
    assert said[0] == said[1]
    lines = [json.loads(record.message) for record in caplog.records]
    assert {line["id"]: line["status"] for line in lines}[ids[0].decode()] == 503
    text = server.app.measures.text().decode()
    assert 'shortlist_requests_total{route="/v1/recommend",status="503"} 2.0' in text
    gate.set()
    assert [answers(connection, 1)[0][0] for connection in taken] == [200, 200]
    early.sendall(request())
    assert answers(early, 1)[0][0] == 200


def test_requests_on_one_connection_are_answered_in_order_whoever_is_refused(full, connect):
    server, _, gate = full
    connection = connect(server.port, PATIENCE)
    health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    connection.sendall(request() + request() + health + request())
    said = answers(connection, 4)
    assert [status for status, _, _ in said] == [503, 503, 200, 503]
    assert json.loads(said[2][2]) == {"status": "alive"}
    gate.set()


def test_a_refused_body_may_come_in_pieces_or_in_chunks(full, connect):
    server, _, _ = full
    connection = connect(server.port, PATIENCE)
    whole = request(b'{"users": [1], "k": 10}' + b" " * 50_000)
    probe = connect(server.port, PATIENCE)
    for start in range(0, len(whole), 9_000):
        connection.sendall(whole[start : start + 9_000])
        probe.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answers(probe, 1)[0][0] == 200  # so the piece has come by itself
    assert answers(connection, 1)[0][0] == 503
    head = request().partition(b"content-length")[0]
    connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + b"5\r\n{    \r\n" * 3)
    connection.sendall(b"1\r\n}\r\n0\r\n\r\n")
    assert answers(connection, 1)[0][0] == 503


def test_a_refused_body_without_end_is_cut_off(full, connect):
    server, _, _ = full
    connection = connect(server.port, PATIENCE)
    connection.sendall(request().partition(b"content-length")[0])
    connection.sendall(b"transfer-encoding: chunked\r\n\r\n")
    came = b""
    try:
        for _ in range(200):
            connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        while part := connection.recv(65536):
            came += part
    except ConnectionError:
        pass  # the end of the connection overtook the answer
    assert came[:12] in (b"HTTP/1.1 413", b"")


@pytest.mark.parametrize("more", [b"connection: close\r\n", b"expect: 100-continue\r\n"])
def test_what_a_client_says_of_its_connection_is_kept(full, connect, more):
    server, _, _ = full
    connection = connect(server.port, PATIENCE)
    connection.sendall(request(more=more))
    said = connection.makefile("rb").readline()
    assert said.split()[1] in (b"503", b"100")


def test_the_event_loop_rests_until_nothing_waits_and_not_longer():
    async def run():
        workers, gate = Workers(threads=1, queue=9), Event()
        workers.leave_alone(PATIENCE)  # nothing waits
        jobs = [workers.submit(gate.wait, PATIENCE), workers.submit(len, "abc")]
        asyncio.get_running_loop().run_in_executor(None, gate.set)
        workers.leave_alone(PATIENCE)
        assert gate.is_set()
        assert await jobs[1] == 3
        workers.close()

    asyncio.run(run())
