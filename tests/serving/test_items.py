"""Items that are added and removed while they are served: at once, for every thread."""

from threading import Event, Thread

import pytest

from patience import PATIENCE, wait_until
from shortlist.bundle.store import verify
from shortlist.serving.settings import Settings

TOKEN = "admin-admin-admin-admin"
SETTINGS = Settings(admin_token=TOKEN)
NEW = {"id": 90_001, "title": "the new one", "tags": ["sea"], "price": 7.5}
USER, TRAINED = 10_001, 500_005


@pytest.fixture
def admin(open_app, make_client, bundle):
    return make_client(open_app(bundle, SETTINGS), TOKEN)


def recommended(client, **asked):
    said = client.post("/v1/recommend", {"users": [USER], "k": 300} | asked)
    assert said.status == 200, said
    return said.json["items"][0]


def test_a_new_item_is_answered_found_by_its_columns_and_called_by_its_title(admin, bundle):
    before = recommended(admin)
    said = admin.post("/admin/items", {"add": [NEW]})
    assert said.json == {
        "bundle": verify(bundle).id,
        "items": 201,
        "removed": 0,
        "change": 1,
        "repeated": False,
        "durable": False,
        "left_out": 0,
    }
    assert set(recommended(admin)) == {*before, NEW["id"]}
    where = {"and": [{"column": "price", "eq": 7.5}, {"column": "tags", "eq": "sea"}]}
    assert NEW["id"] in recommended(admin, where=where)
    assert recommended(admin, allow=[NEW["id"]]) == [NEW["id"]]
    assert admin.post("/v1/titles", {"items": [NEW["id"]]}).json["titles"] == ["the new one"]
    assert NEW["id"] in admin.get("/v1/map").json["items"]


def test_a_removed_item_is_gone_for_strangers_too_and_comes_back(admin):
    popular = admin.post("/v1/recommend", {"histories": [[]], "k": 3}).json["items"][0]
    said = admin.post("/admin/items", {"remove": popular})
    assert (said.json["items"], said.json["removed"]) == (197, 3)
    assert not set(popular) & set(recommended(admin, exclude_seen=False))
    strangers = admin.post("/v1/recommend", {"histories": [[]], "k": 300}).json["items"][0]
    assert not set(popular) & set(strangers)
    admin.post("/admin/items", {"restore": popular})
    assert admin.post("/v1/recommend", {"histories": [[]], "k": 3}).json["items"][0] == popular


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "invalid_request", "give items to add, remove, restore, set or make available"),
        ({"add": [{"id": 90_001}]}, "invalid_request", "none of the features"),
        ({"add": [NEW | {"colour": 1}]}, "invalid_request", "no column 'colour'"),
        ({"add": [NEW | {"id": TRAINED}]}, "invalid_request", "500005 was trained on"),
        ({"add": [NEW | {"price": {"a": 1}}]}, "invalid_request", "price"),
        ({"add": [NEW], "remove": [1]}, "invalid_request", "1 is unknown"),
        ({"remove": ["x"]}, "invalid_request", "remove[0]: item ids of this data are integers"),
        ({"remove": [TRAINED] * 2}, "invalid_request", "given twice"),
        ({"remove": list(range(20_000))}, "invalid_request", "remove"),
        ({"delete": [TRAINED]}, "invalid_request", "delete"),
    ],
)
def test_what_cannot_be_changed_is_refused_whole(admin, body, code, message):
    before = admin.app.watch.current
    said = admin.post("/admin/items", body)
    assert (said.code, message in said.json["error"]["message"]) == (code, True), said
    assert admin.app.watch.current is before


def test_a_bundle_that_places_no_items_says_so_and_hides_those_that_are_removed(
    open_app, make_client, blend_bundle
):
    client = make_client(open_app(blend_bundle, SETTINGS), TOKEN)
    said = client.post("/admin/items", {"add": [NEW]})
    assert (said.status, said.code) == (422, "not_supported")
    before = recommended(client, exclude_seen=False)
    said = client.post("/admin/items", {"remove": [TRAINED]}).json
    assert (said["items"], said["removed"]) == (len(before) - 1, 1)
    assert set(before) - set(recommended(client, exclude_seen=False)) == {TRAINED}
    assert client.post("/admin/items", {"remove": [TRAINED]}).status == 422
    assert client.post("/admin/items", {"restore": [TRAINED]}).status == 200
    assert recommended(client, exclude_seen=False) == before


def test_without_a_bundle_there_are_no_items(open_app, make_client, tmp_path):
    client = make_client(open_app(tmp_path, SETTINGS), TOKEN)
    assert client.post("/admin/items", {"remove": [1]}).code == "not_ready"


def test_a_look_keeps_the_change_and_the_next_bundle_has_it_too(admin, bundle):
    admin.post("/admin/items", {"remove": [TRAINED]})
    assert not admin.app.watch.look(again=True)
    assert TRAINED not in recommended(admin, exclude_seen=False)
    admin.app.watch._seal = ""  # as if another had been published in its place
    assert admin.app.watch.look()
    assert TRAINED not in recommended(admin, exclude_seen=False)


def test_an_item_that_came_and_went_comes_back(admin):
    before = recommended(admin)
    admin.post("/admin/items", {"add": [NEW]})
    admin.post("/admin/items", {"remove": [NEW["id"]]})
    assert recommended(admin) == before
    assert admin.post("/v1/titles", {"items": [NEW["id"]]}).json["titles"] == ["the new one"]
    admin.post("/admin/items", {"restore": [NEW["id"]]})
    assert set(recommended(admin)) == {*before, NEW["id"]}
    admin.post("/admin/items", {"remove": [NEW["id"]]})
    admin.post("/admin/items", {"add": [NEW]})
    assert set(recommended(admin)) == {*before, NEW["id"]}
    assert admin.post("/admin/items/revert", {"change": 1}).json["items"] == 201
    assert admin.post("/admin/items/revert", {"change": 5}).json["items"] == 200


def test_changes_under_load_lose_no_request_and_never_show_half_of_one(running, bundle):
    """Each change takes one item out and puts another one in: an answer has exactly one of them."""
    wrong, seen, stop = [], set(), Event()
    other = NEW | {"id": 90_002}
    headers = {"authorization": f"Bearer {TOKEN}"}
    with running(bundle, SETTINGS) as server:
        wait_until(lambda: server.app.watch.current is not None)

        def change(**items):
            said = server.post("/admin/items", items, headers=headers)
            assert said.status == 200, said

        change(add=[NEW, other])
        change(remove=[other["id"]])

        def load_it():
            pair = {NEW["id"], other["id"]}
            while not stop.is_set():
                said = server.post("/v1/recommend", {"users": [USER, -1], "k": 300})
                if said.status != 200:
                    wrong.append(said)
                    return
                for items in said.json["items"]:
                    found = frozenset(pair & set(items))
                    seen.add(found)
                    if len(found) != 1:
                        wrong.append(found)

        clients = [Thread(target=load_it) for _ in range(2)]
        for thread in clients:
            thread.start()
        here, away = other["id"], NEW["id"]
        for _ in range(20):
            change(remove=[away], restore=[here])
            wait_until(lambda now=here: wrong or frozenset({now}) in seen)
            here, away = away, here
        stop.set()
        for thread in clients:
            thread.join(PATIENCE)
    assert wrong == []
    assert len(seen) == 2
