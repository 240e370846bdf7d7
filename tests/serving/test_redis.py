"""Services that share a Redis server: they agree, and go on while it is away."""

import logging
from threading import Event as Gate
from threading import Thread

import pytest

from patience import PATIENCE, PATIENT, wait_until
from shortlist.asking.queries import Queries
from shortlist.errors import EventStoreError, QueryError
from shortlist.histories import redis_server
from shortlist.histories.places import reader_at
from shortlist.serving.settings import Limits, Settings

READER, WRITER, ADMIN = "reader-reader-reader", "writer-writer-writer", "admin-admin-admin"
USER, OTHER, NEW = 10_001, 10_002, 99_001
ITEMS = [500_001, 500_007, 500_013]
TOKENS = {"token": READER, "write_token": WRITER, "admin_token": ADMIN}


class Replica:
    """A service, and everybody who asks it."""

    def __init__(self, app, make_client):
        self.app = app
        self.reader, self.writer, self.admin = (
            make_client(app, token) for token in (READER, WRITER, ADMIN)
        )

    def send(self, *events):
        return self.writer.post("/v1/events", {"events": list(events)})

    def recommend(self, user=USER, **asked):
        said = self.reader.post("/v1/recommend", {"users": [user], "k": 20} | asked)
        assert said.status == 200, said
        return said.json

    def history(self, user=USER):
        return self.reader.post("/v1/history", {"user": user}).json


@pytest.fixture
def replicas(open_app, make_client, bundle):
    """Opens services over one place."""

    def over(place, count=1, path=bundle, **more):
        settings = Settings(**({"events": place, "timeouts": PATIENT} | TOKENS | more))
        return [Replica(open_app(path, settings), make_client) for _ in range(count)]

    return over


def test_services_see_each_others_events_and_deletions_within_the_poll(replicas, redis, fitted):
    one, other = replicas(redis.place(), 2)
    assert other.history(NEW)["items"] == []
    event = {"user": NEW, "item": ITEMS[0], "id": "a"}
    assert one.send(event).json == {"sequence": [1], "repeated": 0}
    assert other.send(event).json == {"sequence": [1], "repeated": 1}
    assert other.send(event | {"item": ITEMS[1]}).status == 422
    other.send({"user": NEW, "item": ITEMS[1]})
    for each in (one, other):
        wait_until(lambda each=each: each.history(NEW)["items"] == ITEMS[:2])
        found = fitted.recommend(Queries([NEW], recent=[ITEMS[:2]]), 20)
        assert each.recommend(NEW)["items"] == found.ids
    assert one.admin.ask("DELETE", f"/v1/users/{USER}").json["events"] == 0
    wait_until(lambda: not other.history(USER)["known"])
    assert other.recommend()["items"] == fitted.recommend([NEW - 1], 20).ids


def test_services_see_each_others_changes_of_items(replicas, redis, blend_bundle):
    one, other = replicas(redis.place(), 2, blend_bundle)
    said = one.admin.post("/admin/items", {"set": [{"id": ITEMS[0], "price": 9_999}]}).json
    assert said["durable"]
    other.app.watch.follow()
    asked = {"where": {"column": "price", "min": 9_999}, "exclude_seen": False}
    assert other.recommend(**asked)["items"] == [[ITEMS[0]]]
    # One that knows a change learns of another store that has as many.
    redis.client.delete(*redis.client.keys(f"{one.app.settings.events.prefix}:*"))
    one.app.watch.follow()
    one.admin.post("/admin/items", {"set": [{"id": ITEMS[1], "price": 9_999}]})
    other.app.watch.follow()
    assert other.recommend(**asked)["items"] == [[ITEMS[1]]]


def test_all_services_together_take_so_many_events_of_a_user(replicas, redis):
    one, other = replicas(redis.place(), 2, limits=Limits(user_events=3))
    event = {"user": USER, "item": ITEMS[0]}
    assert one.send(event, event).status == 200
    said = other.send(event, event)
    assert (said.status, said.code) == (429, "too_many")
    assert f"user {USER} may send at most 3 events per minute" in said.json["error"]["message"]
    assert other.send(event | {"user": OTHER}).status == 200


def test_a_server_that_is_away_or_held_is_no_loss_in_silence(
    replicas, own_redis, fitted, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, "shortlist.serving")
    monkeypatch.setattr(redis_server, "WAIT", 0.2)
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    [place] = replicas(server.place())
    event = {"user": USER, "item": ITEMS[0], "id": "a"}
    place.send(event)
    for away, back in ((server.kill, server.start), (server.hold, server.let_go)):
        away()
        for _ in range(2):
            said = place.send({"user": USER, "item": ITEMS[1], "id": "b"})
            assert (said.status, said.code) == (503, "store_unavailable")
            recent = place.recommend(recent=[[ITEMS[2]]])
            assert recent["without_events"]
            assert recent["items"] == fitted.recommend(Queries([USER], recent=[[ITEMS[2]]]), 20).ids
        change = {"set": [{"id": ITEMS[0], "title": "new"}]}
        assert place.admin.post("/admin/items", change).code == "store_unavailable"
        assert place.admin.ask("DELETE", f"/v1/users/{OTHER}").code == "store_unavailable"
        assert "shortlist_event_store_up 0" in place.reader.get("/metrics").body.decode()
        back()
        wait_until(lambda: not place.recommend()["without_events"])
        assert place.send(event).json == {"sequence": [1], "repeated": 1}
        # A server that was held may have kept what it did not answer, so that ids are sent again.
        place.send({"user": USER, "item": ITEMS[1], "id": "b"})
        assert place.history()["items"][-2:] == ITEMS[:2]
    assert "shortlist_event_store_up 1" in place.reader.get("/metrics").body.decode()
    told = [record.message for record in caplog.records if record.name == "shortlist.serving"]
    assert sum("cannot be reached" in line for line in told) <= 6
    assert any("the store of events is available again" in line for line in told)


def test_a_server_dies_and_returns_under_load_and_nothing_acknowledged_is_lost_or_doubled(
    running, own_redis, bundle
):
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    settings = Settings(
        events=server.place(), write_token=WRITER, limits=Limits(user_events=10**9), poll=0.1
    )
    acknowledged, unavailable, stop, wrong = {}, [], Gate(), []
    headers = {"authorization": f"Bearer {WRITER}"}
    with running(bundle, settings) as service:
        service.app.watch.look()

        def send(client):
            number = 0
            while not stop.is_set():
                event = {"user": client, "item": number, "id": f"{client}-{number}"}
                said = service.post("/v1/events", {"events": [event]}, headers=headers)
                if said.status == 503:
                    unavailable.append(client)
                elif said.status == 200:
                    acknowledged[client, number] = said.json["sequence"][0]
                    number += 1
                else:
                    wrong.append(said)
                asked = service.post("/v1/recommend", {"users": [USER], "k": 5})
                if asked.status != 200:
                    wrong.append(asked)

        threads = [Thread(target=send, args=(client,)) for client in range(1, 5)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before + 20 or wrong)
            refused = len(unavailable)
            server.kill()
            wait_until(lambda refused=refused: len(unavailable) > refused + 8 or wrong)
            server.start()
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 20 or wrong)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert wrong == []
    there = [row for part in reader_at(settings.events).parts() for row in part]
    kept = {(row.user, row.item): row.sequence for row in there}
    assert len(kept) == len(there)
    assert acknowledged.items() <= kept.items()


def test_what_the_server_promises_is_said_once_when_a_service_starts(replicas, own_redis, caplog):
    caplog.set_level(logging.INFO, "shortlist.serving")
    server = own_redis("--requirepass", "hidden-password")
    place = server.place(password="hidden-password")
    replicas(place)
    [told] = [record for record in caplog.records if "events are kept in" in record.message]
    assert (told.levelname, "can be lost when the server ends" in told.message) == ("WARNING", True)
    assert "hidden-password" not in caplog.text + repr(Settings(events=place))


def test_a_service_whose_server_is_away_does_not_start(replicas, own_redis):
    server = own_redis()
    server.kill()
    with pytest.raises(EventStoreError, match="cannot be reached"):
        replicas(server.place())


def test_the_command_line_reads_an_address_behind_events(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from shortlist.cli.app import app

    monkeypatch.setenv("SHORTLIST_WRITE_TOKEN", WRITER)
    for sent in (["--events", "redis://h/x"], ["--events=redis://h/x"]):
        said = CliRunner().invoke(app, ["serve", *sent, str(tmp_path)])
        assert isinstance(said.exception, QueryError)
        assert "names the database 'x'" in str(said.exception)
    file = ["--events-file", "e.sqlite"]
    for sent, wanted in (
        (["--events", "redis://h/0", *file], "in one place"),
        ([*file, "--events=redis://h/0"], "in one place"),
        (["--events", "redis://h/0", "--events-sync", "full"], "--events-sync full is for a store"),
    ):
        said = CliRunner().invoke(app, ["serve", *sent, str(tmp_path)])
        assert isinstance(said.exception, QueryError)
        assert wanted in str(said.exception)
