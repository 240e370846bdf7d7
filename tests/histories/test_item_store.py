"""Changes of items in the store: numbered, stored once and whole, and reverted."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from shortlist.errors import EventStoreError
from shortlist.histories import damage, items
from shortlist.histories.damage import checksum
from shortlist.histories.events import Event, Stored
from shortlist.histories.items import ChangeConflictError, ItemValue, KeptChange, SQLiteItems
from shortlist.histories.redis_items import RedisItems
from shortlist.histories.redis_server import RedisPlace
from shortlist.histories.sqlite import SQLiteEvents, rows
from shortlist.histories.tables import MAGIC, VERSIONS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.sqlite"


@pytest.fixture(params=["file", "redis"])
def place(request, path):
    return path if request.param == "file" else request.getfixturevalue("redis").place()


@pytest.fixture
def opened():
    made = []

    def start(place=None):
        redis = isinstance(place, RedisPlace)
        made.append(RedisItems(place) if redis else SQLiteItems(place))
        return made[-1]

    yield start
    for store in made:
        store.close()


def price(item, value):
    return ItemValue(item, "column price", 0, value)


def change(store, *values, id_=None):
    return store.append(values, id_, store.number())


def held(store):
    return {(value.item, value.part): value.value for value in store.in_effect().values}


def test_the_newest_value_holds_and_survives_the_process(place, opened):
    store = opened(place)
    odd = ["ü\U0001f600", None, 0.1, 2**63 - 1, [1, "x"], {"a\x00": True}]
    assert change(store, price(1, 3), price("1", 4)) == KeptChange(1, repeated=False)
    change(store, *(ItemValue(n, "x", 0, value) for n, value in enumerate(odd)))
    change(store, price(1, 5))
    store.close()
    again = opened(place)
    assert held(again) == {(1, "column price"): 5, ("1", "column price"): 4} | {
        (n, "x"): value for n, value in enumerate(odd)
    }
    assert (again.number(), again.durable, opened().durable) == (3, True, False)


def test_a_change_under_a_known_id_is_made_once_and_another_one_is_refused(place, opened):
    store = opened(place)
    change(store, price(1, 3), id_="a")
    change(store, price(1, 4))
    assert change(store, price(1, 3), id_="a") == KeptChange(1, repeated=True)
    assert held(store) == {(1, "column price"): 4}
    with pytest.raises(ChangeConflictError, match="'a' was used for another change"):
        change(store, price(1, 5), id_="a")
    assert store.number() == 2
    store.revert(1)
    with pytest.raises(ChangeConflictError, match="was taken back by change 3"):
        change(store, price(1, 3), id_="a")


def test_a_change_that_was_not_made_of_the_newest_state_is_not_kept(place, opened):
    one, other = opened(place), opened(place)
    seen = other.number()
    change(one, price(1, 3))
    assert other.append([price(1, 4)], None, seen) is None
    assert held(other) == {(1, "column price"): 3}
    assert change(other, price(1, 4)).number == 2
    assert (one.number(), held(one)) == (2, held(other))


def test_a_change_taken_back_leaves_what_was_before_and_what_came_later(place, opened):
    store = opened(place)
    change(store, price(1, 1), price(2, 1))
    change(store, price(1, 2), price(2, 2))
    change(store, price(2, 3))
    assert store.revert(2) == KeptChange(4, repeated=False)
    assert store.revert(2) == KeptChange(4, repeated=True)
    assert held(store) == {(1, "column price"): 1, (2, "column price"): 3}
    for number, said in ((9, "there is no change 9"), (4, "change 4 took back change 2")):
        with pytest.raises(ChangeConflictError, match=said):
            store.revert(number)
    listed = store.changes(2**62, 10, 2)
    assert [(one.number, one.undoes, one.undone) for one in listed] == [
        (4, 2, None),
        (3, None, None),
        (2, None, 4),
        (1, None, None),
    ]
    assert [(one.total, len(one.values)) for one in listed] == [(0, 0), (1, 1), (2, 1), (2, 0)]


def test_ten_values_of_a_part_are_kept_and_the_one_in_effect(place, opened, monkeypatch):
    store = opened(place)
    change(store, price(1, 0))
    for value in range(1, 15):
        store.revert(change(store, price(1, value)).number)
    assert held(store) == {(1, "column price"): 0}
    for value in range(100, 115):
        change(store, price(1, value))
    kept = [one.values for one in store.changes(2**62, 100, 100) if one.values]
    assert [values[0].value for values in kept] == list(range(114, 104, -1))
    # Changes of which nothing is kept go when they are old; numbers are never used again.
    last = store.number()
    assert len(store.changes(2**62, 100, 0)) == last
    store.close()
    monkeypatch.setattr(items, "DAYS", -1.0)
    again = opened(place)
    # A file is looked through when it is opened; of a server some changes at each new one.
    for value in range(8):
        change(again, price(2, value))
    left = again.changes(2**62, 100, 0)
    assert [one.number for one in left] == [*range(last + 8, last - 10, -1)]
    assert {one.total for one in left} == {1}


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_older_version_gets_the_new_tables_and_keeps_its_events(
    version, path, opened
):
    row = [7, 1, 8, None, None, None, 5, 0]
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(VERSIONS[version].tables)
        file.execute(f"PRAGMA application_id = {MAGIC}")
        file.execute(f"PRAGMA user_version = {version}")
        about = {"items": 0} if version > 1 else {}
        about |= {"identity": "00c0ffee00c0ffee", "last": 1, "age": 0, "seen": 0, "changes": 1}
        file.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        file.execute(f"INSERT INTO events VALUES ({', '.join('?' * 9)})", (*row, checksum(row)))
    assert [row.item for row in rows(path)] == [8]  # before anybody has opened it to write
    events, store = SQLiteEvents(path), opened(path)
    assert events.latest([7], 0) == [Stored([8])]
    change(store, price(1, 3))
    events.append([[Event(7, 9)]])
    events.close()
    assert held(opened(path)) == {(1, "column price"): 3}


def test_a_change_that_another_process_makes_during_the_check_is_no_damage(
    path, opened, monkeypatch
):
    other, check = opened(path), damage._check_items
    change(other, price(1, 3))

    def late(*arguments):
        change(other, price(1, 4))
        check(*arguments)

    monkeypatch.setattr(damage, "_check_items", late)
    assert held(opened(path)) == {(1, "column price"): 4}


def test_a_store_that_is_gone_keeps_nothing(path, opened):
    store = opened(path)
    path.unlink()
    for ask in (store.number, store.in_effect, lambda: store.append([price(1, 3)], None, 0)):
        with pytest.raises(EventStoreError, match="is gone"):
            ask()


LOCKED = """
import fcntl, sys
for path, place, size in ((sys.argv[1], 2**30 + 2, 510), (f"{sys.argv[1]}-shm", 128, 1)):
    with open(path, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, size, place)
        except OSError:
            continue
        sys.exit(f"{path} is not locked")
"""


def test_a_store_in_use_is_locked_so_that_no_other_process_begins_it_anew(path):
    """A process that closes a file, however it was opened, gives up all locks on it."""
    events = SQLiteEvents(path)
    store = SQLiteItems(path, is_open=True)
    change(store, price(1, 3))
    subprocess.run([sys.executable, "-c", LOCKED, str(path)], check=True)
    store.close()
    events.append([[Event(1, 1)]])
    subprocess.run([sys.executable, "-c", LOCKED, str(path)], check=True)
    events.close()
