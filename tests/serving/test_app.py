"""HTTP: which route needs which token, the form of every error, and what is kept private."""

import asyncio
import logging
import os
from threading import Event

import pytest

from patience import PATIENCE
from shortlist.errors import ServingError
from shortlist.serving.app import ROUTES, STATUS
from shortlist.serving.messages import RequestError
from shortlist.serving.page_files import page_files
from shortlist.serving.settings import Settings, Timeouts
from shortlist.serving.workers import Workers

TOKEN, ADMIN = "reader-reader-reader", "admin-admin-admin-admin"
WRITER = "writer-writer-writer"

# Every route: whether it opens without a token, with the reader's, with the administrator's.
DOORS = {
    ("GET", "/"): "open",
    ("GET", "/page/{file}"): "open",
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "read",
    ("GET", "/openapi.json"): "read",
    ("GET", "/v1/bundle"): "read",
    ("GET", "/v1/report"): "read",
    ("GET", "/v1/map"): "read",
    ("GET", "/v1/events"): "read",
    ("GET", "/v1/feedback"): "read",
    ("GET", "/v1/users"): "read",
    ("POST", "/v1/recommend"): "read",
    ("POST", "/v1/similar"): "read",
    ("POST", "/v1/explain"): "read",
    ("POST", "/v1/history"): "read",
    ("POST", "/v1/titles"): "read",
    ("POST", "/v1/events"): "write",
    ("DELETE", "/v1/users/{user}"): "admin",
    ("POST", "/admin/items"): "admin",
    ("POST", "/admin/items/revert"): "admin",
    ("GET", "/admin/items/changes"): "admin",
    ("POST", "/admin/reload"): "admin",
}

# What each kind of door says: to nobody, to a wrong token, to the reader, the writer of events, the
# administrator.
EXPECTED = {
    "open": (None, None, None, None, None),
    "read": ("unauthorized", "unauthorized", None, "forbidden", "forbidden"),
    "write": ("unauthorized", "unauthorized", "forbidden", None, "forbidden"),
    "admin": ("unauthorized", "unauthorized", "forbidden", "forbidden", None),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>explorer</title>")
    (folder / "app.js").write_text("'use strict';")
    (folder / "notes.txt").write_text("not for serving")
    (folder.parent / "secret.html").write_text("secret")
    (folder / "link.html").symlink_to(folder.parent / "secret.html")
    return page_files(folder)


@pytest.fixture(scope="module")
def guarded(open_app, make_client, bundle, page):
    settings = Settings(token=TOKEN, admin_token=ADMIN, write_token=WRITER)
    app = open_app(bundle, settings)
    app._page = page
    return make_client(app)


def ask(client, route, **headers):
    method, path = route
    return client.ask(
        method,
        path.replace("{file}", "app.js").replace("{user}", "1"),
        {"users": [1]} if method == "POST" else None,
        headers=headers,
    )


def test_every_route_has_its_line_in_the_table_of_tokens():
    assert {(route.method, route.path) for route in ROUTES} == set(DOORS)


@pytest.mark.parametrize("route", DOORS)
def test_a_route_opens_for_its_token_only(guarded, route):
    given = (None, "wrong-wrong-wrong-wrong", TOKEN, WRITER, ADMIN)
    for token, code in zip(given, EXPECTED[DOORS[route]], strict=True):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        said = ask(guarded, route, **headers)
        if code is None:
            assert said.status in (200, 422), said
        else:
            assert (said.status, said.code) == (STATUS[code], code)


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} ", f"Bearer {TOKEN[:-1]}"],
)
def test_nearly_the_token_is_not_the_token(guarded, value):
    said = ask(guarded, ("POST", "/v1/recommend"), authorization=value)
    assert said.code == "unauthorized"
    assert said.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        *("//v1/recommend", "/v1/recommend/", "/V1/recommend", "/v1//recommend", "/v1/./recommend"),
        *("/page/../v1/users", "/v1/recommend\x00", "/v1/recommend;x", "/healthz/../v1/bundle"),
        *("/admin", "/admin/", "/v1", "/v1/", "/docs", "/redoc", "", "/page/", "/page/{file}"),
    ],
)
def test_a_path_that_is_not_a_route_is_not_found(guarded, path):
    for method in ("GET", "POST"):
        assert guarded.ask(method, path).code == "not_found"


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.html", "..%2fsecret.html", "....//secret.html", "link.html", "notes.txt"),
        *("/etc/passwd", "%2e%2e/secret.html", "..\\secret.html", "app.js/", "app.js\x00.html"),
    ],
)
def test_only_the_files_of_the_page_are_served(guarded, name):
    said = guarded.get(f"/page/{name}")
    assert (said.status, said.code) == (404, "not_found")


def test_the_page_may_run_its_own_scripts_and_no_others(guarded):
    for path, start in (("/", b"<!doctype"), ("/page/index.html", b"<!doctype")):
        said = guarded.get(path)
        assert said.body.startswith(start)
        assert said.headers["content-type"] == "text/html; charset=utf-8"
        policy = said.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in said.headers["content-security-policy"]
        assert said.headers["x-content-type-options"] == "nosniff"
    assert guarded.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_without_a_page_there_is_none(client):
    client.app._page, page = {}, client.app._page
    try:
        assert client.get("/").code == "not_found"
    finally:
        client.app._page = page


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/recommend"), ("PUT", "/v1/recommend"), ("POST", "/metrics")]
)
def test_a_wrong_method_is_told_the_right_one(client, method, path):
    assert client.ask(method, path).code == "method_not_allowed"


@pytest.mark.parametrize("host", ["example.org", "example.org:80", "10.0.0.1", "", "localhost.x"])
def test_without_a_token_a_name_from_elsewhere_is_refused(client, host):
    # Or a page of any site could let its own name lead to this machine, and read the answers.
    assert client.get("/v1/bundle", host=host).code == "forbidden"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:80", "[::1]"]
)
def test_without_a_token_this_machine_may_read_but_not_administer(client, host):
    assert client.get("/v1/bundle", host=host).status == 200
    assert client.post("/admin/reload", host=host).code == "forbidden"


def test_with_a_token_any_name_will_do(guarded):
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/v1/bundle", host="shop.example", headers=headers).status == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
def test_a_body_says_that_it_is_json(client, kind):
    said = client.post("/v1/recommend", {"users": [1]}, headers={"content-type": kind})
    assert (said.status, said.code) == (415, "unsupported_media_type")


def test_json_with_a_charset_is_json(client):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/recommend", {"users": [1]}, headers=headers).status == 200


async def asked_with(client, headers):
    """What a GET with exactly these headers gets."""
    sent = []
    scope = {"type": "http", "method": "GET", "path": "/v1/bundle", "http_version": "1.1"}

    async def send(message):
        sent.append(message)

    await client.app(scope | {"headers": headers}, None, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("name", [b"host", b"authorization", b"content-type", b"content-length"])
def test_a_header_that_two_readers_could_understand_in_two_ways_is_refused(client, name):
    once = [(b"host", b"localhost"), (name, b"localhost")]
    twice = [(b"host", b"localhost"), (name, b"127.0.0.1"), (name, b"localhost")]
    missing = [(b"accept", b"*/*")]
    for headers in (twice, missing) if name != b"host" else (once, twice, missing):
        status, body = client.loop.run_until_complete(asked_with(client, headers))
        assert status == 400
        assert b"invalid_http" in body


def test_a_compressed_body_is_refused(client):
    said = client.post("/v1/recommend", {"users": [1]}, headers={"content-encoding": "gzip"})
    assert said.code == "unsupported_media_type"


def test_a_body_too_large_is_refused_whether_it_says_so_or_not(client):
    huge = b" " * (client.app.settings.limits.body + 1)
    said = client.post("/v1/recommend", body=huge)
    assert (said.status, said.code, said.headers["connection"]) == (413, "too_large", "close")
    said = client.post("/v1/recommend", body=b"{}", headers={"content-length": str(len(huge))})
    assert said.code == "too_large"


def test_an_accident_tells_no_internals(open_app, make_client, bundle, monkeypatch, caplog):
    client = make_client(open_app(bundle))

    def fail(*_, **__):
        raise RuntimeError("the secret path /var/lib/x")

    monkeypatch.setattr(client.app.watch.current.retriever, "recommend", fail)
    monkeypatch.setattr(client.app.measures, "text", fail)
    with caplog.at_level(logging.CRITICAL):
        for said in (client.post("/v1/recommend", {"users": [1]}), client.get("/metrics")):
            assert (said.status, said.code) == (500, "internal")
            assert b"secret" not in said.body
    assert client.get("/healthz").status == 200


def test_no_token_is_ever_logged(guarded, caplog):
    with caplog.at_level(logging.DEBUG):
        for route in DOORS:
            ask(guarded, route, authorization=f"Bearer {TOKEN}")
            ask(guarded, route, authorization=f"Bearer {ADMIN}")
            ask(guarded, route, authorization="Bearer guessed-guessed-guessed")
    for secret in (TOKEN, ADMIN, "guessed"):
        assert secret not in caplog.text


def test_before_a_bundle_is_there_nothing_is_ready_but_the_process_is_alive(
    open_app, make_client, tmp_path
):
    client = make_client(open_app(tmp_path))
    assert client.get("/healthz").status == 200
    for said in (
        client.get("/readyz"),
        client.get("/v1/bundle"),
        client.get("/v1/users"),
        client.post("/v1/recommend", {"users": [1]}),
    ):
        assert (said.status, said.code) == (503, "not_ready")
        assert int(said.headers["retry-after"]) >= 1


def test_while_draining_readiness_fails_and_requests_are_answered(open_app, make_client, bundle):
    client = make_client(open_app(bundle))
    client.app.draining = True
    assert (client.get("/readyz").status, client.get("/readyz").code) == (503, "draining")
    assert client.post("/v1/recommend", {"users": [1]}).status == 200
    # Or the next request on the connection might meet its end.
    for route in DOORS:
        assert ask(client, route).headers["connection"] == "close"


def test_who_comes_when_the_queue_is_full_is_told_to_come_again(
    open_app, make_client, bundle, monkeypatch
):
    client = make_client(open_app(bundle, Settings(workers=1, queue=1)))
    gate, recommend = Event(), client.app.watch.current.retriever.recommend

    def slow(*arguments):
        assert gate.wait(PATIENCE)
        return recommend(*arguments)

    monkeypatch.setattr(client.app.watch.current.retriever, "recommend", slow)

    async def three():
        tasks = [
            asyncio.create_task(client.sent("POST", "/v1/recommend", {"users": [1]}))
            for _ in range(3)
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        refused = [task.result() for task in done]
        return refused, await asyncio.gather(*tasks)

    refused, every = client.loop.run_until_complete(three())
    assert [said.code for said in refused] == ["busy"]
    assert refused[0].headers["retry-after"] == "1"
    assert sorted(said.status for said in every) == [200, 200, 503]


def test_an_answer_that_takes_too_long_is_given_up(open_app, make_client, bundle, monkeypatch):
    settings = Settings(workers=1, timeouts=Timeouts(answer=0.05))
    client = make_client(open_app(bundle, settings))
    gate = Event()
    monkeypatch.setattr(
        client.app.watch.current.retriever, "recommend", lambda *_: gate.wait(PATIENCE) and 1 / 0
    )
    try:
        assert client.post("/v1/recommend", {"users": [1]}).code == "busy"
    finally:
        gate.set()


def test_work_whose_waiter_has_gone_is_not_begun():
    begun = []

    async def run():
        workers, gate = Workers(threads=1, queue=9), Event()
        first = workers.submit(gate.wait, PATIENCE)
        second = workers.submit(begun.append, "second")
        second.cancel()
        gate.set()
        await first
        await workers.submit(begun.append, "third")
        assert workers.pending == 0
        workers.close()

    asyncio.run(run())
    assert begun == ["third"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_work_in_a_forked_process_fails_where_it_would_wait_for_ever():
    workers = Workers(threads=1, queue=9)
    child = os.fork()
    if child == 0:
        try:
            workers.submit(len, "abc")
        except ServingError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    workers.close()


def test_work_that_fails_fails_for_its_waiter_alone():
    async def run():
        workers = Workers(threads=1, queue=9)
        with pytest.raises(RequestError):
            await workers.submit(refuse)
        assert await workers.submit(len, "abc") == 3
        workers.close()

    def refuse():
        raise RequestError("busy", "no")

    asyncio.run(run())


def test_the_openapi_document_holds_every_route_with_its_models(client):
    document = client.get("/openapi.json").json
    listed = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(listed) == set(DOORS)
    schemas = document["components"]["schemas"]
    for route in ROUTES:
        operation = listed[route.method, route.path]
        assert ("security" in operation) == (route.token != "none")
        for model in (route.asks, route.answers):
            if model is not None:
                assert set(schemas[model.__name__]["properties"]) == set(model.model_fields)
    limits = client.app.settings.limits
    asked = schemas["RecommendRequest"]["properties"]
    assert asked["k"]["maximum"] == limits.k
    assert "additionalProperties" in schemas["RecommendRequest"]
    assert "x-condition" not in str(document)


def test_what_is_served_is_told_and_counted(client):
    bundle = client.app.watch.current
    client.post("/v1/recommend", {"users": [1, -1]})
    said = client.get("/v1/bundle").json
    assert (said["bundle"], said["retriever"]) == (bundle.id, "two-tower")
    assert "/" not in said["name"]
    text = client.get("/metrics").body.decode()
    assert f'shortlist_bundle_info{{id="{bundle.id}",retriever="two-tower"}} 1.0' in text
    for line in (
        'shortlist_requests_total{route="/v1/recommend",status="200"}',
        'shortlist_stage_seconds_count{stage="parse"}',
        'shortlist_stage_seconds_count{stage="recommend"}',
        'shortlist_stage_seconds_count{stage="encode"}',
        "shortlist_fallback_total",
        "shortlist_queries_total",
    ):
        assert line in text
    client.get("/nowhere/at/all")
    assert "nowhere" not in client.get("/metrics").body.decode()


def test_what_stands_behind_a_path_is_read_or_refused(open_app, make_client, bundle):
    client = make_client(open_app(bundle, Settings(admin_token=ADMIN)), ADMIN)
    assert len(client.get("/v1/users", query="limit=5").json["users"]) == 5
    for method, path, query, said in (
        ("GET", "/v1/users", "limit=5&limit=6", "duplicate key 'limit' in the query string"),
        ("POST", "/v1/recommend", "k=5", "POST of this path takes no query string"),
        ("DELETE", "/v1/users/1", "dry=1", "DELETE of this path takes no query string"),
        ("GET", "/v1/report", "limit=5", "GET of this path takes no query string"),
        ("GET", "/v1/users", "limit=x", 'limit must be a whole number, got "x"'),
        ("GET", "/v1/users", "limt=5", "limt is not a field. Did you mean 'limit'?"),
        ("GET", "/admin/items/changes", "before=0", 'before must be >= 1, got "0"'),
    ):
        answer = client.ask(method, path, query=query)
        assert (answer.code, answer.json["error"]["message"]) == ("invalid_request", said)


def test_a_body_that_nothing_reads_is_refused(open_app, make_client, bundle):
    client = make_client(open_app(bundle, Settings(admin_token=ADMIN)), ADMIN)
    for method, path in (
        ("POST", "/admin/reload"),
        ("DELETE", "/v1/users/1"),
        ("GET", "/v1/report"),
    ):
        for head in ({"content-length": "15"}, {"transfer-encoding": "chunked"}):
            answer = client.ask(method, path, body=b'{"force": true}', headers=head)
            assert answer.code == "invalid_request"
            assert "takes no body" in answer.json["error"]["message"]
    assert client.ask("POST", "/admin/reload", headers={"content-length": "0"}).status == 200
    empty = client.ask("POST", "/admin/reload", body=b"{}", headers={"content-length": "2"})
    assert empty.status == 200
