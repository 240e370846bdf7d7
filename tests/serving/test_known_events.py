"""The cache of stored events: valid until a change, and bounded."""

import pytest

from shortlist.histories.events import Event, Stored
from shortlist.histories.sqlite import SQLiteEvents
from shortlist.serving.event_log import EventLog
from shortlist.serving.known_events import KnownEvents
from shortlist.serving.measures import Measures
from shortlist.serving.settings import Settings


def test_users_that_change_are_forgotten_and_1_is_not_text_1():
    known = KnownEvents()
    known.current(changed=False)
    generation = known.generation
    known.put([1, "1", 2], 0, [Stored([5]), Stored([6]), Stored([])], generation)
    assert known.get([2, "1", 1], 0) == [Stored([]), Stored([6]), Stored([5])]
    assert known.get([1], 9) is None
    assert known.get([1, 3], 0) is None
    known.drop(["1"])
    assert known.get([1, 2], 0) == [Stored([5]), Stored([])]
    assert known.get(["1"], 0) is None
    # An answer that was on its way when the user changed is not kept.
    known.put(["1"], 0, [Stored([6])], generation)
    assert known.get(["1"], 0) is None
    known.current(changed=True)
    assert known.get([1], 0) is None


def test_no_more_is_kept_than_said():
    known = KnownEvents(most=10)
    known.current(changed=False)
    for user in range(9):
        known.put([user], 0, [Stored([1, 2, 3])], 0)
    assert [known.get([user], 0) is not None for user in range(9)] == [False] * 7 + [True] * 2


def test_events_that_expire_leave_no_trace_in_what_is_counted():
    known = KnownEvents(most=10)
    known.current(changed=False)
    for _ in range(20):
        for items in ([1, 2, 3, 4], [4]):  # asked again, after three have expired
            known.put([1], 0, [Stored(items)], known.generation)
        known.drop([1])
    known.put([2], 0, [Stored([1, 2, 3, 4, 5])], known.generation)
    assert known.get([2], 0) == [Stored([1, 2, 3, 4, 5])]


def test_what_nobody_has_looked_at_lately_is_not_answered(monkeypatch):
    known = KnownEvents()
    known.current(changed=False)
    known.put([1], 0, [Stored([5])], 0)
    now = known._current
    monkeypatch.setattr("shortlist.serving.known_events.monotonic", lambda: now + 1)
    assert known.get([1], 0) is None


@pytest.fixture
def log(tmp_path):
    made = EventLog(SQLiteEvents(tmp_path / "e.sqlite"), Settings(), Measures())
    yield made
    made.close()


def test_an_event_of_another_process_is_known_when_the_store_was_looked_at(log, monkeypatch):
    monkeypatch.setattr("shortlist.serving.known_events.FRESH", 1e9)
    log._times = log._times.__class__(store=300)
    assert log.latest([1, 2], 0) == [Stored([]), Stored([])]
    other = SQLiteEvents(log.store.path)
    other.append([[Event(1, 7)]])
    assert log.latest([1], 0) == [Stored([])]
    monkeypatch.setattr("shortlist.serving.known_events.FRESH", 0)
    assert log.latest([1], 0) == [Stored([7])]
    other.close()
