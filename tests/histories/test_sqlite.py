"""The SQLite store: acknowledged events are there once, and damage is refused or reported."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from shortlist.errors import EventStoreError
from shortlist.histories.damage import agreed
from shortlist.histories.events import DAY, Event, Keeping, Kept, Stored
from shortlist.histories.items import ItemValue, SQLiteItems
from shortlist.histories.sqlite import SQLiteEvents, rows

KILLS = int(os.environ.get("SHORTLIST_KILLS", "3"))
"""`make kills` sets the variable."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.sqlite"


@pytest.fixture
def opened():
    """Opens stores, and closes them at the end."""
    made = []

    def start(path, **keeping):
        made.append(SQLiteEvents(path, Keeping(**keeping)))
        return made[-1]

    yield start
    for store in made:
        store.close()


@pytest.mark.parametrize("keeping", [{"of_user": 0}, {"days": float("nan")}, {"days": -1.0}])
def test_how_much_is_kept_must_be_something(path, keeping):
    with pytest.raises(EventStoreError, match="must be > 0"):
        SQLiteEvents(path, Keeping(**keeping))
    assert not path.exists()


def test_old_events_expire_and_old_ids_are_forgotten(path, opened, monkeypatch):
    store = opened(path, days=2, days_of_ids=1)
    store.append([[Event(1, 1, id="a")]])
    later = store.clock.age() + int(1.5 * DAY * 1e6)
    monkeypatch.setattr(store.clock, "age", lambda: later)
    assert store.tidy() == 0
    assert store.append([[Event(1, 2, id="a")]]) == [Kept([2], 0)]
    monkeypatch.setattr(store.clock, "age", lambda: later + int(DAY * 1e6))
    assert store.tidy() == 1
    assert store.latest([1], 0) == [Stored([2])]


def test_a_clock_that_jumps_changes_no_order_and_removes_nothing(path, opened, monkeypatch):
    store, clock = opened(path, days=5), time.time_ns
    store.append([[Event(1, 1)]])
    for ahead in (40 * 365, -40 * 365, 0):
        monkeypatch.setattr(time, "time_ns", lambda ahead=ahead: clock() + int(ahead * DAY * 1e9))
        assert store.tidy() == 0
        store.append([[Event(1, 2)]])
        store.close()
        store = opened(path, days=5)
        assert store.tidy() == 0
        store.append([[Event(1, 3)]])
    found = list(rows(path))
    assert [row.item for row in found] == [1, 2, 3, 2, 3, 2, 3]
    ages = [row.age for row in found]
    assert ages == sorted(ages)


def test_power_is_waited_for_only_where_that_is_asked(path, opened):
    for synchronous, level in (("normal", 1), ("full", 2)):
        store = opened(path, synchronous=synchronous)
        assert store._write.execute("PRAGMA synchronous").fetchone() == (level,)
        assert store._write.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Damage.


@pytest.fixture
def full(path, opened):
    store = opened(path)
    store.append(
        [[Event(u, f"item-{u}-{i}", "k", 7, 0.5, id=f"{i}") for i in range(20)] for u in range(20)]
    )
    store.close()
    items = SQLiteItems(path)
    items.append([ItemValue(n, "column price", 0, n / 3) for n in range(100)], "c", 0)
    items.close()
    return path


def test_a_byte_that_was_changed_is_refused_or_changes_nothing(full, tmp_path):
    whole, sound = full.read_bytes(), list(rows(full))
    random.seed(1)
    refused = 0
    for number in range(60):
        copy = tmp_path / f"{number}.sqlite"
        data = bytearray(whole)
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        copy.write_bytes(data)
        try:
            SQLiteEvents(copy).close()
        except EventStoreError:
            refused += 1
            unchanged = copy.read_bytes() == data
        else:
            unchanged = list(rows(copy)) == sound
        assert unchanged
    assert refused > 20


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused(full, share):
    data = full.read_bytes()
    full.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(EventStoreError, match=r"is damaged|is not a store"):
        SQLiteEvents(full)


def test_another_file_is_no_store_and_is_left_alone(path):
    path.write_text("user_id,item_id\n" * 100)
    with pytest.raises(EventStoreError, match="is not a store of events"):
        SQLiteEvents(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(EventStoreError, match="is not a store of events"):
        SQLiteEvents(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
        "CREATE VIEW v AS SELECT 1",
        "DROP INDEX by_sequence",
        "ALTER TABLE events ADD COLUMN more ANY",
        "UPDATE about SET value = 'x' WHERE name = 'last'",
        "UPDATE about SET value = 3 WHERE name = 'last'",
        "UPDATE events SET item = 'another' WHERE sequence = 9",
        "UPDATE item_values SET value = '3' WHERE part = 'column price'",
        "UPDATE item_changes SET undone = 1",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 2",
        "PRAGMA user_version = 4",
        "INSERT INTO event_features VALUES (9, '{}', 1)",
    ],
)
def test_tables_that_no_store_has_are_refused(full, change):
    with closing(sqlite3.connect(full, isolation_level=None)) as file:
        file.execute(change)
    with pytest.raises(EventStoreError, match=r"is damaged|is a store of version 4"):
        SQLiteEvents(full)


CHILD = """
import os, sys
from shortlist.histories.damage import agreed
from shortlist.histories.events import Event, Keeping
from shortlist.histories.sqlite import SQLiteEvents
store = SQLiteEvents(sys.argv[1], Keeping(of_user=10**9))
number = int(sys.argv[2])
while True:
    batch = [[Event((number + n) % 7, number + n, id=str(number + n))] for n in range(3)]
    for kept in store.append(batch):
        sys.stdout.write(f"{number} {kept.sequence[0]} {kept.repeated}\\n")
        number += 1
    sys.stdout.flush()
"""


def acknowledged_until_killed(path, start, lines):
    command = [sys.executable, "-c", CHILD, str(path), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    return [tuple(map(int, line.split())) for line in said if line.endswith("\n")]


def test_what_was_acknowledged_before_a_kill_is_there_once(path):
    known: dict[int, int] = {}
    for kill in range(KILLS):
        # The next one sends again what the last one may have sent without hearing of it.
        for item, sequence, repeated in acknowledged_until_killed(
            path, max(0, len(known) - 5), 100
        ):
            assert known.get(item, sequence) == sequence
            assert bool(repeated) <= bool(kill)
            known[item] = sequence
        store = SQLiteEvents(path, Keeping(of_user=10**9))
        assert not store.incomplete
        store.close()
        there = {row.sequence: row.item for row in rows(path)}
        assert len(set(there.values())) == len(there)
        assert known.items() <= {(item, sequence) for sequence, item in there.items()}


@pytest.mark.parametrize("how", ["cut", "flipped", "removed"])
def test_a_lost_end_of_what_is_written_ahead_is_said(path, how):
    acknowledged_until_killed(path, 0, 50)
    ahead = path.with_name(f"{path.name}-wal")
    data = bytearray(ahead.read_bytes())
    if how == "cut":
        ahead.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[32 + agreed(path).frames * (24 + 4096) - 100] ^= 1
        ahead.write_bytes(data)
    else:
        ahead.write_bytes(b"")
    store = SQLiteEvents(path)
    assert store.incomplete
    store.append([[Event("x", 1)]])
    store.close()
    again = SQLiteEvents(path)
    assert not again.incomplete
    again.close()


FULL_DISK = """
import resource, sys
from shortlist.errors import EventStoreError
from shortlist.histories.events import Event
from shortlist.histories.sqlite import SQLiteEvents
store = SQLiteEvents(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
number = failed = 0
while failed < 3:
    try:
        store.append([[Event(number, "x" * 500, id=str(number))]])
        number += 1
    except EventStoreError:
        failed += 1
print(number)
assert store.latest([0, number], 0)[0].items == ["x" * 500]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append([[Event(number, "y")]])
"""


def test_a_full_disk_takes_nothing_that_was_acknowledged_and_ends_with_it(path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert count > 5
    assert [row.user for row in rows(path)] == list(range(count + 1))
