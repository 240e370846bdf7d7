"""Events: an event is in the next answer, and survives every failure that is tried."""

import asyncio
from dataclasses import replace
from threading import Event as Gate

import polars as pl
import pytest

from answers import assert_same_up_to_rounding
from patience import PATIENCE, PATIENT
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.user_cf import UserCF
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.updates import read_events
from shortlist.errors import EventStoreError, ServingError
from shortlist.histories.events import Watermark
from shortlist.histories.export import LogWriter
from shortlist.histories.places import reader_at
from shortlist.serving.settings import Limits, Settings

READER, WRITER, ADMIN = "reader-reader-reader", "writer-writer-writer", "admin-admin-admin"
USER, OTHER, NEW = 10_001, 10_002, 99_001
ITEMS = [500_001, 500_007, 500_013]


class Shop:
    """An application with a store, and everybody who asks it."""

    def __init__(self, app, make_client):
        self.app = app
        self.reader, self.writer, self.admin = (
            make_client(app, token) for token in (READER, WRITER, ADMIN)
        )

    def send(self, *events, **first):
        sent = {"events": [*([first] if first else []), *events]}
        return self.writer.post("/v1/events", sent)

    def recommend(self, users=(USER,), **asked):
        said = self.reader.post("/v1/recommend", {"users": list(users), "k": 20} | asked)
        assert said.status == 200, said
        return said.json

    def metric(self, line):
        text = self.reader.get("/metrics").body.decode()
        return float(next(one for one in text.splitlines() if one.startswith(line)).split()[-1])


@pytest.fixture
def shop(open_app, make_client, bundle, events_place):
    """Opens a shop over a bundle; the same store of events again where it is opened again."""

    def over(path=bundle, **more):
        tokens = {"token": READER, "write_token": WRITER, "admin_token": ADMIN}
        settings = {"events": events_place, "timeouts": PATIENT} | tokens | more
        return Shop(open_app(path, Settings(**settings)), make_client)

    return over


def rows(shop):
    return [row for part in reader_at(shop.app.settings.events).parts() for row in part]


def stored(shop):
    return [(row.user, row.item) for row in rows(shop)]


@pytest.mark.parametrize("kind", ["towers", "blend"])
def test_the_next_answer_of_a_user_is_that_of_the_bundle_asked_with_the_events(
    kind, shop, bundle, blend_bundle
):
    place = shop(bundle if kind == "towers" else blend_bundle)
    of_each = {USER: ITEMS, OTHER: [], NEW: [*ITEMS, 500_002, *ITEMS]}
    for user, items in of_each.items():
        for item in items:
            assert place.send(user=user, item=item).status == 200
    queries = Queries(list(of_each), recent=list(of_each.values()))
    found = place.app.watch.current.retriever.recommend(queries, 20)
    said = place.recommend(of_each)
    scores = [line[: len(ids)].tolist() for line, ids in zip(found.scores, found.ids, strict=True)]
    assert_same_up_to_rounding((said["items"], said["scores"]), (found.ids, scores))
    assert said["fallback"] == found.fallback.tolist()
    assert not said["without_events"]


def test_what_the_request_itself_holds_comes_after_what_is_stored(shop, fitted):
    place = shop()
    place.send(user=USER, item=ITEMS[0])
    said = place.recommend(recent=[ITEMS[1:]])
    assert said["items"] == fitted.recommend(Queries([USER], recent=[ITEMS]), 20).ids
    history = place.reader.post("/v1/history", {"user": USER}).json
    assert history["items"][-1] == ITEMS[0]
    why = place.reader.post("/v1/explain", {"user": USER, "items": [said["items"][0][0]]}).json
    assert str(ITEMS[0]) in why["reasons"]["because"]


def test_unknown_users_and_items_are_kept_and_no_answer_uses_them(shop):
    place, before = shop(), None
    before = place.recommend([USER, NEW]) | {"requests": None}  # other lists, though equal ones
    assert place.send({"user": USER, "item": 1}, {"user": NEW, "item": 2}).status == 200
    assert place.recommend([USER, NEW]) | {"requests": None} == before
    assert stored(place) == [(USER, 1), (NEW, 2)]


def test_a_repeated_event_id_changes_nothing_and_another_event_of_that_id_is_refused(shop):
    place = shop()
    event = {"user": USER, "item": ITEMS[0], "id": "e-1", "time": 1_700_000_000, "weight": 2}
    first = place.send(event).json
    again = place.send(event, {"user": USER, "item": ITEMS[1], "id": "e-2"}, event).json
    assert (first, again) == (
        {"sequence": [1], "repeated": 0},
        {"sequence": [1, 2, 1], "repeated": 2},
    )
    other = place.send({"user": USER, "item": 3}, event | {"item": ITEMS[2]})
    assert (other.status, other.code) == (422, "invalid_request")
    assert "was used for another event" in other.json["error"]["message"]
    # Each user has ids of their own.
    assert place.send(event | {"user": OTHER}).json["repeated"] == 0
    assert stored(place) == [(USER, ITEMS[0]), (USER, ITEMS[1]), (OTHER, ITEMS[0])]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"user": "a"}, "events[1].user: user ids of this data are integers"),
        ({"item": "a"}, "events[1].item: item ids of this data are integers"),
        ({"time": -1}, "time"),
        ({"time": 1e12}, "time"),
        ({"time": 4_000_000_000}, "ahead of this machine's clock"),
        ({"weight": -1}, "a positive must have a weight of at least 0"),
        ({"weight": 1e300}, "weight"),
        ({"kind": ""}, "kind"),
        ({"kind": "k" * 65}, "kind"),
        ({"id": "k" * 513}, "id"),
        ({"time": "now"}, "time"),
        ({"rating": 5}, "rating"),
    ],
)
def test_an_event_that_no_log_could_hold_is_refused_with_all_beside_it(shop, event, message):
    place = shop()
    good = {"user": USER, "item": ITEMS[0]}
    said = place.send(good, good | event)
    assert (said.status, said.code) == (422, "invalid_request")
    assert message in said.json["error"]["message"]
    assert stored(place) == []
    assert place.metric('shortlist_events_total{outcome="refused"}') == 1


def test_a_user_who_sends_too_many_is_told_to_wait_and_others_are_not(shop):
    place = shop(limits=Limits(user_events=3))
    event = {"user": USER, "item": ITEMS[0]}
    assert place.send(event, event).status == 200
    said = place.send(event, event)
    assert (said.status, said.code, said.headers["retry-after"]) == (429, "too_many", "1")
    assert place.send(event).status == 200
    assert place.send(event | {"user": OTHER}).status == 200
    assert len(stored(place)) == 4


def test_a_slow_store_leaves_its_events_out_of_the_answer_which_says_so(shop, fitted, monkeypatch):
    place, gate = shop(timeouts=replace(PATIENT, store=0.01)), Gate()
    place.send(user=USER, item=ITEMS[0])
    store = place.app.events.store
    latest = store.latest

    def stuck(*asked, **more):
        assert gate.wait(PATIENCE)
        return latest(*asked, **more)

    monkeypatch.setattr(store, "latest", stuck)
    for number in range(3):
        said = place.recommend(recent=[[ITEMS[1]]])
        assert said["without_events"]
        assert said["items"] == fitted.recommend(Queries([USER], recent=[[ITEMS[1]]]), 20).ids
        assert place.metric("shortlist_without_events_total") == number + 1
    gate.set()


def test_a_store_that_is_gone_is_no_loss_in_silence(events_file, shop, fitted, caplog):
    place = shop()
    place.send(user=USER, item=ITEMS[0])
    kept = events_file.rename(events_file.with_name("away"))
    for _ in range(2):
        said = place.send(user=USER, item=ITEMS[1])
        assert (said.status, said.code) == (503, "store_unavailable")
        assert int(said.headers["retry-after"]) >= 1
        assert place.recommend()["items"] == fitted.recommend([USER], 20).ids
    assert place.recommend()["without_events"]
    assert place.metric("shortlist_event_store_up") == 0
    assert sum("is gone" in record.message for record in caplog.records) == 1
    kept.rename(events_file)
    assert place.send(user=USER, item=ITEMS[1]).status == 200
    assert not place.recommend()["without_events"]
    assert place.metric("shortlist_event_store_up") == 1


def test_a_full_disk_is_503_and_nothing_acknowledged_is_lost(events_file, shop):
    place = shop()
    place.send(user=USER, item=ITEMS[0])
    place.app.events.store._write.execute("PRAGMA max_page_count = 1")
    codes = {place.send(*({"user": NEW + n, "item": n} for n in range(300))).code for _ in range(2)}
    assert codes == {"store_unavailable"}
    assert stored(place) == [(USER, ITEMS[0])]
    assert not place.recommend()["without_events"]


def test_the_newest_events_of_all_users_are_listed_and_those_of_a_deleted_one_are_not(shop, fitted):
    place = shop()
    first = {"user": USER, "item": ITEMS[0], "kind": "click", "time": 1_700_000_000, "id": "e-1"}
    place.send(first)
    place.send({"user": OTHER, "item": ITEMS[1]}, first, {"user": NEW, "item": 1})
    place.send(first)  # sent again, it is no new one
    listed = place.reader.get("/v1/events").json
    assert listed["sequence"] == [3, 2, 1]
    assert (listed["users"], listed["items"]) == ([NEW, OTHER, USER], [1, ITEMS[1], ITEMS[0]])
    titles = fitted.data.titles(fitted.data.items.rows(ITEMS[:2]))
    assert listed["titles"] == [None, *titles[::-1]]
    assert listed["kinds"] == [None, None, "click"]
    assert listed["times"][2] == 1_700_000_000
    assert listed["item_change"] == 0
    assert place.reader.get("/v1/events", "limit=1").json["users"] == [NEW]
    assert place.reader.get("/v1/events", "limit=0").code == "invalid_request"
    place.admin.ask("DELETE", f"/v1/users/{OTHER}")
    assert place.reader.get("/v1/events").json["users"] == [NEW, USER]
    place.app.events.store.forget(NEW)  # as another process does
    place.app.events._leave(place.app.events.store.forgotten())  # as whoever tidies finds
    assert place.reader.get("/v1/events").json["users"] == [USER]
    place.send({"user": OTHER, "item": ITEMS[1]})
    assert place.reader.get("/v1/events").json["users"] == [OTHER, USER]
    place.admin.ask("DELETE", f"/v1/users/{OTHER}")  # who came back, and goes again
    assert place.reader.get("/v1/events").json["users"] == [USER]


def test_events_of_a_service_that_keeps_none_are_refused(open_app, make_client, bundle):
    client = make_client(open_app(bundle, Settings(write_token=WRITER, admin_token=ADMIN)), WRITER)
    said = client.post("/v1/events", {"events": [{"user": USER, "item": 1}]})
    assert (said.status, said.code) == (422, "not_supported")
    client.token = ADMIN
    assert client.ask("DELETE", f"/v1/users/{USER}").code == "not_supported"
    client.token = None
    assert client.get("/v1/events").code == "not_supported"


def test_tokens_that_open_two_doors_are_refused():
    with pytest.raises(
        ServingError,
        match=r"token \(SHORTLIST_TOKEN\) and write_token \(SHORTLIST_WRITE_TOKEN\) must differ",
    ):
        Settings(token=READER, write_token=READER)


def test_a_bundle_that_has_learned_from_events_does_not_count_them_again(shop, fitted, tmp_path):
    place = shop()
    place.send(*({"user": USER, "item": item} for item in ITEMS))
    identity = place.app.events.store.identity
    place.app.close()
    for mark, left in (
        (Watermark(identity, 2), ITEMS[2:]),
        (Watermark(identity, 3), []),
        (Watermark("0" * 16, 3), ITEMS),  # of another store: none of these
    ):
        path = tmp_path / f"bundle-{mark}"
        save(fitted, path, watermark=mark)
        assert load(path).watermark == mark
        again = shop(path)
        found = fitted.recommend(Queries([USER], recent=[left]), 20)
        assert again.recommend()["items"] == found.ids
        again.app.close()


def test_events_below_the_smallest_weight_are_met_and_not_liked(shop, split, world, tmp_path):
    schema = Schema(time="timestamp", weight="rating", min_weight=3.0)
    data = Dataset.load(world.interactions, schema=schema).split("leave-last-out")
    popular = Popular().fit(data)
    recipe = {"data": {"interactions": "log.csv", "min_weight": 3.0}}
    save(popular, tmp_path / "bundle", recipe=recipe)
    place = shop(tmp_path / "bundle")
    best = place.recommend([NEW])["items"][0]
    place.send({"user": NEW, "item": best[0], "weight": 1}, {"user": NEW, "item": best[1]})
    assert place.recommend([NEW])["items"][0][0] == best[2]
    history = place.reader.post("/v1/history", {"user": NEW}).json
    assert history["items"] == [best[1]]
    assert best[0] in place.recommend([NEW], exclude_seen=False)["items"][0]
    # What is only left out of lists has no part in an explanation, and does not stop it.
    why = place.reader.post("/v1/explain", {"user": NEW, "items": [best[2]]})
    assert (why.status, why.json["items"]) == (200, [best[2]])


def test_a_weight_is_refused_where_the_log_has_none(shop, world, tmp_path):
    data = Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()
    save(Popular().fit(data), tmp_path / "bundle")
    place = shop(tmp_path / "bundle")
    refused = place.send({"user": NEW, "item": ITEMS[0], "weight": 2})
    assert (refused.status, refused.code) == (422, "invalid_request")
    assert (
        "events[0].weight: the log of the bundle has no weights" in refused.json["error"]["message"]
    )
    assert place.send({"user": NEW, "item": ITEMS[0]}).status == 200


def test_a_stored_event_is_for_what_its_kind_is_for(shop, world, tmp_path):
    marked = world.interactions.with_columns(
        e=pl.when(pl.col("rating") >= 4).then(pl.lit("buy")).otherwise(pl.lit("view"))
    )
    table = {
        "buy": {"target": True},
        "view": {"seen": False},
        "hide": {"history": False},
        "ping": {"drop": True},
    }
    schema = Schema(time="timestamp", event="e", events=table)
    split = Dataset.load(marked, schema=schema).split("leave-last-out")
    # Written as a bundle keeps it, with sorted keys.
    recipe = {
        "data": {"interactions": "log.csv", "event": "e", "events": dict(sorted(table.items()))}
    }
    save(UserCF().fit(split, "all"), tmp_path / "kinds", recipe=recipe)
    place = shop(tmp_path / "kinds")
    model = place.app.watch.current.retriever
    sent = dict(zip(("buy", "view", "hide", "ping"), model.data.items.ids.head(4), strict=True))
    for kind, item in sent.items():
        assert place.send(user=NEW, item=item, kind=kind).status == 200
    recent, kinds = [[sent["buy"], sent["view"]]], [["buy", "view"]]
    told = Queries([NEW], recent=recent, kinds=kinds, met=[[sent["hide"]]])
    said = place.recommend([NEW])["items"]
    assert said == model.recommend(told, 20).ids
    assert not {sent["buy"], sent["hide"]} & set(said[0])
    refused = place.send(user=NEW, item=sent["buy"], kind="purchase")
    assert refused.status == 422
    assert "'purchase' is not a kind of the bundle's log, which has buy" in str(refused.json)
    # An export names the kinds as the log does, and those without one as requests are taken.
    place.send(user=NEW, item=sent["buy"])
    writer = LogWriter(schema, model.data, kinds=False)
    written = writer.frame(rows(place))
    assert written["e"].to_list() == ["buy", "view", "hide", "ping", "view"]
    assert read_events(model.data, written, schema).met == 1


def test_a_deleted_user_is_a_stranger_at_once_and_later_events_are_their_first(
    shop, fitted, tmp_path, bundle
):
    served = tmp_path / "served"
    for name in ("v1", "v2"):
        save(fitted, served / name)
    save(Popular().fit(fitted_without(USER)), served / "v0")
    place = shop(served)
    place.send({"user": USER, "item": ITEMS[0]}, {"user": OTHER, "item": ITEMS[0]})
    said = place.admin.ask("DELETE", f"/v1/users/{USER}")
    assert said.json == {"user": USER, "events": 1, "held_by": ["v1", "v2"]}
    assert stored(place) == [(OTHER, ITEMS[0])]
    stranger = fitted.recommend([NEW], 20)
    assert place.recommend()["items"] == stranger.ids
    assert place.recommend()["fallback"] == [True]
    assert not place.reader.post("/v1/history", {"user": USER}).json["known"]
    listed = place.reader.get("/v1/users", f"search={USER}").json
    assert (listed["users"], listed["total"]) == ([], 0)
    place.send(user=USER, item=ITEMS[1])
    place.app.close()
    again = shop(served)  # the same after a restart
    found = fitted.recommend(Queries([NEW], recent=[[ITEMS[1]]]), 20)
    assert again.recommend()["items"] == found.ids


def fitted_without(user):
    log = pl.DataFrame(
        {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3] * 2, "time": [1, 2, 3] * 2}
    )
    return Dataset.load(log, schema=Schema(time="time")).split("leave-last-out")


def test_a_deleted_user_is_a_stranger_also_while_the_store_is_away(events_file, shop, fitted):
    place = shop()
    place.admin.ask("DELETE", f"/v1/users/{USER}")
    events_file.rename(events_file.with_name("away"))
    said = place.recommend()
    assert said["without_events"]
    assert said["items"] == fitted.recommend([NEW], 20).ids


def test_a_deleted_user_is_in_no_list_of_similar_users(shop, split, tmp_path):
    save(UserToUser(dim=8, epochs=1, seed=1).fit(split), tmp_path / "bundle")
    place = shop(tmp_path / "bundle")
    near = place.reader.post("/v1/similar", {"users": [USER], "k": 5}).json["users"][0]
    place.admin.ask("DELETE", f"/v1/users/{near[1]}")
    said = place.reader.post("/v1/similar", {"users": [USER], "k": 5}).json
    assert said["users"][0] == [near[0], *near[2:]]
    assert len(said["scores"][0]) == 4


@pytest.mark.parametrize("user", ["a", "", "1.5", "%zz", "1/2", "9" * 40])
def test_a_user_to_delete_that_is_no_id_is_refused(shop, user):
    said = shop().admin.ask("DELETE", f"/v1/users/{user}")
    assert said.status in (404, 405, 422), said


def test_events_come_from_many_at_once_and_each_is_kept_once(shop):
    place = shop(limits=Limits(user_events=10_000))

    async def storm():
        sent = [
            place.writer.sent(
                "POST", "/v1/events", {"events": [{"user": USER, "item": n, "id": f"e{n % 50}"}]}
            )
            for n in range(100)
        ]
        return await asyncio.gather(*sent)

    said = place.writer.loop.run_until_complete(storm())
    assert sorted({answer.status for answer in said}) == [200, 422]
    assert len(stored(place)) == 50
    kept = [answer.json["sequence"][0] for answer in said if answer.status == 200]
    assert sorted(kept) == list(range(1, 51))


def test_a_store_within_a_bundle_is_refused(shop, bundle, snapshot):
    before = snapshot(bundle)
    with pytest.raises(EventStoreError, match="would lie in the bundle"):
        shop(events=bundle / "events.sqlite")
    assert snapshot(bundle) == before


def test_a_store_that_is_damaged_keeps_a_service_from_starting(events_file, shop):
    place = shop()
    place.send(user=USER, item=ITEMS[0])
    place.app.close()
    events_file.write_bytes(events_file.read_bytes()[:5000])
    with pytest.raises(EventStoreError, match="is damaged"):
        shop()


def test_an_event_is_in_the_next_answer_although_the_last_one_knew_none(shop, monkeypatch):
    monkeypatch.setattr("shortlist.serving.known_events.FRESH", 1e9)  # however busy the machine is
    place = shop()
    for number, item in enumerate(ITEMS):
        history = place.reader.post("/v1/history", {"user": NEW}).json
        assert history["items"] == ITEMS[:number]
        place.send(user=NEW, item=item)
