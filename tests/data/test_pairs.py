"""Pairs of items and halves of histories: by hand, against brute force, and never a leak."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.config.model import Model
from shortlist.config.recipe import section_from
from shortlist.config.training import Training
from shortlist.data.dataset import Dataset
from shortlist.data.interactions import Interactions
from shortlist.data.pairs import ItemPairs, UserHalves, sessions
from shortlist.data.ragged import Ragged
from shortlist.data.schema import Schema
from shortlist.durations import in_units
from shortlist.errors import DataError, ModelError
from shortlist.linear.posterior import decayed_counts

EPOCHS = 400


def log_of(events, *, session=None, time=None) -> Interactions:
    """A log of (user, item) events, in order of user."""
    user, item = (np.array(column, dtype=np.int32) for column in zip(*events, strict=True))
    return Interactions(
        user,
        item,
        users=int(user.max()) + 1,
        session=None if session is None else np.array(session, dtype=np.int32),
        time=None if time is None else np.array(time),
    )


def lists(ragged: Ragged) -> list[list[int]]:
    return [part.tolist() for part in ragged.values.split(ragged.lengths.tolist())]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(batches, seed: int = 0) -> list[tuple[int, int]]:
    """The (query, positive) items of one epoch."""
    return [
        (query, positive)
        for batch in batches.epoch(generator(seed))
        for query, positive in zip(
            batch.history.values.tolist(), batch.positive.tolist(), strict=True
        )
    ]


def test_a_gap_ends_a_session_and_so_does_another_user():
    log = log_of([(1, 7), (1, 8), (1, 9), (2, 9), (2, 7)], time=[0, 10, 21, 22, 32])
    assert lists(sessions(log, gap=10)) == [[7, 8], [9], [9, 7]]
    assert lists(sessions(log, gap=11)) == [[7, 8, 9], [9, 7]]


def test_a_session_belongs_to_one_user_even_where_its_name_is_used_twice():
    log = log_of([(1, 7), (1, 8), (2, 9)], session=[4, 4, 4])
    assert lists(sessions(log)) == [[7, 8], [9]]


def test_sessions_that_overlap_in_time_are_told_apart_and_keep_their_order():
    log = log_of([(1, 9), (1, 8), (1, 7), (1, 6)], session=[2, 1, 2, 1])
    assert lists(sessions(log)) == [[8, 6], [9, 7]]


def test_an_item_met_again_counts_once_in_a_session():
    log = log_of([(1, 7), (1, 7), (1, 8), (1, 7)], session=[1, 1, 1, 1])
    assert lists(sessions(log)) == [[7, 8]]


def test_sessions_need_a_column_or_a_gap_and_a_gap_needs_times():
    log = log_of([(1, 7), (1, 8)])
    with pytest.raises(DataError, match="session_gap"):
        sessions(log)
    with pytest.raises(DataError, match=r"data\.time"):
        sessions(log, gap=10)


def test_durations_become_the_unit_of_the_times():
    assert in_units(2, None) == in_units(2, "number") == 2
    assert in_units(2, "us") == in_units("2s", "us") == 2_000_000
    assert in_units("30min", "ms") == 1_800_000
    assert in_units("1d", "yyyymmdd") == in_units("24h", "day") == 1


def test_a_duration_that_names_its_unit_needs_times_whose_unit_is_known():
    with pytest.raises(DataError, match=r"session_gap = '30min'.*data\.time_unit"):
        in_units("30min", "number", "session_gap")
    with pytest.raises(DataError, match=r"half_life = 5.*data\.order = 'file'"):
        in_units(5, "line", "half_life")


@pytest.mark.parametrize(
    "bad", [0, -1.0, "0s", "30", "7 days", "1m", "1h30min", "-2d", "1e3s", True]
)
def test_what_is_no_duration_is_refused_with_the_form(bad):
    with pytest.raises(ModelError, match="session_gap must be"):
        section_from(Model(), Training(), {"positives": "i2i", "session_gap": bad})


def test_half_an_hour_of_a_log_in_milliseconds_is_half_an_hour():
    second = 1_600_000_000
    steps = [0, 1000, 2000, 90_000, 91_000]  # two sessions, told in seconds
    found = set()
    for unit, scale in (("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)):
        log = pl.DataFrame(
            {
                "user_id": [1] * 5 + [2] * 5,
                "item_id": [*range(5)] * 2,
                "t": [(second + step) * scale for step in steps] * 2,
            }
        )
        split = Dataset.load(log, schema=Schema(time="t")).split("leave-last-out")
        data = split.training_data("all")
        assert data.time_unit == unit
        for gap in (1800, "30min", "0.5h"):
            cut = in_units(gap, data.time_unit)
            found.add(str(lists(sessions(data.training_log, cut))))
            assert decayed_counts(data.training_log, 5, gap, data.time_unit).sum() == pytest.approx(
                2 * sum(2 ** (-(91_000 - step) / 1800) for step in steps)
            )
    assert found == {"[[1, 2, 3], [4, 5], [1, 2, 3], [4, 5]]"}


def test_two_items_of_a_session_are_each_others_positives():
    pairs = ItemPairs(Ragged(torch.tensor([7, 8, 5]), torch.tensor([0, 2, 3])), batch_size=8)
    assert sorted(drawn(pairs)) == [(7, 8), (8, 7)]
    assert pairs.expected_counts(8).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_a_window_of_one_pairs_neighbours_and_the_middle_comes_up_most():
    pairs = ItemPairs(Ragged(torch.tensor([1, 2, 3]), torch.tensor([0, 3])), batch_size=8, window=1)
    seen = {pair for seed in range(40) for pair in drawn(pairs, seed)}
    assert seen == {(1, 2), (3, 2), (2, 1), (2, 3)}
    assert pairs.expected_counts(3).tolist() == [0, 0.5, 2, 0.5]


def test_a_log_without_a_session_of_two_is_refused_with_the_cure():
    with pytest.raises(DataError, match="raise session_gap"):
        ItemPairs(Ragged(torch.tensor([7, 8]), torch.tensor([0, 1, 2])), batch_size=8)


def test_the_query_itself_is_known_and_with_known_its_whole_session():
    made = Ragged(torch.tensor([7, 8, 9, 4, 5]), torch.tensor([0, 3, 5]))
    for with_known, expected in ((False, {7: [7]}), (True, {7: [7, 8, 9], 5: [4, 5]})):
        pairs = ItemPairs(made, batch_size=8, with_known=with_known)
        (batch,) = pairs.epoch(generator())
        known = dict(zip(batch.history.values.tolist(), lists(batch.known), strict=True))
        assert known | expected == known


def test_the_same_seed_gives_the_same_pairs_and_another_one_others():
    log = log_of([(1, item) for item in range(1, 60)], session=[1] * 59)
    pairs = ItemPairs(sessions(log), batch_size=16)
    assert drawn(pairs, 3) == drawn(pairs, 3) != drawn(pairs, 4)


def test_a_session_of_many_items_costs_as_many_pairs_not_their_square():
    n = 50_000
    pairs = ItemPairs(Ragged(torch.arange(1, n + 1), torch.tensor([0, n])), batch_size=4096)
    assert len(drawn(pairs)) == n


random_logs = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2), st.integers(0, 40)),
    min_size=1,
    max_size=40,
).map(lambda rows: sorted(rows, key=lambda row: (row[0], row[3])))


def brute_force_sessions(rows, gap) -> list[list[int]]:
    found: dict = {}
    number, last = 0, None
    for user, item, session, time in rows:
        if last is not None and (user != last[0] or time - last[1] > gap):
            number += 1
        last = (user, time)
        key = (user, session) if gap == float("inf") else (user, number)
        items = found.setdefault(key, [])
        if item not in items:
            items.append(item)
    return [found[key] for key in sorted(found)]


@settings(max_examples=60, deadline=None)
@given(random_logs, st.sampled_from([None, 0, 3, 100]))
def test_sessions_are_those_of_a_plain_loop(rows, gap):
    log = log_of([row[:2] for row in rows], session=[r[2] for r in rows], time=[r[3] for r in rows])
    expected = brute_force_sessions(rows, float("inf") if gap is None else gap)
    assert lists(sessions(log, gap)) == expected


@settings(max_examples=40, deadline=None)
@given(random_logs, st.sampled_from([None, 1, 2]), st.integers(1, 7))
def test_each_event_is_paired_once_with_another_item_of_its_session_in_reach(rows, window, size):
    made = sessions(log_of([row[:2] for row in rows], session=[r[2] for r in rows]))
    wide = [items for items in lists(made) if len(items) > 1]
    if not wide:
        return
    pairs = ItemPairs(made, batch_size=size, window=window)
    allowed = {
        (items[i], items[j])
        for items in wide
        for i in range(len(items))
        for j in range(len(items))
        if i != j and (window is None or abs(i - j) <= window)
    }
    found = drawn(pairs)
    assert set(found) <= allowed
    assert all(query != positive for query, positive in found)
    assert sorted(q for q, _ in found) == sorted(item for items in wide for item in items)
    assert pairs.expected_counts(9).sum().item() == pytest.approx(len(found))


@pytest.mark.parametrize("window", [None, 1, 3])
def test_expected_counts_are_the_stream_of_positives(window):
    random = np.random.default_rng(5)
    rows = [(user, int(random.integers(1, 12))) for user in range(1, 7) for _ in range(9)]
    pairs = ItemPairs(sessions(log_of(rows, session=[1] * 54)), batch_size=64, window=window)
    counts = np.zeros((EPOCHS, 12))
    for seed in range(EPOCHS):
        counts[seed] = np.bincount([positive for _, positive in drawn(pairs, seed)], minlength=12)
    error = counts.std(0) / np.sqrt(EPOCHS)
    assert (np.abs(counts.mean(0) - pairs.expected_counts(11).numpy()) <= 4 * error + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(random_logs, st.integers(1, 5), st.integers(1, 9))
def test_halves_share_a_history_between_them_in_its_order(rows, size, length):
    # Events are numbered, so that each one can be found again.
    log = log_of([(row[0], place + 1) for place, row in enumerate(rows)])
    events = {user: [p + 1 for p, r in enumerate(rows) if r[0] == user] for user in range(1, 5)}
    eligible = sorted(user for user, places in events.items() if len(places) > 1)
    if not eligible:
        with pytest.raises(DataError, match="two halves"):
            UserHalves(log, batch_size=size, history_length=length)
        return
    halves = UserHalves(log, batch_size=size, history_length=length)
    met = []
    for batch in halves.epoch(generator()):
        assert torch.equal(batch.users, batch.positive)
        others = lists(halves.other_half(batch.users))
        for user, one, other in zip(
            batch.users.tolist(), lists(batch.history), others, strict=True
        ):
            met.append(user)
            assert not set(one) & set(other)
            assert one == sorted(one)
            assert other == sorted(other)
            assert set(one) | set(other) <= set(events[user])
            count = len(events[user])
            assert len(one) == min(count // 2, length)
            assert len(other) == min(count - count // 2, length)
    assert sorted(met) == eligible
    assert halves.counts(4).nonzero().squeeze(1).tolist() == eligible


def test_halves_are_drawn_anew_each_epoch_and_alike_for_the_same_seed():
    log = log_of([(1, item) for item in range(1, 41)])
    halves = UserHalves(log, batch_size=4, history_length=40)
    one, again, other = (
        next(iter(halves.epoch(generator(seed)))).history.values.tolist() for seed in (1, 1, 2)
    )
    assert one == again != other


def test_a_long_history_keeps_its_latest_events_in_both_halves():
    log = log_of([(1, item) for item in range(1, 1001)])
    halves = UserHalves(log, batch_size=4, history_length=5)
    (batch,) = halves.epoch(generator())
    latest = batch.history.values.tolist() + halves.other_half(batch.users).values.tolist()
    assert min(latest) > 950
