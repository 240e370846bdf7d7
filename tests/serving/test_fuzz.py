"""Generated requests: none gets 5xx, none hangs, and each answer is documented."""

import json
import os
import warnings
from functools import cache

import jsonschema_rs
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist.data.readers import read_log
from shortlist.data.schema import Schema
from shortlist.histories.export import LogWriter
from shortlist.histories.sqlite import rows
from shortlist.serving.app import ROUTES
from shortlist.serving.settings import Limits, Settings

FEW = 40
EXAMPLES = int(os.environ.get("SHORTLIST_EXAMPLES", FEW))
"""Of each kind and route; `make fuzz` sets the variable, and draws anew each time."""
TOKEN = "admin-admin-admin-admin"

POSTS = [route.path for route in ROUTES if route.method == "POST" and route.asks is not None]
GETS = [route.path for route in ROUTES if route.method == "GET" and "{" not in route.path]

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= FEW,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


class Counted:
    """A client that counts what it asks."""

    asked = 0

    def __init__(self, inner):
        self.inner, self.app = inner, inner.app

    def ask(self, *arguments, **more):
        Counted.asked += 1
        return self.inner.ask(*arguments, **more)

    def post(self, path, value=None, **more):
        return self.ask("POST", path, value, **more)


@pytest.fixture(scope="module", autouse=True)
def _count(say):
    yield
    if EXAMPLES > FEW:
        say(f"{Counted.asked:,} generated requests")


@pytest.fixture(scope="module")
def client(open_app, make_client, bundle):
    """One that may change the items, in an application of its own."""
    return Counted(make_client(open_app(bundle, Settings(admin_token=TOKEN)), TOKEN))


@pytest.fixture(scope="module")
def writer(open_app, make_client, bundle, tmp_path_factory):
    """One that sends events."""
    limits = Limits(user_events=10**9)
    path = tmp_path_factory.mktemp("events") / "events.sqlite"
    return Counted(
        make_client(
            open_app(bundle, Settings(write_token=TOKEN, events=path, limits=limits)), TOKEN
        )
    )


@pytest.fixture(scope="module")
def blends(open_app, make_client, blend_bundle):
    return Counted(make_client(open_app(blend_bundle, Settings(admin_token=TOKEN)), TOKEN))


@cache
def strategy(document: str, method: str, path: str, positive: bool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tool's own imports
        import schemathesis
        from schemathesis.generation import GenerationMode

        schema = schemathesis.openapi.from_dict(orjson.loads(document))
        mode = GenerationMode.POSITIVE if positive else GenerationMode.NEGATIVE
        return schema[path][method].as_strategy(generation_mode=mode)


def operation(client, method, path, positive):
    document = {**client.app.openapi}
    if method == "POST":  # what a body may be is asked here, what a header may be elsewhere
        document = json.loads(json.dumps(document))
        document["paths"][path]["post"].pop("security")
    return strategy(orjson.dumps(document).decode(), method, path, positive)


def check(client, path, method, said):
    """The answer is documented: its status, and its body by the schema."""
    assert said.status < 500, said
    if said.status != 200:
        assert said.code
        return
    content = client.app.openapi["paths"][path][method.lower()]["responses"]["200"]["content"]
    if "application/json" in content and "schema" in content["application/json"]:
        schema = content["application/json"]["schema"] | {
            "components": client.app.openapi["components"]
        }
        jsonschema_rs.validator_for(schema).validate(said.json)


def some_ids(client):
    """Ids that are known now and then: else nothing behind the first look is ever reached."""
    data = client.app.watch.current.data
    known = [*data.users.ids.head(9).to_list(), *data.items.ids.head(9).to_list()]
    return st.sampled_from(known) | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3)


def conditions():
    values = (
        st.sampled_from(["sea", "crime", 5, 7.5, True]) | st.floats(allow_nan=False) | st.text()
    )
    column = st.sampled_from(["price", "tags", "title", "id", "none"])
    leaf = st.one_of(
        st.fixed_dictionaries({"column": column, "eq": values}),
        st.fixed_dictionaries({"column": column, "in": st.lists(values, max_size=4)}),
        st.fixed_dictionaries({"column": column, "min": st.floats(allow_nan=False) | values}),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"and": st.lists(inner, max_size=3)}),
            st.fixed_dictionaries({"or": st.lists(inner, max_size=3)}),
            st.fixed_dictionaries({"not": inner}),
        ),
        max_leaves=9,
    )


def new_items():
    values = st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.booleans()
    values |= st.lists(values, max_size=3) | st.just(["sea"]) | st.just(7.5)
    ids = st.integers(90_000, 90_020) | values
    columns = {name: values for name in ("price", "tags", "title", "none")}
    return st.fixed_dictionaries({"id": ids}, optional=columns)


def events(ids):
    values = ids | st.none() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=1)
    names = ("kind", "time", "weight", "id", "other")
    texts = st.sampled_from(["click", "e1", "e2", "\x00"])
    return st.fixed_dictionaries(
        {"user": ids, "item": ids},
        optional={name: st.floats(0, 2e9) | texts | values for name in names},
    )


@pytest.fixture(params=["towers", "blend"])
def either(request, client, blends):
    return client if request.param == "towers" else blends


def asked(path, client, writer):
    """Who may ask at a path."""
    return writer if path == "/v1/events" else client


@pytest.mark.parametrize("positive", [True, False], ids=["as documented", "not as documented"])
@pytest.mark.parametrize("path", POSTS)
def test_a_body_made_from_the_document_is_answered_or_refused(client, writer, path, positive):
    client = asked(path, client, writer)

    @many
    @given(operation(client, "POST", path, positive))
    def run(case):
        try:
            body = orjson.dumps(case.body)
        except TypeError:  # what is no JSON at all is another test's matter
            return
        check(client, path, "POST", client.post(path, body=body))

    run()


@pytest.mark.parametrize("path", POSTS)
def test_a_body_near_the_truth_is_answered_or_refused(either, writer, path):
    either = asked(path, either, writer)
    ids = some_ids(either)
    lists = st.lists(ids, max_size=5)
    fields = {
        "/v1/recommend": {
            "users": lists,
            "histories": st.lists(lists, max_size=3),
            "where": conditions(),
            "features": st.dictionaries(
                st.sampled_from(["age", "region", "none"]),
                st.lists(st.none() | st.floats() | st.text(max_size=3) | st.booleans(), max_size=5),
                max_size=2,
            ),
            "quota": st.dictionaries(
                st.sampled_from(["studio", "tags", "title"]),
                st.integers(-1, 400),
                max_size=2,
            ),
            "allow": lists,
            "deny": lists,
            "k": st.integers(-1, 400),
            "exclude_seen": st.booleans(),
        },
        "/v1/events": {"events": st.lists(events(ids), max_size=4)},
        "/v1/similar": {"items": lists, "k": st.integers(-1, 400)},
        "/v1/explain": {"user": ids, "history": lists, "items": lists},
        "/v1/history": {"user": ids, "limit": st.integers(-1, 2000)},
        "/v1/titles": {"items": lists},
        "/admin/items": {
            "add": st.lists(new_items(), max_size=3),
            "remove": lists,
            "restore": lists,
            "id": st.text(max_size=2) | ids,
            "set": st.lists(new_items() | st.fixed_dictionaries({"id": ids}), max_size=3),
            "available": st.lists(
                st.fixed_dictionaries(
                    {"id": ids},
                    optional=dict.fromkeys(("from", "until"), st.none() | st.floats(0, 2e9) | ids),
                ),
                max_size=3,
            ),
        },
        "/admin/items/revert": {"change": st.integers(-1, 9) | ids},
    }[path]

    @many
    @given(st.fixed_dictionaries({}, optional=fields))
    def run(value):
        check(either, path, "POST", either.post(path, value))

    run()


def test_what_is_left_in_the_store_can_be_read_as_a_log(writer):
    either = st.integers(10_001, 10_004) | some_ids(writer)
    fields = st.fixed_dictionaries({"events": st.lists(events(either), min_size=1, max_size=3)})

    @many
    @given(fields)
    def run(value):
        check(writer, "/v1/events", "POST", writer.post("/v1/events", value))

    run()
    stored = list(rows(writer.app.settings.events))
    assert stored
    schema = Schema(time="timestamp", weight="rating")
    data = writer.app.watch.current.data
    log = LogWriter(schema, data, kinds=True)
    found = read_log(log.frame(stored), schema)
    assert (log.written, log.strange) == (len(stored), 0)
    assert found.report.rows_read == len(stored)


@pytest.mark.parametrize("path", POSTS)
def test_bytes_of_any_kind_are_refused(client, writer, path):
    client = asked(path, client, writer)
    fragments = st.sampled_from(
        [
            b'{"users":',
            b"[",
            b"]",
            b"{",
            b"}",
            b'"k"',
            b":",
            b",",
            b"1e9",
            b"null",
            b'"',
            b"\\u0000",
        ]
    )

    @many
    @given(st.binary(max_size=60) | st.lists(fragments, max_size=12).map(b"".join))
    def run(body):
        check(client, path, "POST", client.post(path, body=body))

    run()


@many
@given(data=st.data())
def test_queries_and_paths_of_any_kind_are_answered_or_refused(client, data):
    path = data.draw(st.sampled_from(GETS) | st.text(max_size=20).map(lambda text: f"/{text}"))
    method = data.draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "X"]))
    query = data.draw(st.text(st.characters(codec="ascii"), max_size=30))
    path = path.encode("utf-8", "replace").decode()
    said = client.ask(method, path, query=query)
    assert said.status < 500, said
    if said.status != 200:
        assert said.code


@many
@given(data=st.data())
def test_headers_of_any_kind_are_answered_or_refused(client, data):
    names = st.sampled_from(
        ["content-type", "content-length", "content-encoding", "authorization", "host", "accept"]
    )
    values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
    headers = data.draw(st.dictionaries(names, values))
    said = client.post("/v1/recommend", {"users": [1]}, headers=headers)
    assert said.status < 500, said
    assert said.status == 200 or said.code
