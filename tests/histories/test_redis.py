"""The store in Redis: errors are one sentence, and acknowledged events are there once."""

import os
import subprocess
import sys
import time

import pytest

from patience import wait_until
from shortlist.errors import EventStoreError, QueryError
from shortlist.histories import redis_server
from shortlist.histories.events import DAY, Event, Keeping, Kept, PaceError, Stored
from shortlist.histories.items import ItemValue
from shortlist.histories.places import events_at, place_of, reader_at
from shortlist.histories.redis_events import RedisEvents
from shortlist.histories.redis_items import RedisItems

KILLS = int(os.environ.get("SHORTLIST_KILLS", "3"))


@pytest.fixture
def opened():
    made = []

    def start(place, a_minute=0, **keeping):
        made.append(events_at(place, Keeping(**keeping), a_minute))
        return made[-1]

    yield start
    for store in made:
        store.close()


# Addresses.


@pytest.mark.parametrize("password", ["12/hidden", "a?hidden", "12/x?prefix=hidden"])
def test_a_password_that_is_not_escaped_is_not_shown(password):
    with pytest.raises(QueryError) as told:
        place_of(f"redis://:{password}@h/0")
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "names no host"),
        ("redis://h:x/0", "is not an address"),
        ("redis://h/shop", "names the database 'shop'"),
        (
            "redis://h/0?socket_timeout=1",
            "has the option 'socket_timeout', but only these, once each, are possible: prefix",
        ),
        ("redis://h/0?prefix=a&prefix=b", "has the option 'prefix'"),
        ("redis://h/0?prefix=", "has the prefix ''"),
        ("redis://h/0?prefix=a*", "has the prefix 'a*'"),
        ("mysql://root:secret@h/0", "mysql:// names no store of events"),
    ],
)
def test_an_address_that_names_no_store_is_one_sentence_without_the_password(url, said):
    with pytest.raises(QueryError) as refused:
        place_of(url.replace("redis://h", "redis://ann:secret@h"))
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_address_tells_how_the_server_is_reached(monkeypatch):
    monkeypatch.setenv("SHORTLIST_REDIS_PASSWORD", "hidden")
    place = place_of("rediss://ann@cache.example:7000/3?prefix=shop:a&ssl_ca_certs=/ca.pem")
    assert place.options == {
        "host": "cache.example",
        "port": 7000,
        "db": 3,
        "username": "ann",
        "password": "hidden",
        "ssl": True,
        "ssl_ca_certs": "/ca.pem",
    }
    assert str(place) == "rediss://cache.example:7000/3?prefix=shop:a"
    assert "hidden" not in repr(place)
    file = place_of("unix:///run/redis.sock?db=2")
    assert file.options["unix_socket_path"] == "/run/redis.sock"
    assert place_of(str(file)) == file


# What is wrong.


def refusal(place):
    with pytest.raises(EventStoreError) as refused:
        RedisEvents(place).close()
    assert "secret" not in str(refused.value)
    return str(refused.value)


def test_a_server_that_is_not_there_or_lets_nobody_in_is_said(own_redis):
    server = own_redis("--requirepass", "right")
    assert "refuses the password or the user" in refusal(server.place())
    assert "refuses the password or the user" in refusal(server.place(password="secret"))
    RedisEvents(server.place(password="right")).close()
    assert "has no database of that number" in refusal(server.place(password="right", db=99))
    server.kill()
    assert "cannot be reached" in refusal(server.place(password="right"))


def test_a_read_only_replica_is_refused(own_redis, redis):
    replica = own_redis("--replicaof", "127.0.0.1", str(redis.port))
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    assert "is a read-only replica: give the address of its primary" in refusal(replica.place())
    place = redis.place()
    RedisEvents(place).close()
    there = replica.place(prefix=place.prefix)
    wait_until(lambda: replica.client.exists(f"{place.prefix}:about"))
    store = RedisEvents(there)  # it is there, and whoever writes is told
    with pytest.raises(EventStoreError, match="is a read-only replica"):
        store.append([[Event(1, 1)]])
    store.close()


def test_a_full_server_keeps_nothing_of_a_request_and_one_that_evicts_is_refused(own_redis, opened):
    server = own_redis()
    place = server.place()
    store = opened(place)
    store.append([[Event(1, 1)]])
    server.client.config_set("maxmemory", "1")
    with pytest.raises(EventStoreError, match=r"is full \(maxmemory\): nothing was kept"):
        store.append([[Event(1, 2, id="a"), Event(2, 2)]])
    with pytest.raises(EventStoreError, match="is full"):
        RedisItems(server.place())
    assert store.latest([1, 2], 0) == [Stored([1]), Stored([])]
    server.client.config_set("maxmemory", "1gb")
    for policy in ("allkeys-lru", "volatile-ttl"):
        server.client.config_set("maxmemory-policy", policy)
        assert f"(maxmemory-policy {policy}): set noeviction" in refusal(place)
    server.client.config_set("maxmemory", "0")
    assert opened(place).append([[Event(1, 2, id="a")]]) == [Kept([2], 0)]


def test_what_is_there_and_is_no_store_of_this_version_is_refused_and_left_alone(redis, opened):
    other = redis.place()
    redis.client.set(f"{other.prefix}:basket", "mine")
    assert f"'{other.prefix}:basket' exists and does not belong to a store of events" in refusal(
        other
    )
    wrong = redis.place()
    redis.client.set(f"{wrong.prefix}:about", "mine")
    assert "is in use by something else" in refusal(wrong)
    redis.client.delete(f"{wrong.prefix}:about")
    redis.client.hset(f"{wrong.prefix}:about", "name", "another hash")
    assert "is in use by something else" in refusal(wrong)
    newer = redis.place()
    opened(newer)
    redis.client.hset(f"{newer.prefix}:about", "version", "2")
    assert "holds a store of version 2, and this version" in refusal(newer)
    assert redis.client.get(f"{other.prefix}:basket") == b"mine"
    with pytest.raises(EventStoreError, match="there is no store of events"):
        reader_at(redis.place())


def test_a_server_of_a_cluster_and_an_old_one_are_refused(own_redis, redis, monkeypatch):
    assert "is part of a cluster" in refusal(own_redis("--cluster-enabled", "yes").place())
    monkeypatch.setattr(redis_server, "NEEDED", (99, 0))
    assert "needs 99.0 or newer" in refusal(redis.place())


def test_what_nobody_has_stored_is_refused_and_nothing_is_added_to_it(redis, opened):
    place = redis.place()
    store = opened(place)
    store.append([[Event(1, 1)]])
    key = f"{place.prefix}:u:1"
    for text in (b"1\n[1,2\n", b"?", b"1\n[]\n"):
        redis.client.set(key, text)
        with pytest.raises(EventStoreError, match="is damaged"):
            store.latest([1], 0)
    redis.client.set(key, b"?")
    with pytest.raises(EventStoreError, match="is damaged"):
        store.append([[Event(1, 2, id="a")]])
    good, bad = store.append([[Event(3, 1)], [Event(1, 2)]])  # two requests, in one round trip
    assert good == Kept([2], 0)
    assert "is damaged" in str(bad)
    redis.client.delete(key)
    redis.client.rpush(key, "x")
    good, bad = store.append([[Event(3, 2)], [Event(1, 2)]])
    assert good == Kept([3], 0)
    assert "something else under a key" in str(bad)
    assert store.latest([3], 0) == [Stored([1, 2])]
    with pytest.raises(EventStoreError, match="something else under a key"):
        store.append([[Event(2, 2, id="a"), Event(1, 2, id="b")]])
    assert store.latest([2], 0) == [Stored([])]
    items = RedisItems(place)
    items.append([ItemValue(1, "x", 0, 1)], None, 0)
    redis.client.hset(f"{place.prefix}:values", '[1,"x"]', "[[")
    with pytest.raises(EventStoreError, match="is damaged"):
        items.in_effect()
    items.close()


def test_what_lasts_is_what_the_server_says_of_itself(own_redis):
    server = own_redis()
    said = {}
    for append, sync in (("no", "no"), ("yes", "always"), ("yes", "everysec"), ("yes", "no")):
        server.client.config_set("appendfsync", sync)
        server.client.config_set("appendonly", append)
        store = RedisEvents(server.place())
        said[append, sync] = store.lasting
        store.close()
    assert [lasting.sure for lasting in said.values()] == [False, True, True, True]
    texts = [lasting.said for lasting in said.values()]
    assert "can be lost when the server ends" in texts[0]
    assert "nothing is written to its disk" in texts[0]
    assert "and a loss of power" in texts[1]
    assert "loses those of the last second or two" in texts[2]
    assert "has not written yet" in texts[3]


def test_a_server_that_tells_nothing_of_itself_is_used_and_that_is_said(own_redis):
    server = own_redis()
    rights = ["+@all", "-@dangerous", "~shop:*"]
    server.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", *rights)
    url = f"redis://ann:secret@127.0.0.1:{server.port}/0"
    store = RedisEvents(place_of(f"{url}?prefix=shop"))
    assert store.append([[Event(1, 1)]]) == [Kept([1], 0)]
    assert store.tidy() == 0
    assert "does not tell whether it keeps its data" in store.lasting.said
    store.close()
    assert "does not allow this user what a store needs" in refusal(place_of(f"{url}?prefix=other"))


def test_to_wait_for_the_disk_is_a_setting_of_the_server(redis):
    with pytest.raises(EventStoreError, match=r"a setting of the server \(appendfsync\)"):
        events_at(redis.place(), Keeping(synchronous="full"), 0)


# Time.


def test_an_event_id_is_known_for_its_time_and_no_longer(redis, opened):
    for days in (0.4 / DAY, 1):
        store, begun = opened(redis.place(), days_of_ids=days), time.monotonic()
        store.append([[Event(1, 1, id="a")]])
        if days == 1:
            assert store.append([[Event(1, 1, id="a")]]) == [Kept([1], 1)]
        else:
            wait_until(lambda store=store: store.append([[Event(1, 1, id="a")]])[0].repeated == 0)
            assert time.monotonic() - begun > 0.39


def test_events_expire_with_their_user_and_one_by_one(redis, opened):
    place = redis.place()
    store = opened(place, days=0.2 / DAY)
    store.append([[Event(1, 1), Event(2, 1)]])
    assert redis.client.zcard(f"{place.prefix}:index") == 2
    wait_until(lambda: store.latest([1, 2], 0) == [Stored([]), Stored([])])
    wait_until(lambda: store.tidy() or not redis.client.zcard(f"{place.prefix}:index"))
    assert list(reader_at(place).parts()) == []
    long = opened(place)
    redis.client.set(f"{place.prefix}:u:3", b"2\n[4,2000,8]\n[3,1000,7]\n")
    assert long.latest([3], 0) == [Stored([])]  # of 1970
    long.append([[Event(3, 9)]])
    assert long.latest([3], 0) == [Stored([9])]
    assert redis.client.get(f"{place.prefix}:u:3").count(b"\n") == 2


def test_all_services_together_take_so_many_events_of_a_user_in_a_minute(redis, opened):
    place = redis.place()
    one, other = (opened(place, a_minute=3) for _ in range(2))
    two = [Event(1, 1), Event(1, 2)]
    assert one.append([two]) == [Kept([1, 2], 0)]
    said = other.append([two, [Event(2, 1)], two[:1]])
    assert [type(answer) for answer in said] == [PaceError, Kept, Kept]
    assert said[0].user == 1
    assert one.latest([1], 0) == [Stored([1, 2, 1])]


# Servers that go and come.


def test_a_server_that_comes_back_empty_is_another_store_and_that_is_said_once(redis, opened):
    place = redis.place()
    store, items = opened(place), RedisItems(place)
    store.append([[Event(1, 1)]])
    items.append([ItemValue(1, "x", 0, 1)], None, 0)
    before = store.identity
    for ask in (lambda: store.append([[Event(1, 2)]]), store.is_changed, lambda: store.forget(1)):
        redis.client.delete(*redis.client.keys(f"{place.prefix}:*"))
        with pytest.raises(EventStoreError, match="was emptied or replaced"):
            ask()
        assert store.append([[Event(1, 3)]]) == [Kept([1], 0)]
        assert store.identity != before
    assert (items.in_effect().values, items.number()) == ([], 0)
    assert items.identity == store.identity
    items.close()


def test_nothing_is_sent_twice_to_a_server_that_does_not_answer(own_redis, opened, monkeypatch):
    monkeypatch.setattr(redis_server, "WAIT", 0.2)
    server = own_redis()
    place = server.place()
    store = opened(place)
    server.hold()
    with pytest.raises(EventStoreError, match=r"has not answered within 0\.2 seconds"):
        store.append([[Event(1, 1)]])
    server.let_go()
    store.append([[Event(1, 2)]])
    # Nobody knows whether the first one was kept, which its sender is told; it is not there twice.
    assert store.latest([1], 0)[0].items in ([2], [1, 2])


CHILD = """
import sys
from shortlist.histories.events import Event
from shortlist.histories.places import events_at, place_of
from shortlist.histories.events import Keeping
store = events_at(place_of(sys.argv[1]), Keeping(), 0)
number = int(sys.argv[2])
while True:
    batch = [[Event((number + n) % 7, number + n, id=str(number + n))] for n in range(3)]
    for kept in store.append(batch):
        sys.stdout.write(f"{number} {kept.sequence[0]} {kept.repeated}\\n")
        number += 1
    sys.stdout.flush()
"""


def test_what_was_acknowledged_before_a_kill_of_the_server_is_there_once(own_redis, opened):
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    url, known = server.url(), {}
    for _ in range(KILLS):
        # The next one sends again what the last one may have sent without hearing of it.
        command = [sys.executable, "-c", CHILD, url, str(max(0, len(known) - 5))]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            said = [child.stdout.readline() for _ in range(100)]
            server.kill()
            said += child.stdout.readlines()
            assert "EventStoreError" in child.stderr.read()
        for line in said:
            item, sequence, _ = map(int, line.split())
            assert known.setdefault(item, sequence) == sequence
        server.start()
        there = {
            row.sequence: row.item for part in reader_at(place_of(url)).parts() for row in part
        }
        assert len(set(there.values())) == len(there)
        assert known.items() <= {(item, sequence) for sequence, item in there.items()}
