"""Every store of events: what was acknowledged is there, once, whoever wrote it and reads it."""

import pytest

from shortlist.histories.events import (
    Event,
    EventConflictError,
    Keeping,
    Kept,
    Row,
    Stored,
    features_told,
    written_features,
)
from shortlist.histories.places import events_at, reader_at


@pytest.fixture(params=["file", "redis"])
def place(request, tmp_path):
    """Where a store may be made."""
    if request.param == "file":
        return tmp_path / "events.sqlite"
    return request.getfixturevalue("redis").place()


@pytest.fixture
def opened():
    """Opens stores, and closes them at the end."""
    made = []

    def start(place, **keeping):
        made.append(events_at(place, Keeping(**keeping), 0))
        return made[-1]

    yield start
    for store in made:
        store.close()


def held(place, since=0):
    return [row for part in reader_at(place).parts(since) for row in part]


def test_ids_come_back_as_they_were_and_1_is_not_text_1(place, opened):
    store = opened(place)
    ids = [1, "1", 0, -(2**63), 2**63 - 1, "ü\U0001f600", 'a"\\b\n', "a\x00b", " x", "'; --"]
    for user in ids:
        store.append([[Event(user, item, "click", 5, 0.1, None) for item in ids]])
    for user in ids:
        [found] = store.latest([user], 0, detailed=True)
        assert found.items == ids
        assert list(map(type, found.items)) == list(map(type, ids))
        assert (found.kinds, found.weights) == (["click"] * len(ids), [0.1] * len(ids))
        assert store.latest([user], 0) == [Stored(found.items)]
    assert [(row.user, row.item) for row in held(place)] == [(u, i) for u in ids for i in ids]


def test_a_whole_number_is_a_weight_like_another(place, opened):
    store = opened(place)
    assert store.append([[Event(1, 2, weight=3, id="a"), Event(1, 2, weight=3.0, id="a")]]) == [
        Kept([1, 1], 1)
    ]
    [found] = store.latest([1], 0, detailed=True)
    assert found.weights == [3.0]
    assert [row.weight for row in held(place)] == [3.0]


def test_sequence_numbers_go_up_and_are_never_used_again(place, opened):
    store = opened(place)
    assert store.append([[Event(1, 1)], [Event(2, 1), Event(1, 2)]]) == [
        Kept([1], 0),
        Kept([2, 3], 0),
    ]
    store.forget(1)
    store.close()
    again = opened(place)
    assert again.append([[Event(1, 1)]]) == [Kept([4], 0)]
    assert reader_at(place).until == (store.identity, 4)
    assert again.latest([2], 2) == [Stored([])]
    # Of a user who was deleted all counts, as nothing of theirs in a bundle does.
    assert again.latest([1], 4) == [Stored([1], forgotten=True)]


def test_a_conflict_takes_nothing_of_its_request_and_leaves_the_others(place, opened):
    store = opened(place)
    one, other = Event(1, 5, id="a"), Event(1, 6, id="a")
    said = store.append([[one], [Event(1, 7), other], [one, Event(1, 8)], [other._replace(user=2)]])
    assert [type(answer) for answer in said] == [Kept, EventConflictError, Kept, Kept]
    assert store.latest([1, 2], 0) == [Stored([5, 8]), Stored([6])]


def test_a_user_has_so_many_events_and_what_they_push_out_is_counted(place, opened):
    store = opened(place, of_user=3)
    for item in range(5):
        store.append([[Event(1, item), Event(2, item)]])
    store.append([[Event(3, item) for item in range(9)]])
    assert [one.items for one in store.latest([1, 2, 3], 0)] == [[2, 3, 4], [2, 3, 4], [6, 7, 8]]
    assert store.trimmed == 2 + 2 + 6


def test_several_services_may_share_a_store(place, opened):
    one, other = opened(place), opened(place)
    assert not one.is_changed()
    one.append([[Event(1, 1)]])
    assert other.latest([1], 0) == [Stored([1])]
    assert other.append([[Event(1, 2)]]) == [Kept([2], 0)]
    assert one.latest([1], 0) == [Stored([1, 2])]
    # Each is told of the other's changes, and not of its own.
    assert [one.is_changed(), one.is_changed(), other.is_changed()] == [True, False, True]
    other.forget(1)
    one.append([[Event(3, 1)]])
    assert [one.is_changed(), one.is_changed()] == [True, False]
    one.append([[Event(3, 2)]])
    assert not one.is_changed()


def test_what_came_after_a_number_is_read_in_the_order_in_which_it_came(place, opened):
    store = opened(place, of_user=3)
    for item in range(4):
        store.append([[Event(f"u{item % 2}", item, time=7), Event("v", item, "click", weight=2)]])
    reader = reader_at(place)
    store.append([[Event("late", 1)]])
    found = [row._replace(arrived=0, age=0) for part in reader.parts(4) for row in part]
    assert found == [
        Row("u0", 5, 2, None, 7, None, 0, 0),
        Row("v", 6, 2, "click", None, 2.0, 0, 0),
        Row("u1", 7, 3, None, 7, None, 0, 0),
        Row("v", 8, 3, "click", None, 2.0, 0, 0),
    ]
    assert [row.sequence for row in held(place)] == [1, 3, 4, 5, 6, 7, 8, 9]  # 2 was pushed out
    assert (reader.have_kinds(7), reader.have_kinds(8)) == (True, False)
    assert reader.until == (store.identity, 8)


def test_features_of_an_event_come_back_with_it_and_tell_retries_apart(place, opened):
    store = opened(place)
    told = written_features({"dwell": 3.5, "device": "tv"})
    one = Event(1, 5, features=told, id="a")
    said = store.append([[one, Event(1, 6)], [one], [one._replace(features=None)]])
    assert [type(answer) for answer in said] == [Kept, Kept, EventConflictError]
    assert said[1] == Kept([1], 1)
    [found] = store.latest([1], 0, detailed=True)
    assert (found.items, found.features) == ([5, 6], [told, None])
    assert [row.features for row in held(place)] == [told, None]
    assert features_told(told) == {"device": "tv", "dwell": 3.5}


def test_a_deleted_user_is_in_no_export_and_what_comes_later_is_read(place, opened):
    store = opened(place)
    store.append([[Event(1, 5, id="a"), Event(2, 6)]])
    assert store.forget(1) == 1
    assert [row.user for row in held(place)] == [2]
    # The event id went with the user.
    assert store.append([[Event(1, 7, id="a")]]) == [Kept([3], 0)]
    reader = reader_at(place)
    assert {user: [row.item for row in rows] for user, rows in reader.deleted().items()} == {1: [7]}
    assert [row.sequence for row in held(place, 2)] == [3]
    assert store.forgotten() == [1]
    assert store.forget("nobody") == 0
