"""Clicks on lists: planted clicks are found again, and the alarms are raised."""

import logging
from dataclasses import replace
from math import inf
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from patience import PATIENT, wait_until
from shortlist.bundle.bundle import save
from shortlist.errors import EventStoreError, ServingError
from shortlist.histories.events import Event, Kept
from shortlist.histories.sqlite import rows
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.serving import feedback as feedback_module
from shortlist.serving.alarms import Alarms, ClickThrough, Fallback, Guards
from shortlist.serving.feedback import REMEMBERED, WINDOW, Feedback, ReadId
from shortlist.serving.measures import Family, _Kept
from shortlist.serving.request_ids import RequestIds, Shown, marks_of
from shortlist.serving.settings import Settings

WRITER = "writer-writer-writer"
KNOWN, STRANGER = 10_001, 99_001


@pytest.fixture
def settings(tmp_path):
    return Settings(events=tmp_path / "events.sqlite", write_token=WRITER, timeouts=PATIENT)


class Shop:
    """A service with a store: asks it, and clicks."""

    def __init__(self, app, make_client):
        self.app = app
        self.reader, self.writer = make_client(app), make_client(app, WRITER)

    def recommend(self, *users, k=20):
        said = self.reader.post("/v1/recommend", {"users": list(users), "k": k})
        assert said.status == 200, said
        return said.json

    def click(self, item, request, user=KNOWN, **more):
        sent = {"user": user, "item": item, "request": request} | more
        return self.writer.post("/v1/events", {"events": [sent]})

    def feedback(self):
        said = self.reader.get("/v1/feedback")
        assert said.status == 200, said
        return said.json

    def metrics(self):
        lines = self.reader.get("/metrics").body.decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("shortlist_"): float(value) for name, _, value in pairs}


@pytest.fixture
def shop(open_app, make_client, bundle, settings):
    def over(path=bundle, **more):
        return Shop(open_app(path, replace(settings, **more)), make_client)

    return over


def test_planted_clicks_are_found_again_in_metrics_and_figures(running, blend_bundle, settings):
    with running(blend_bundle, settings) as service:
        headers = {"authorization": f"Bearer {WRITER}"}

        def send(item, request, name=None, user=KNOWN):
            event = {"user": user, "item": item, "id": name, "request": request}
            event = {key: value for key, value in event.items() if value is not None}
            said = service.post("/v1/events", {"events": [event]}, headers=headers)
            assert said.status == 200, said

        lists = []
        for _ in range(4):
            asked = {"users": [KNOWN, STRANGER], "k": 20}
            lists.append(service.post("/v1/recommend", asked).json)
        first, second, third, _ = lists
        ids = [name for said in lists for name in said["requests"]]
        assert len(set(ids)) == 8
        place = dict(enumerate(first["items"][0], start=1))
        send(place[1], first["requests"][0], "e-1")
        send(place[1], first["requests"][0], "e-1")  # a retry
        send(place[1], first["requests"][0], "e-2")  # it was clicked, and then bought
        send(place[12], first["requests"][0])  # two of one list
        send(777_777, second["requests"][0])  # not shown
        send(third["items"][1][2], third["requests"][1], user=STRANGER)
        send(place[2], None)
        said = service.app.feedback.columns()
        text = service.app.measures.text().decode()

    rows = dict(
        zip(
            zip(said["figures"]["by"], said["figures"]["value"], strict=True),
            zip(*list(said["figures"].values())[2:], strict=True),
            strict=True,
        )
    )
    # lists, items, clicked lists, clicks, of them shown, recall@10, recall@100, recall
    everything = (8, 160, 2, 4, 3, 2 / 4, 3 / 4, 3 / 4)
    assert rows["all", ""] == everything
    assert rows["bundle", first["bundle"][:16]] == everything
    assert rows["fallback", "false"] == everything  # its channel of popular items knows strangers
    assert rows["slice", "none"] == (4, 80, 1, 1, 1, 1.0, 1.0, 1.0)
    assert rows["slice", "20 and more"] == (4, 80, 1, 3, 2, 1 / 3, 2 / 3, 2 / 3)
    assert said["requests"] == {"known": 5, "late": 0, "unknown": 0, "none": 1}
    by_channel = {value: row for (by, value), row in rows.items() if by == "channel"}
    assert sum(row[1] for row in by_channel.values()) == 160
    wanted = dict.fromkeys(by_channel, 0)
    for channel in (
        first["channels"][0][0],
        first["channels"][0][11],
        third["channels"][1][2],
    ):
        wanted[channel] += 1
    assert {name: row[3] for name, row in by_channel.items()} == wanted
    for line in (
        'shown_lists_total{by="all",value=""} 8.0',
        'clicked_lists_total{by="all",value=""} 2.0',
        'clicks_total{by="all",place="1-10",value=""} 2.0',
        'clicks_total{by="all",place="11-100",value=""} 1.0',
        'clicks_total{by="fallback",place="none",value="false"} 1.0',
        'event_requests_total{request="none"} 1.0',
        'alarm{guard="click_through"} 0.0',
    ):
        assert f"shortlist_{line}" in text, line
    assert "shortlist_index_recall" not in text  # the index is exact
    assert not {KNOWN, STRANGER} & {float(word) for word in text.split() if word.isdecimal()}


def test_a_click_may_come_to_another_process_and_after_a_restart(shop, tmp_path):
    place = shop()
    said = place.recommend(KNOWN)
    other = shop(events=tmp_path / "other.sqlite")
    other.click(said["items"][0][3], said["requests"][0])
    assert other.metrics()['clicks_total{by="all",place="1-10",value=""}'] == 1
    stranger = shop(events=tmp_path / "third.sqlite", write_token="another-another-another")
    stranger.writer.token = "another-another-another"
    assert stranger.click(said["items"][0][3], said["requests"][0]).status == 200
    assert stranger.metrics()['event_requests_total{request="unknown"}'] == 1
    assert stranger.feedback()["figures"]["by"] == []


@pytest.mark.parametrize(("late", "what"), [(WINDOW, "known"), (WINDOW + 2, "late")])
def test_a_click_counts_for_a_day_after_its_list(late, what, shop):
    place = shop()
    place.app.feedback.clock = lambda: 1_700_000_000.0
    said = place.recommend(KNOWN)
    place.app.feedback.clock = lambda: 1_700_000_000.0 + late
    assert place.click(said["items"][0][0], said["requests"][0]).status == 200
    assert place.feedback()["requests"][what] == 1


def test_hostile_ids_are_refused_in_a_sentence_and_store_nothing(shop):
    place = shop()
    good = place.recommend(KNOWN)["requests"][0]
    bad = ["", "x", "=", good[:-1], good[1:], good + "A", good + "=", f" {good}", "é" * 90]
    bad += ["A" * 80, "A" * 8_193, "\0" * 90, good.replace(good[5], "+"), 7, ["x"], {}, "-_" * 999]
    for request in bad:
        said = place.click(500_001, request)
        assert (said.status, said.code) == (422, "invalid_request"), request
        assert "events[0].request" in said.json["error"]["message"]
    assert list(rows(place.app.settings.events)) == []
    # A changed letter is the id of nobody: the event counts, and the list does not.
    for at in range(1, len(good) - 1, 7):
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        assert place.click(500_001 + at, changed).status in (200, 422)
    assert place.feedback()["requests"]["known"] == 0
    assert set(place.feedback()["figures"]["clicks"]) == {0}


def test_events_of_a_kind_that_no_answer_reads_are_no_clicks(shop, split, tmp_path):
    from shortlist.channels.counting.popular import Popular

    recipe = {"data": {"interactions": "log.csv", "weight": "rating", "min_weight": 4}}
    save(Popular().fit(split), tmp_path / "rated", recipe=recipe)
    place = shop(tmp_path / "rated")
    said = place.recommend(KNOWN)
    one, other = said["items"][0][:2]
    assert place.click(one, said["requests"][0], weight=2).status == 200
    assert place.click(other, said["requests"][0], weight=5).status == 200
    assert place.feedback()["figures"]["clicks"][0] == 1


def test_what_is_remembered_of_a_hundred_thousand_lists_is_bounded(monkeypatch, shop):
    monkeypatch.setattr(feedback_module, "REMEMBERED", 500)
    place = shop()
    served = place.app.watch.current
    feedback = Feedback(place.app.settings)
    event = feedback_module.Event(KNOWN, 500_001)
    marks = marks_of([500_001])
    for number in range(100_000):
        shown = Shown(0, number.to_bytes(8), f"{number % 50:016x}", False, 0, marks)
        feedback.happened(served, [event], [ReadId("known", shown)], Kept([number + 1], 0))
    assert feedback.remembered == 500 < REMEMBERED
    figures = feedback.columns()["figures"]
    named = dict(
        zip(zip(figures["by"], figures["value"], strict=True), figures["clicks"], strict=True)
    )
    assert len(named) == 3 + 2
    assert named["bundle", served.id[:16]] == 0
    assert named["bundle", "(others)"] == 100_000


def test_clicks_on_lists_of_older_bundles_take_no_figures_from_newer_ones(settings):
    feedback, event = Feedback(settings), Event(KNOWN, 500_001)
    found = SimpleNamespace(fallback=[False])

    def served(hour):
        about = {"id": f"{hour:016x}", "kinds_of_events": {}, "min_weight": None}
        return SimpleNamespace(**about, channel_numbers=lambda _: ((), [b""]))

    def click(request, hour):
        told = ReadId("known", feedback.ids.read(request))
        feedback.happened(served(hour), [event], [told], Kept([1], 0))

    lists = []
    for hour in range(10):  # each has a bundle of its own, and a click on a list of five hours ago
        lists += feedback.shown(served(hour), found, [[event.item]], [0])
        if hour >= 5:
            click(lists[hour - 5], hour)
    for request in lists[6:]:
        click(request, 9)
    figures = feedback.columns()["figures"]
    rows = zip(*(figures[name] for name in ("by", "value", "lists", "clicks")), strict=True)
    own = {value: counts for by, value, *counts in rows if by == "bundle"}
    newest = {f"{hour:016x}": [1, 1] for hour in range(6, 10)}
    assert own == {"(others)": [0, 5], **newest}


def test_an_id_tells_the_places_and_channels_of_long_lists():
    ids = RequestIds(WRITER)
    items = [*range(1, 1_200)]
    channels = ("near", "漢字")
    by = bytes(item % 2 for item in items)
    shown = Shown(5, ids.nonce(), "0" * 16, True, 3, marks_of(items), channels, by)
    again = RequestIds(WRITER).read(ids.write(shown))
    assert again.place(1) == 1
    assert again.place(1_000) == 1_000
    assert again.place(1_001) == 0  # further down than an id tells
    assert (again.channel(1), again.channel(2)) == ("漢字", "near")
    assert (again.fallback, again.slice, again.made_at) == (True, 3, 5)
    assert RequestIds(WRITER + "2").read(ids.write(shown)) is None


class Forgetful(ExactIndex):
    """An index that finds the second half of what it should."""

    is_exact = False

    def search(self, queries, k, **more):
        found = super().search(queries, 2 * k, **more)
        return Hits(found.ids[:, k // 2 : k // 2 + k], found.scores[:, k // 2 : k // 2 + k])


def test_a_bad_index_raises_the_alarm_once_and_an_exact_one_is_not_compared(shop, caplog):
    place = shop(guards=Guards(check=1.0))
    check = place.app.feedback.check
    place.recommend(KNOWN)
    assert (check.compared, check.skipped) == (0, 0)
    assert "index_recall" not in place.metrics()
    retriever = place.app.watch.current.retriever
    bad = Forgetful(retriever.similarity).build(*retriever.placed_vectors())
    place = shop(guards=Guards(check=1.0))
    place.app.watch.current.retriever.index = bad
    feedback = place.app.feedback
    feedback.check._stop.wait = lambda _: False  # no rest
    with caplog.at_level(logging.INFO, "shortlist.serving"):
        for number in range(25):
            place.recommend(KNOWN)
            wait_until(lambda done=number + 1: feedback.check.compared == done)
            wait_until(lambda: not feedback.check._busy.locked())
    assert [line for line in caplog.messages if "alarm" in line] == [
        "alarm index_recall: the index finds 0.500 of what an exact scan finds"
    ]
    measured = place.metrics()
    assert measured["index_recall"] == 0.5
    assert measured['alarm{guard="index_recall"}'] == 1
    assert measured['index_checks_total{outcome="compared"}'] == 25
    assert place.feedback()["alarms"] == ["index_recall"]
    feedback.check._busy.acquire()  # one is compared: others are passed over
    place.recommend(KNOWN)
    place.reader.post("/v1/recommend", {"users": [KNOWN] * 33, "k": 5})
    assert place.metrics()['index_checks_total{outcome="skipped"}'] == 2
    other = SimpleNamespace(id="another", approximate=False)  # a bundle with an exact index
    feedback.answered(other, None, 1, retriever.recommend([KNOWN], 1))
    assert place.feedback()["alarms"] == []
    assert "index_recall" not in place.metrics()
    assert feedback.check._exact is None


def test_a_fall_of_click_through_is_said_once_and_so_is_its_end(caplog):
    alarms = Alarms()
    guard = ClickThrough(0.5, alarms, now=0.0)
    with caplog.at_level(logging.INFO, "shortlist.serving"):
        now = 0.0
        for share in (0.1, 0.1, 0.04, 0.03, 0.1, 0.06):  # of 1,000 lists, in ten minutes
            now += 601
            guard.take(1_000, 1_000 * share, now)
            if share == 0.04:
                assert alarms.raised["click_through"]
                guard.take(0, 1, now)  # too early to say more
    assert [line.split(":")[0] for line in caplog.messages] == [
        "alarm click_through",
        "alarm click_through is over",
    ]
    assert "0.0400 of 1000 lists were clicked, 0.1000 before" in caplog.messages[0]
    # A burst without any click yet, in less than ten minutes, is no fall.
    guard = ClickThrough(0.5, fresh := Alarms(), now=0.0)
    guard.take(1_000, 100, 601)
    guard.take(9_000, 0, 602)
    assert not fresh.raised["click_through"]


def test_too_many_popular_lists_raise_the_alarm(shop, caplog):
    place = shop()
    times = iter(range(0, 100_000, 1))
    place.app.feedback.clock = lambda: 1e9 + next(times)
    place.app.feedback._fallback._block.begun = 1e9
    for user in (STRANGER, KNOWN):
        for _ in range(40):
            place.recommend(*[user] * 10)
        assert place.feedback()["alarms"] == (["fallback"] if user == STRANGER else [])
    for value in ("true", "false"):
        assert place.metrics()[f'shown_lists_total{{by="fallback",value="{value}"}}'] == 400
    lines = [line for line in caplog.messages if line.startswith("alarm fallback: ")]
    assert len(lines) == 1
    guard = Fallback(1.0, quiet := Alarms(), now=0.0)  # never
    guard.take(1_000, 1_000, 100.0)
    assert not quiet.raised["fallback"]


def test_a_store_that_cannot_write_raises_the_alarm_until_it_can(shop, monkeypatch):
    place = shop()
    append = place.app.events.store.append

    def fails(_):
        raise EventStoreError("the disk is full")

    monkeypatch.setattr(place.app.events.store, "append", fails)
    assert place.click(500_001, None).status == 503
    assert place.feedback()["alarms"] == ["store"]
    monkeypatch.setattr(place.app.events.store, "append", append)
    assert place.click(500_001, None).status == 200
    assert place.feedback()["alarms"] == []


def test_answers_without_a_store_have_no_ids_and_are_guarded(open_app, make_client, bundle):
    client = make_client(open_app(bundle))
    assert "requests" not in client.post("/v1/recommend", {"users": [KNOWN]}).json
    assert client.get("/v1/feedback").json["figures"]["lists"] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fallbak=1"], "fallback"),
        (["fallback"], "NAME=NUMBER"),
        (["fallback=x"], "NAME=NUMBER"),
        (["fallback=2"], "from 0 to 1"),
        (["check=nan"], "from 0 to 1"),
        (["check=0.1", "check=0.2"], "twice"),
    ],
)
def test_a_guard_that_is_none_is_refused(given, said):
    with pytest.raises(ServingError, match=said):
        Guards.parse(given)
    assert Guards.parse(["index-recall=0.95", "check = 0"]) == Guards(index_recall=0.95, check=0.0)


def test_a_guard_of_clicks_is_refused_where_no_events_come():
    with pytest.raises(ServingError, match="without a store"):
        Settings(guards=Guards(click_through=0.3))
    Settings(guards=Guards(fallback=0.3))


def test_a_gauge_that_a_process_tells_no_more_counts_for_nothing_among_several(tmp_path):
    def told(recall):
        family = Family("recall", "Of an index.", (), "gauge", "min")
        family.samples += [] if recall is None else [((), recall)]
        return [family]

    kept = [_Kept(tmp_path, number) for number in (1, 2)]
    found = CollectorRegistry()
    MultiProcessCollector(found, str(tmp_path))
    steps = [(0, 0.5, 0.5), (1, 0.8, 0.5), (0, None, 0.8), (1, None, inf), (0, 0.5, 0.5)]
    for place, recall, least in steps:
        kept[place].write(told(recall))
        assert found.get_sample_value("shortlist_recall") == least
    kept.append(_Kept(tmp_path, 1))  # the process that takes the place of the first
    kept[-1].write(told(None))
    assert found.get_sample_value("shortlist_recall") == inf
    for file in [file for each in kept for file in each._files.values()]:
        file.close()
