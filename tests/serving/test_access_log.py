"""The access log: one line per request, with the id of the answer and without secrets."""

import io
import json
import logging

import pytest

from shortlist.serving.access_log import LoggedRequest, log, printed
from shortlist.serving.app import ROUTES
from shortlist.serving.settings import Settings

TOKEN, ADMIN = "reader-reader-reader", "admin-admin-admin-admin"
SECRETS = (TOKEN, ADMIN, "guessed", "secret-word", "10001", "500005", "Bearer")


@pytest.fixture
def lines(caplog):
    """The lines written so far."""
    caplog.set_level(logging.INFO, "shortlist.access")

    def written():
        mine = [r.getMessage() for r in caplog.records if r.name == "shortlist.access"]
        return [json.loads(line) for line in mine]

    return written


@pytest.fixture(scope="module")
def logged(open_app, make_client, bundle):
    return make_client(open_app(bundle, Settings(token=TOKEN, admin_token=ADMIN, access_log=True)))


def asked_of(client):
    """Requests of every route and of every way to be refused, and the answers."""
    body = {"users": [10001, "secret-word"], "deny": [500005]}
    for token in (TOKEN, ADMIN, "guessed-guessed-guessed", None):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        for route in ROUTES:
            value = body if route.method == "POST" else None
            yield client.ask(route.method, route.path, value, headers=headers, query="search=10001")
    yield client.get("/v1/secret-word/10001")
    yield client.ask("DELETE", "/v1/users/10001")
    yield client.ask("PUT", "/v1/recommend", body)
    yield client.post("/v1/recommend", body=b"10001", headers={"content-type": "secret-word"})
    yield client.get("/healthz", headers={"host": None})


def test_every_answer_has_its_line_and_no_line_has_a_secret(logged, lines, caplog):
    said = list(asked_of(logged))
    written = lines()
    assert len({one.headers["x-request-id"] for one in said}) == len(said)
    assert [(one.headers["x-request-id"], one.status, len(one.body)) for one in said] == [
        (line["id"], line["status"], line["bytes"]) for line in written
    ]
    assert {line["route"] for line in written} == {
        *(route.path for route in ROUTES if route.path != "/page/{file}"),
        "other",
    }
    for line in written:
        assert list(line) == ["time", "id", "method", "route", "status", "ms", "bytes"]
        assert line["ms"] >= 0
    text = "".join(r.getMessage() for r in caplog.records if r.name == "shortlist.access")
    for secret in SECRETS:
        assert secret not in text


def test_nothing_is_logged_where_it_was_not_asked_for(client, lines):
    assert client.get("/healthz").headers["x-request-id"]
    assert lines() == []


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a1.B-2_c:3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("two words", False),
        ('a"b', False),
        ("a\tb", False),
        (TOKEN, False),
        (ADMIN, False),
    ],
)
def test_a_clients_own_id_is_kept_if_it_is_short_and_plain_and_no_token(
    logged, lines, given, taken
):
    for path in ("/healthz", "/nowhere"):
        said = logged.get(path, headers={"x-request-id": given})
        assert (said.headers["x-request-id"] == given) == taken
        assert lines()[-1]["id"] == said.headers["x-request-id"]


def test_what_is_turned_away_before_it_is_a_request_has_a_line_too(running, bundle, connect, lines):
    settings = Settings(access_log=True, head_bytes=2000)
    with running(bundle, settings) as server:
        for sent, status in ((b"\x16\x03 secret-word\r\n\r\n", 400), (b"GET /" + b"x" * 3000, 431)):
            connection = connect(server.port, 120)
            connection.sendall(sent)
            came = b""
            while part := connection.recv(65536):
                came += part
            line = lines()[-1]
            assert (line["status"], line["route"]) == (status, "other")
            assert f"x-request-id: {line['id']}".encode() in came
            assert "secret-word" not in str(line)


def test_a_client_that_leaves_has_its_line(logged, lines):
    head = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    token = (b"authorization", f"Bearer {TOKEN}".encode())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "query_string": b"",
        "http_version": "1.1",
    }

    async def leave():
        return {"type": "http.disconnect"}

    logged.loop.run_until_complete(logged.app(scope | {"headers": [*head, token]}, leave, None))
    assert [line["status"] for line in lines()] == [499]


def test_the_lines_are_all_that_is_printed_and_a_closed_pipe_ends_them(caplog):
    stream = io.StringIO()
    asked = LoggedRequest(b"an-id", "GET", "/healthz", 0.0)
    with printed(stream):
        log(asked, 200, 5)
        logging.getLogger("shortlist.serving").error("something else")
        assert json.loads(stream.getvalue())["id"] == "an-id"
        stream.close()
        for _ in range(3):
            log(asked, 200, 5)
    assert caplog.text.count("the access log cannot be written") == 1
