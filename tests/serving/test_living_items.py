"""Prices, stock, titles and time windows of served items: at once, whole, kept, reverted."""

import http.client
import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import polars as pl
import pytest

from patience import PATIENCE, wait_until
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.transitions import Transitions
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.predicates import parse
from shortlist.data.schema import Schema
from shortlist.histories.events import Watermark
from shortlist.histories.items import COLUMN, REMOVED, WINDOW, InEffect, ItemValue
from shortlist.histories.places import items_at
from shortlist.histories.sqlite import SQLiteEvents
from shortlist.serving import item_changes
from shortlist.serving.living import with_changes
from shortlist.serving.served import Served
from shortlist.serving.settings import Settings

GOLDEN = Path(__file__).parents[1] / "bundle" / "golden"
TOKEN = "admin-admin-admin-admin"
USER, A, B, C = 10_001, 500_005, 500_006, 500_007


@pytest.fixture
def durable(events_place):
    return Settings(admin_token=TOKEN, write_token=TOKEN[::-1], events=events_place)


@pytest.fixture
def shop(open_app, make_client, blend_bundle):
    """Nothing of this bundle has learned from a column of the items."""
    return make_client(open_app(blend_bundle, Settings(admin_token=TOKEN)), TOKEN)


@pytest.fixture
def tower(open_app, make_client, bundle):
    """The item tower of this bundle reads tags and price; nothing reads studio and title."""
    return make_client(open_app(bundle, Settings(admin_token=TOKEN)), TOKEN)


def change(client, **asked):
    said = client.post("/admin/items", asked)
    assert said.status == 200, said
    return said.json


def revert(client, number):
    said = client.post("/admin/items/revert", {"change": number})
    assert said.status == 200, said
    return said.json


def recommended(client, **asked):
    asked = {"users": [USER], "k": 300, "exclude_seen": False} | asked
    said = client.post("/v1/recommend", asked)
    assert said.status == 200, said
    return said.json["items"][0]


def priced(client, least, most):
    return set(recommended(client, where={"column": "price", "min": least, "max": most}))


# Columns.


def test_a_price_is_filtered_by_at_once_whatever_was_asked_before(shop, world):
    """Every mask and code was made before, and none of them is used again."""
    prices = dict(world.items.select("item_id", "price").iter_rows())
    candidates = recommended(shop)
    draw, made = random.Random(3), []
    for _ in range(12):
        if made and draw.random() < 0.3:
            number, before = made.pop()  # the newest, so what was before holds again
            revert(shop, number)
            prices |= before
        else:
            now = {item: draw.choice([None, 2.5, 30, 31.25]) for item in draw.sample(candidates, 9)}
            rows = [{"id": item, "price": price} for item, price in now.items()]
            made.append((change(shop, set=rows)["change"], {item: prices[item] for item in now}))
            prices |= now
        for least, most in ((0, 5), (30, 40)):
            wanted = {i for i in candidates if prices[i] is not None and least <= prices[i] <= most}
            assert priced(shop, least, most) == wanted


@pytest.mark.parametrize("which", ["shop", "tower"])
def test_quotas_titles_and_reasons_know_the_change(which, request):
    client = request.getfixturevalue(which)
    best = recommended(client, k=6)
    asked = {"k": 6, "quota": {"studio": 1}}
    assert len(recommended(client, **asked)) == 6
    said = change(client, set=[{"id": item, "studio": "one", "title": "T"} for item in best])
    assert (said["left_out"], said["repeated"], said["durable"]) == (0, False, False)
    assert [item for item in recommended(client, **asked) if item in best] == best[:1]
    assert set(recommended(client, where={"column": "studio", "eq": "one"})) == set(best)
    assert client.post("/v1/titles", {"items": best}).json["titles"] == ["T"] * 6
    assert recommended(client, k=6) == best
    revert(client, said["change"])
    assert recommended(client, where={"column": "studio", "eq": "one"}) == []


def test_a_column_that_was_learned_from_is_refused_for_trained_items_with_the_reason(
    tower, open_app, make_client, split, tmp_path
):
    transitions = Transitions(attribute="studio", attribute_weight=0.5)
    channels = {"lists": Inverted(attribute="tags"), "next": transitions, "ease": EASE()}
    options = {"quotas": dict.fromkeys(channels, 1)}
    save(Blend(channels, **options).fit(split), tmp_path / "bundle")
    reading = make_client(open_app(tmp_path / "bundle", Settings(admin_token=TOKEN)), TOKEN)
    for client, column, value, reader in (
        (tower, "price", 3, "two-tower"),
        (tower, "tags", ["sea"], "two-tower"),
        (reading, "tags", ["sea"], "lists"),
        (reading, "studio", "x", "next"),
    ):
        served = client.app.watch.current
        rows = [{"id": A, "title": "new"}, {"id": B, column: value}]
        said = client.post("/admin/items", {"set": rows})
        assert (said.status, said.code) == (422, "invalid_request")
        assert (
            f"item {B} was trained on, and {reader} has learned from the column '{column}'"
            in (said.json["error"]["message"])
        )
        assert client.app.watch.current is served
    assert change(reading, set=[{"id": B, "price": 3.5}])["left_out"] == 0


def test_an_item_that_features_place_changes_as_a_whole(tower):
    new = {"id": 90_001, "title": "new", "tags": ["sea"], "price": 7.5, "studio": "s"}
    change(tower, add=[new, new | {"id": 90_002}])
    scores = {
        USER: tower.post("/v1/recommend", {"users": [USER], "allow": [90_001]}).json["scores"]
    }
    for wrong in ({"price": "x"}, {"price": 1e30}, {"price": None, "tags": []}, {"colour": 1}):
        said = tower.post("/admin/items", {"set": [{"id": 90_001, "title": "?"} | wrong]})
        assert said.code == "invalid_request", wrong
    change(tower, set=[{"id": 90_001, "studio": "t", "title": "newer", "price": 2}])
    assert recommended(tower, where={"column": "studio", "eq": "t"}) == [90_001]
    moved = tower.post("/v1/recommend", {"users": [USER], "allow": [90_001]}).json["scores"]
    assert moved != scores[USER]  # it is placed by its price
    change(tower, add=[new | {"price": 8}])  # a whole new row: the studio is the old one again
    assert recommended(tower, where={"column": "studio", "eq": "t"}) == []
    assert recommended(tower, where={"column": "price", "eq": 8}) == [90_001]
    assert tower.post("/v1/titles", {"items": [90_001]}).json["titles"] == ["new"]


def test_an_item_of_the_catalogue_changes_in_what_does_not_place_it(
    open_app, make_client, world, world_schema, tmp_path
):
    log = world.interactions.filter(world.interactions["item_id"] != C)
    split = Dataset.load(log, items=world.items, schema=replace(world_schema, user_features=()))
    fitted = TwoTower(dim=8, epochs=1, seed=1).fit(split.split())
    save(fitted, tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle", Settings(admin_token=TOKEN)), TOKEN)
    said = client.post("/admin/items", {"set": [{"id": C, "price": 3}]})
    assert "give the whole item to `add`" in said.json["error"]["message"]
    change(client, set=[{"id": C, "studio": "t"}])
    assert recommended(client, where={"column": "studio", "eq": "t"}) == [C]


def test_a_catalogue_with_a_column_of_dates_takes_dates(world, open_app, make_client, tmp_path):
    items = world.items.select("item_id", day=pl.lit("2026-01-01").str.to_date())
    split = Dataset.load(world.interactions, items=items, schema=Schema(time="timestamp"))
    save(EASE().fit(split.split()), tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle", Settings(admin_token=TOKEN)), TOKEN)
    change(client, set=[{"id": A, "day": "2026-03-01"}, {"id": B, "day": None}])
    assert recommended(client, where={"column": "day", "min": "2026-02-01"}) == [A]
    said = client.post("/admin/items", {"set": [{"id": A, "day": "soon"}]})
    assert "column 'day'" in said.json["error"]["message"]


KINDS = sorted(
    path.parent for path in max(GOLDEN.iterdir(), key=lambda one: one.name).glob("*/manifest.json")
)


@pytest.mark.parametrize("path", KINDS, ids=lambda path: path.name)
def test_every_kind_of_retriever_answers_as_before_but_for_what_changed(path):
    served = Served(load(path), path, 0.0)
    items = served.data.items

    def answer(changed, now=0.0, **more):
        asked = {"histories": [items.ids.head(4).to_list()], "exclude_seen": False, **more}
        found = changed.recommend(Queries(**asked, rows=changed.available(now)), 20)
        return items.external(found.rows[found.rows > 0]).to_list()

    before = answer(served)
    best = before[0]

    def changed(*values):
        made = with_changes(served, InEffect(1, [ItemValue(best, *value) for value in values]))
        assert made.left_out == ()
        return made

    dearer = changed((f"{COLUMN}studio", 1, "mine"), (WINDOW, 1, [None, 5.0]))
    assert answer(dearer) == before
    assert answer(dearer, where=parse({"column": "studio", "eq": "mine"})) == [best]
    assert answer(dearer, now=5.0) == answer(served, deny=[best])
    assert best not in answer(changed((REMOVED, 1, True)))
    assert answer(changed((REMOVED, 1, False))) == before


# Windows.


def test_an_item_is_available_between_two_moments_without_any_request(tower, shop):
    for client in (tower, shop):
        now = [1000.0]
        client.app.service.clock = lambda now=now: now[0]
        everything = recommended(client)
        first, second = everything[:2]
        change(
            client,
            available=[{"id": first, "from": 2000, "until": 3000}, {"id": second, "until": 2500.5}],
        )
        for moment, hidden in (
            *((1000, {first}), (1999.9, {first}), (2000, set()), (2500.4, set())),
            *((2500.5, {second}), (3000, {first, second}), (9e9, {first, second})),
            (1000, {first}),  # a clock that was set back
        ):
            now[0] = moment
            left = recommended(client, deny=list(hidden))
            assert recommended(client) == left
            assert set(left) == set(everything) - hidden
            assert recommended(client, k=2) == left[:2]
            assert recommended(client, allow=[first]) == [first] * (first not in hidden)
            strangers = client.post("/v1/recommend", {"histories": [[]], "k": 300}).json
            assert not hidden & set(strangers["items"][0])
            assert len(strangers["items"][0]) == len(everything) - len(hidden)
            similar = {"items": [everything[5]], "k": 300}
            found = client.post("/v1/similar", similar).json["items"][0]
            assert not hidden & set(found)
            assert client.post("/v1/similar", similar | {"k": 3}).json["items"][0] == found[:3]
        said = change(client, available=[{"id": first}, {"id": second}])
        assert recommended(client) == everything
        revert(client, said["change"])
        assert recommended(client) == left


def test_where_nothing_is_available_nothing_is_answered_and_the_service_stays(tower):
    everything = recommended(tower)
    change(tower, available=[{"id": item, "until": 5} for item in everything])
    assert recommended(tower) == []
    assert tower.post("/v1/similar", {"items": [A], "k": 5}).json["items"] == [[]]
    assert tower.get("/v1/map").code == "not_supported"
    change(tower, available=[{"id": A}])
    assert recommended(tower) == [A]
    assert tower.get("/v1/map").json["items"] == [A]


# Once, and listed.


def test_a_change_under_its_id_is_made_once(shop):
    asked = {"id": "p-1", "set": [{"id": A, "price": 30}], "remove": [B]}
    assert change(shop, **asked)["change"] == 1
    change(shop, set=[{"id": A, "price": 31}])
    again = change(shop, **asked)
    assert (again["change"], again["repeated"]) == (1, True)
    assert priced(shop, 30, 40) == priced(shop, 31, 31) == {A}
    said = shop.post("/admin/items", asked | {"remove": []})
    assert "'p-1' was used for another change" in said.json["error"]["message"]


def test_changes_are_listed_newest_first_and_what_was_taken_back_is_said(shop):
    change(shop, id="one", set=[{"id": A, "price": 30, "title": None}])
    change(shop, remove=[B], available=[{"id": C, "from": 5, "until": 6}])
    revert(shop, 1)
    assert revert(shop, 1)["repeated"]
    listed = shop.get("/admin/items/changes").json
    assert (listed["change"], listed["durable"], listed["left_out"]) == (3, False, [])
    assert shop.get("/v1/bundle").json["item_change"] == 3
    third, second, first = listed["changes"]
    assert (third["reverts"], first["reverted"], first["id"]) == (1, 3, "one")
    assert [(v["item"], v["part"], v["value"]) for v in second["values"]] == [
        (B, "(removed)", True),
        (C, "(available)", [5, 6]),
    ]
    assert first["values"] == [
        {"item": A, "part": "price", "value": 30},
        {"item": A, "part": "title", "value": None},
    ]
    older = shop.get("/admin/items/changes", query="before=2&limit=5").json["changes"]
    assert [one["change"] for one in older] == [1]
    for query in ("before=x", "before=0", "limit=0", "limit=100000", "more=1"):
        said = shop.get("/admin/items/changes", query=query)
        assert said.code == "invalid_request"
    for number in (0, 3, 99, "1", 1.0, 2**63):
        said = shop.post("/admin/items/revert", {"change": number})
        assert said.code == "invalid_request", said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"set": [{"id": A}]}, "has no column to change"),
        ({"set": [{"id": A, "id ": 1}]}, "no column 'id '"),
        ({"set": [{"id": A, "prise": 1}]}, "Did you mean 'price'"),
        ({"set": [{"price": 1}]}, "expected an item with its 'id'"),
        ({"set": [{"id": None, "price": 1}]}, "expected an item with its 'id'"),
        ({"set": [{"id": True, "price": 1}]}, "expected an item with its 'id'"),
        ({"set": [{"id": str(A), "price": 1}]}, "item ids of this data are integers"),
        ({"set": [{"id": 2**63, "price": 1}]}, "too large"),
        ({"set": [{"id": 2**64, "price": 1}]}, "expected an item with its 'id'"),
        ({"set": [{"id": 1, "price": 1}]}, "1 is unknown"),
        ({"set": [{"id": A, "price": "cheap"}]}, "price"),
        ({"set": [{"id": A, "price": True}]}, "price"),
        ({"set": [{"id": A, "price": {"x": 1}}]}, "price"),
        ({"set": [{"id": A, "price": 2**70}]}, "price"),
        ({"set": [{"id": A, "title": 5}]}, "title"),
        ({"set": [{"id": A, "tags": [["sea"]]}]}, "tags"),
        ({"set": [{"id": A, "tags": ["sea", 5]}]}, "tags"),
        ({"set": [{"id": A, "price": 1}, {"id": A, "title": "x"}]}, "given twice"),
        ({"set": [{"id": A, "price": 1}], "id": ""}, "id"),
        ({"set": [{"id": A, "price": 1}], "id": "x" * 1000}, "id"),
        ({"set": {"id": A}}, "set"),
        ({"add": [{"id": A, "price": 1}], "set": [{"id": A, "price": 1}]}, "is in two lists"),
        ({"remove": [A], "restore": [A]}, "is in two lists"),
        ({"restore": [A]}, "was not removed"),
        ({"available": [{"id": 1, "from": 5}]}, "1 is unknown"),
        ({"available": [{"id": A, "from": 5, "until": 5}]}, "must end after it begins"),
        ({"available": [{"id": A, "from": "2026-01-01"}]}, "available[0].from"),
        ({"available": [{"id": A, "from": -1}]}, "available[0].from"),
        ({"available": [{"id": A, "until": 1e12}]}, "available[0].until"),
        ({"available": [{"id": A, "since": 5}]}, "available[0].since"),
        ({"available": [{"from": 5}]}, "available[0].id"),
        ({"available": [{"id": A}, {"id": A}]}, "given twice"),
    ],
)
def test_what_cannot_be_changed_is_refused_whole(shop, body, message):
    before = shop.app.watch.current
    said = shop.post("/admin/items", {"set": [], "remove": []} | body)
    assert (said.status, said.code) == (422, "invalid_request"), said
    assert message in said.json["error"]["message"]
    good = {"set": [{"id": C, "price": 1}, *body.get("set", [])]} if "set" in body else body
    if isinstance(body.get("set", []), list):
        assert shop.post("/admin/items", {"remove": [B]} | body | good).status == 422
    assert shop.app.watch.current is before
    assert shop.get("/admin/items/changes").json["changes"] == []


def test_a_value_of_many_levels_is_refused(shop):
    for levels in (10, 300, 900):
        nested = "[" * levels + "]" * levels
        body = f'{{"set":[{{"id":{A},"title":{nested}}}]}}'
        said = shop.post("/admin/items", body=body.encode())
        assert 400 <= said.status < 500, said


# Kept, and shared.


def test_changes_survive_the_process_and_every_process_of_the_machine_has_them(
    open_app, make_client, blend_bundle, durable
):
    one, other = (make_client(open_app(blend_bundle, durable), TOKEN) for _ in range(2))
    said = change(one, id="p", set=[{"id": A, "price": 30}], available=[{"id": B, "until": 1}])
    assert said["durable"]
    assert priced(other, 30, 30) == set()
    other.app.watch.follow()
    assert priced(other, 30, 30) == {A}
    assert B not in recommended(other)
    # Sent to the other as well it is not made again; and one made of an old state is made anew.
    assert change(other, **{"id": "p", "set": [{"id": A, "price": 30}]} | said_of(B))["repeated"]
    change(one, remove=[C])
    refused = other.post("/admin/items", {"remove": [C]})
    assert "is not among the candidates" in refused.json["error"]["message"]
    assert change(other, set=[{"id": A, "price": 31}])["change"] == 3
    assert C not in recommended(other)
    one.app.watch.follow()
    assert priced(one, 31, 31) == {A}
    revert(other, 3)
    one.app.watch.follow()
    third = make_client(open_app(blend_bundle, durable), TOKEN)
    for client in (one, other, third):
        assert priced(client, 30, 31) == {A}
        assert not {B, C} & set(recommended(client))
    answers = [
        client.post("/v1/recommend", {"users": [USER], "k": 50}).json | {"requests": None}
        for client in (one, third)
    ]
    assert answers[0] == answers[1]


def said_of(item):
    return {"available": [{"id": item, "until": 1}]}


def test_a_change_that_another_process_comes_between_is_looked_at_again(
    open_app, make_client, blend_bundle, durable, monkeypatch
):
    one, other = (make_client(open_app(blend_bundle, durable), TOKEN) for _ in range(2))
    tried, between = item_changes.ItemChanges._tried, [{"remove": [A]}, {"remove": [B]}]

    def slow(self, *arguments):
        made = tried(self, *arguments)
        if self is one.app.items and between:
            change(other, **between.pop())
        return made

    monkeypatch.setattr(item_changes.ItemChanges, "_tried", slow)
    said = one.post("/admin/items", {"remove": [B], "set": [{"id": C, "price": 30}]})
    assert "is not among the candidates" in said.json["error"]["message"]
    assert change(one, set=[{"id": C, "price": 30}])["change"] == 3
    assert not {A, B} & set(recommended(one))
    assert priced(one, 30, 30) == {C}


def test_a_store_that_is_gone_changes_nothing_and_the_service_goes_on(
    events_file, open_app, make_client, blend_bundle, durable
):
    client = make_client(open_app(blend_bundle, durable), TOKEN)
    change(client, set=[{"id": A, "price": 30}])
    events_file.unlink()
    for path, body in (
        ("/admin/items", {"set": [{"id": A, "price": 31}]}),
        ("/admin/items", {"id": "x", "set": [{"id": A, "price": 31}]}),
        ("/admin/items/revert", {"change": 1}),
    ):
        said = client.post(path, body)
        assert (said.status, said.code) == (503, "store_unavailable")
    assert client.get("/admin/items/changes").code == "store_unavailable"
    client.app.watch.follow()
    client.app.watch._seal = ""
    assert client.app.watch.look()  # a new bundle gets the changes that are known
    assert priced(client, 30, 40) == {A}


PROGRAM = """
import sys
from shortlist.histories.places import place_of
from shortlist.serving.run import serve
from shortlist.serving.settings import Settings, Timeouts
settings = Settings(
    events=place_of(sys.argv[2]), admin_token="admin-admin-admin-admin", write_token="w" * 20,
    timeouts=Timeouts(head=300, body=300, answer=300),
)
serve(sys.argv[1], port=0, settings=settings,
      ready=lambda address: sys.stdout.write(address + "\\n") or sys.stdout.flush())
"""


def test_an_acknowledged_change_is_there_after_a_kill(open_app, make_client, blend_bundle, durable):
    command = [sys.executable, "-c", PROGRAM, str(blend_bundle), str(durable.events)]
    acknowledged = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        port = int(child.stdout.readline().rpartition(":")[2])

        def send():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
            price = 100
            while True:
                rows = [{"id": item, "price": price} for item in (A, B)]
                try:
                    body = json.dumps({"id": str(price), "set": rows})
                    connection.request("POST", "/admin/items", body, headers)
                    answer = connection.getresponse()
                    said = json.loads(answer.read())
                except (OSError, http.client.HTTPException):
                    connection.close()
                    return
                if answer.status != 503:  # no bundle is loaded yet
                    assert answer.status == 200, said
                    acknowledged.append((said["change"], price))
                    price += 1

        sender = Thread(target=send)
        sender.start()
        wait_until(lambda: len(acknowledged) >= 5)
        child.send_signal(signal.SIGKILL)
        sender.join(PATIENCE)
    if isinstance(durable.events, Path):
        SQLiteEvents(durable.events).close()
    store = items_at(durable.events)
    kept = {one.number: {v.value for v in one.values} for one in store.changes(2**62, 10**6, 10**6)}
    store.close()
    assert all(len(values) == 1 for values in kept.values())  # no half of one
    # One more than was heard of may be there; ten values of an item are kept.
    assert set(acknowledged[-5:]) <= {(number, price) for number, (price,) in kept.items()}
    client = make_client(open_app(blend_bundle, durable), TOKEN)
    newest = max(price for (price,) in kept.values())
    assert newest - acknowledged[-1][1] in (0, 1)
    assert priced(client, 100, 10**9) == priced(client, newest, newest) == {A, B}


# New bundles.


def test_the_next_bundle_has_the_changes_and_what_does_not_fit_it_is_said(
    open_app, make_client, world, world_schema, bundle, durable, tmp_path
):
    client = make_client(open_app(bundle, durable), TOKEN)
    new = {"id": 90_001, "title": "new", "tags": ["sea"], "price": 7.5, "studio": "x"}
    change(client, add=[new, new | {"id": 90_002}], remove=[A])
    change(client, set=[{"id": item, "studio": "mine"} for item in (B, C, 90_002)])
    change(client, available=[{"id": C, "until": 5}, {"id": B, "from": 5}])
    assert recommended(client, where={"column": "studio", "eq": "mine"}) != []
    # The next one was trained with item 90001, without item C, and its table has no studios.
    log = world.interactions.filter(world.interactions["item_id"] != C)
    log = log.with_columns(log["item_id"].replace({500_009: 90_001}))
    items = world.items.filter(world.items["item_id"] != C).drop("studio")
    items = items.with_columns(items["item_id"].replace({500_009: 90_001}))
    split = Dataset.load(log, users=world.users, items=items, schema=world_schema).split()
    options = {"dim": 16, "epochs": 1, "batch_size": 128, "seed": 1}
    trained = TwoTower(**options).fit(split)
    save(trained, tmp_path / "next")
    other = make_client(open_app(tmp_path / "next", durable), TOKEN)
    there = recommended(other)
    assert {90_001, 90_002, B} <= set(there)
    assert not {A, C} & set(there)
    listed = other.get("/admin/items/changes").json
    said = {(one["change"], one["item"], one["reason"].split(".")[0]) for one in listed["left_out"]}
    assert said == {
        (2, 90_002, "the items table has no column 'studio'"),
        (2, B, "the items table has no column 'studio'"),
        (2, C, f"item {C} is unknown"),
        (3, C, f"item {C} is unknown"),
    }
    assert listed["total_left_out"] == len(said)
    text = other.get("/metrics").body.decode()
    assert f"shortlist_item_changes_left_out {len(said)}.0" in text
    # One whose table holds the changes up to the second gets the third alone.
    store = items_at(durable.events)
    mark = Watermark(store.identity, 2)
    store.close()
    save(trained, tmp_path / "knows", items_watermark=mark)
    knows = make_client(open_app(tmp_path / "knows", durable), TOKEN)
    there = recommended(knows)
    assert A in there
    assert 90_002 not in there
    left_out = knows.get("/admin/items/changes").json["left_out"]
    assert {one["change"] for one in left_out} == {3}


def test_a_bundle_that_learned_an_item_from_events_alone_knows_it_by_the_row_that_was_sent(
    open_app, make_client, world, world_schema, bundle, durable, tmp_path
):
    new = {"id": 90_001, "title": "new", "tags": ["sea"], "price": 7.5, "studio": "x"}
    change(make_client(open_app(bundle, durable), TOKEN), add=[new])
    log = world.interactions.with_columns(
        world.interactions["item_id"].replace({500_009: new["id"]})
    )
    split = Dataset.load(log, items=world.items, schema=replace(world_schema, user_features=()))
    save(EASE().fit(split.split()), tmp_path / "next")
    client = make_client(open_app(tmp_path / "next", durable), TOKEN)
    assert client.app.watch.current.left_out == ()
    assert client.post("/v1/titles", {"items": [90_001]}).json["titles"] == ["new"]
    assert recommended(client, where={"column": "studio", "eq": "x"}) == [90_001]


def test_changes_events_and_swaps_at_once_never_show_half_of_a_change(
    running, blended, durable, tmp_path
):
    """Each change gives two items each other's studio: every answer has exactly one of them."""
    served = tmp_path / "served"
    served.mkdir()
    save(blended, served / "v1")
    wrong, seen, bundles, stop = [], set(), set(), Event()
    admin = {"authorization": f"Bearer {TOKEN}"}
    writer = {"authorization": f"Bearer {durable.write_token}"}
    settings = replace(durable, poll=0.05)
    with running(served, settings) as server:
        wait_until(lambda: server.app.watch.current is not None)

        def swap(first, second):
            rows = [{"id": A, "studio": first}, {"id": B, "studio": second}]
            said = server.post("/admin/items", {"set": rows}, headers=admin)
            assert said.status == 200, said

        swap("mine", "yours")

        def load_it():
            asked = {"users": [USER, -1], "k": 300, "exclude_seen": False}
            asked["where"] = {"column": "studio", "eq": "mine"}
            while not stop.is_set():
                said = server.post("/v1/recommend", asked)
                if said.status != 200:
                    wrong.append(said)
                    return
                bundles.add(said.json["bundle"])
                for items in said.json["items"]:
                    seen.add(tuple(items))
                    if items not in ([A], [B]):
                        wrong.append(items)

        def send():
            number = 0
            while not stop.is_set():
                events = [{"user": USER, "item": number, "id": str(number)}]
                said = server.post("/v1/events", {"events": events}, headers=writer)
                if said.status not in (200, 429):
                    wrong.append(said)
                    return
                number += 1

        threads = [Thread(target=work) for work in (load_it, load_it, send)]
        for thread in threads:
            thread.start()
        studios = ["yours", "mine"]
        for number in range(20):
            swap(*studios)
            wanted = (A,) if studios[0] == "mine" else (B,)
            seen.discard(wanted)
            wait_until(lambda wanted=wanted: wrong or wanted in seen)
            studios.reverse()
            if number in (5, 12):
                findings = [{"check": str(number)}]
                save(blended, served / f"v{number}", findings=findings)
                wait_until(lambda n=number: server.app.watch.current.name == f"v{n}")
        wait_until(lambda: wrong or len(bundles) == 3)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert wrong == []
