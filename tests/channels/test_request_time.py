"""A model that reads the time of a request learns the hour, and sees no later moment."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.batches import PairBatches
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.sequences import SequenceBatches
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.evaluate import evaluate
from shortlist.metrics import hits, per_user
from shortlist.towers.clock import anchors, last_times

HOUR, DAY = 3600, 86_400
START = 1_700_006_400  # midnight, a Wednesday
SMALL = {"dim": 8, "epochs": 1, "batch_size": 256, "user_features": []}
ATTENTION = {"history": "attention", "history_length": 8, "history_heads": 1, "history_layers": 1}


def day_and_night(users=160, groups=4, each=12, events=12, seed=0):
    """Each group of users has items for the day and others for the night; hours are random."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        group = user % groups
        moments = np.sort(random.choice(60 * 24, events, replace=False)) * HOUR + START
        night = (moments // HOUR) % 24 >= 12
        for part in (False, True):
            size = int((night == part).sum())
            if size > each:
                continue
            items = random.permutation(each)[:size] + (2 * group + part) * each
            rows += [
                {"user_id": user, "item_id": int(i), "t": int(t)}
                for i, t in zip(items, moments[night == part], strict=True)
            ]
    return Dataset.load(pl.DataFrame(rows), schema=Schema(time="t")).split()


@pytest.fixture(scope="module")
def tastes():
    return day_and_night()


@pytest.fixture(scope="module")
def split():
    """A smaller world than that of other tests, without features."""
    log = planted_world(users=60, items=60, events=900, seed=5).interactions
    return Dataset.load(log, schema=Schema(time="timestamp")).split()


@pytest.fixture(scope="module")
def timed(split):
    """A tower whose clock and biases are loud, so that what they read is seen."""
    # Two layers: what an earlier event looked back from is a part of what a later one reads.
    options = SMALL | ATTENTION | {"history_layers": 2}
    options |= {"history_time": True, "request_time": True}
    return loud(TwoTower(**options).fit(split))


def loud(model):
    torch.manual_seed(0)
    clock = model.towers.query.clock
    for table in (clock.hour, clock.weekday, clock.since):
        if table is not None:
            torch.nn.init.normal_(table.weight[1:])
    for block in getattr(model.towers.query.history, "blocks", ()):
        if block.time is not None:
            torch.nn.init.normal_(block.time, std=2.0)
        torch.nn.init.normal_(block.found.weight, std=0.3)
    return model


def recall(model, k=6):
    data = model.data
    users, items, offsets = data.targets("test")
    time = torch.from_numpy(data.times_of_targets("test")) if model.reads_clock else None
    asked = Queries(data.users.external(users), before="test", time=time)
    found = hits(model.recommend(asked, k).rows, items, offsets)
    return per_user(found, np.diff(offsets), [k])[f"recall@{k}"].mean()


@pytest.mark.parametrize("history", ["recency", "attention"])
def test_day_and_night_are_learned_with_the_clock_and_cannot_be_without(tastes, history):
    own = ATTENTION if history == "attention" else {"history": "recency"}
    options = {"dim": 16, "epochs": 10, "batch_size": 256, "learning_rate": 0.02, **own}
    with_clock, without = (
        recall(TwoTower(**options, request_time=told, sampler="catalogue", seed=1).fit(tastes))
        for told in (True, False)
    )
    # A list of 6 has room for what is left of one half of the day, or for half of both.
    assert with_clock > 0.7
    assert without < 0.6


@pytest.mark.parametrize("kind", ["pairs", "windows", "stretches"])
def test_each_positive_is_asked_for_at_its_own_time_after_events_that_are_not_later(split, kind):
    log = split.training_data().training_log
    options = {"batch_size": 200, "history_length": 5, "with_time": True}
    batches = {
        "pairs": lambda: PairBatches(log, ordered=True, **options),
        "windows": lambda: SequenceBatches(log, **options),
        "stretches": lambda: SequenceBatches(log, **options, stretch=3),
    }[kind]()
    when = {(u, i): t for u, i, t in zip(log.user, log.item, log.time, strict=True)}
    seen = 0
    for batch in batches.epoch(torch.Generator().manual_seed(0)):
        pairs = zip(batch.users.tolist(), batch.positive.tolist(), strict=True)
        assert batch.asked.tolist() == [when[pair] for pair in pairs]
        offsets = batch.history.offsets
        last = last_times(batch.time, offsets, batch.place)
        assert (last <= batch.asked).all()
        back = anchors(batch.time, offsets, batch.place, batch.asked)
        assert (back >= batch.time).all()
        ends = offsets[1:][offsets.diff() > 0] - 1 if batch.place is None else batch.place
        rows = batch.asked[offsets.diff() > 0] if batch.place is None else batch.asked
        assert torch.equal(back[ends], rows)
        inner = torch.ones(len(back), dtype=torch.bool)
        inner[offsets[1:][offsets.diff() > 0] - 1] = False
        assert torch.equal(back[inner], batch.time[1:][inner[:-1]])
        seen += len(batch.positive)
    assert seen == batches.positives


def test_a_target_has_seen_no_later_moment_in_training(timed):
    data = timed.data
    batches = SequenceBatches(data.training_log, batch_size=400, history_length=8, with_time=True)
    batch = next(batches.epoch(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        timed.towers.eval()
        found = timed._encode_batch(batch)
        owner = batch.history.owners()[batch.place]
        row = int((owner == owner.bincount().argmax()).nonzero()[2])
        later = owner.eq(owner[row]) & (batch.place > batch.place[row])
        assert later.any()
        time, asked = batch.time.clone(), batch.asked.clone()
        time[batch.place[row] + 1 : batch.history.offsets[owner[row] + 1]] += 40 * DAY
        asked[later] += 50 * DAY
        changed = timed._encode_batch(replaced(batch, time=time, asked=asked))
        torch.testing.assert_close(changed[row], found[row])
        assert (changed[later] - found[later]).abs().max() > 0.01
        asked = batch.asked.clone()
        asked[row] += 30 * DAY
        moved = timed._encode_batch(replaced(batch, asked=asked))
        assert (moved[row] - found[row]).abs().max() > 0.01
        others = torch.arange(len(found)) != row
        torch.testing.assert_close(moved[others & ~later], found[others & ~later])


def replaced(batch, **columns):
    return type(batch)(**(vars(batch) | columns))


def test_a_position_in_training_is_what_is_answered_at_the_time_of_its_target(timed):
    """All events of a user but the last, asked at the time of the last."""
    data = timed.data
    log = data.training_log
    user = int(np.flatnonzero(np.diff(log.indptr) > 9)[0])
    start, end = log.indptr[user], log.indptr[user + 1]
    batches = SequenceBatches(log, batch_size=10**6, history_length=8, with_time=True)
    batch = next(batches.epoch(torch.Generator().manual_seed(0)))
    rows = (batch.users == user).nonzero().squeeze(1)
    row = rows[batch.asked[rows].argmax()]
    with torch.no_grad():
        timed.towers.eval()
        trained = torch.nn.functional.normalize(timed._encode_batch(batch)[row], dim=0)
    ids = data.items.external(log.item[start : end - 1].astype(np.int64)).to_list()
    times = log.time[start : end - 1].tolist()
    asked = Queries(histories=[ids], times=[times], time=int(log.time[end - 1]))
    torch.testing.assert_close(timed.encode_users(asked)[0], trained, atol=1e-5, rtol=1e-5)


def test_a_question_without_a_time_is_answered_as_at_its_last_event(timed):
    data = timed.data
    users = data.users.ids[:50]
    stored = data.histories.latest(torch.from_numpy(data.users.rows(users)), timed=True)
    last = stored.time[stored.items.offsets[1:] - 1]
    then = timed.encode_users(Queries(users, time=last))
    torch.testing.assert_close(timed.encode_users(Queries(users)), then)
    torch.testing.assert_close(timed.encode_users(Queries(users, time=[None] * 50)), then)
    later = timed.encode_users(Queries(users, time=last + 7 * DAY))
    assert (later - then).abs().max() > 0.01
    # Of a history without times the hour may be known, and nothing else.
    items = data.items.ids[:3].to_list()
    one, same, other, nothing = timed.encode_users(
        Queries(histories=[items] * 4, time=[START + HOUR, START + 7 * DAY + HOUR, START, None])
    )
    torch.testing.assert_close(one, same)
    assert (one - other).abs().max() > 0.01
    assert (one - nothing).abs().max() > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"history": "recency"},
        {"history": "recency", "history_windows": True},
        {"history": "mean", "user_layers": [8]},
        {"history": "gru", "encode_rows": 64},
        {"history": "comirec"},
        {"history": "none", "user_id": True},
        ATTENTION,
        ATTENTION | {"history_time": True, "encode_rows": 64},
    ],
    ids=lambda options: "-".join([str(options["history"]), *map(str, list(options)[1:2])]),
)
def test_every_tower_reads_the_clock_alone_in_a_batch_and_from_a_bundle(split, options, tmp_path):
    model = loud(TwoTower(**(SMALL | options), request_time=True).fit(split))
    assert model.reads_clock
    users = model.data.users.ids[:12]
    time = torch.full((12,), START) + torch.arange(12) * 5 * HOUR
    together = model.encode_users(Queries(users, time=time))
    alone = [model.encode_users(Queries([u], time=t)) for u, t in zip(users, time, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    other = model.encode_users(Queries(users, time=time + HOUR))
    assert (other - together).abs().max() > 0.001
    save(model, tmp_path / "bundle")
    again = load(tmp_path / "bundle").retriever
    assert torch.equal(again.encode_users(Queries(users, time=time)), together)
    reasons = model.explain(Queries(users[:1], time=time[:1]), [model.data.items.ids[:2]])
    assert reasons.height or options["history"] == "none"


def test_hours_and_weekdays_are_those_of_the_log(timed):
    clock = timed.towers.query.clock
    seen = {}
    for table in ("hour", "weekday", "since"):
        getattr(clock, table).register_forward_hook(
            lambda _, given, __, name=table: seen.__setitem__(name, given[0].tolist())
        )
    moment = dt.datetime(2024, 2, 29, 17, 59, 59, tzinfo=dt.UTC)  # a Thursday
    user = timed.data.users.ids[0]
    item = timed.data.items.ids[0]
    asked = Queries(
        [user], recent=[[item]], times=[[moment - dt.timedelta(seconds=30)]], time=moment
    )
    timed.encode_users(asked)
    assert seen == {"hour": [1 + 17], "weekday": [1 + 3], "since": [1 + 4]}  # 2^4 <= 31 < 2^5


@pytest.mark.parametrize("unit", ["ms", "us", "ns", "float"])
def test_the_unit_of_the_log_changes_the_gaps_alone(unit):
    steps = {"ms": 10**3, "us": 10**6, "ns": 10**9, "float": 1}[unit]
    seconds = np.array([START + 5 * HOUR + 7, START + DAY, START + 2 * DAY, START + 9 * DAY])
    times = seconds.astype(np.float64) + 0.5 if unit == "float" else seconds * steps
    log = pl.DataFrame({"user_id": [1, 1, 1, 1], "item_id": [1, 2, 3, 4], "t": times})
    data = Dataset.load(log, schema=Schema(time="t")).split().training_data("all")
    model = TwoTower(**SMALL, request_time=True)
    model.set_data(data)
    clock = model.towers.query.clock.eval()
    seen = []
    for table in (clock.hour, clock.weekday):
        table.register_forward_hook(lambda _, given, __: seen.append(given[0].tolist()))
    clock(torch.from_numpy(times), torch.from_numpy(times))
    assert seen == [[6, 1, 1, 1], [3, 4, 5, 5]]


def log_of(times):
    """Four users of six events, two of them at each of six times."""
    rows = [(u, (u + n) % 7, times[n]) for u in range(1, 5) for n in range(6)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "t"], orient="row")


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([dt.date(2024, 1, day) for day in (1, 2, 3, 4, 5, 6)], False),
        ([20240101, 20240102, 20240103, 20240105, 20240107, 20240109], False),
        ([START + day * DAY for day in (1, 2, 3, 4, 5, 6)], False),
        ([START + day * DAY for day in (1, 2, 3, 4, 5)] + [START + 60], True),
    ],
)
def test_a_log_of_dates_alone_tells_no_hour_and_it_is_said(times, told, caplog):
    split = Dataset.load(log_of(times), schema=Schema(time="t")).split()
    plain = TwoTower(**SMALL, request_time=True).fit(split)
    said = [record.message for record in caplog.records if "reads no hour" in record.message]
    assert len(said) == (not plain.towers.query.clock.hours)
    assert any("reads no hour" in note for note in evaluate(plain, k=[2]).notes) == bool(said)
    model = loud(TwoTower(**SMALL, request_time=True).fit(split, fit="all"))
    morning, evening, tomorrow = model.encode_users(
        Queries([1] * 3, time=["2024-01-31T08:00", "2024-01-31T20:00", "2024-02-01T08:00"])
    )
    assert torch.equal(morning, evening) == (not told)
    assert not torch.equal(morning, tomorrow)


def test_without_a_clock_in_the_log_it_is_refused_before_training(world):
    plain = [1, 2, 3, 4, 5, 6]
    for dataset, said in (
        (Dataset.load(log_of(plain), schema=Schema()), r"the log has no times: give data.time"),
        (Dataset.load(log_of(plain), schema=Schema(order="file")), r"the log has no times"),
        (Dataset.load(log_of(plain), schema=Schema(time="t")), r"an unknown unit.*data.time_unit"),
    ):
        with pytest.raises(ModelError, match=said):
            TwoTower(**SMALL, request_time=True).fit(dataset.split("random", at=0.5))
    for kind in (ItemToItem, UserToUser):
        with pytest.raises(ModelError, match="request_time does nothing"):
            kind(request_time=True)


def test_a_model_without_it_refuses_a_time_and_keeps_no_word_of_it(split):
    plain = TwoTower(**SMALL).fit(split)
    assert not plain.reads_clock
    with pytest.raises(QueryError, match="time does nothing"):
        plain.recommend(Queries(plain.data.users.ids[:1], time=START))
    assert "request_time" not in plain.state()[0]["model"]
    own = TwoTower(**SMALL, request_time=True).fit(split)
    assert own.state()[0]["model"]["request_time"] is True
