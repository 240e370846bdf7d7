"""The order of the events of a log, against a sort of tuples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.ordering import ordered

FAR = 2**16  # its lower 16 bits are those of 0: only its upper ones place it behind other users

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 255, 256, FAR, 2 * FAR + 1, 2**31 - 1]),
        st.sampled_from([-3, 0, 0.5, 7, 2**40]),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=40,
)


SORTED_BY = {"nothing": lambda _: 0, "time": lambda event: event[1], "user": lambda event: event[0]}


@given(EVENTS, st.sampled_from([*SORTED_BY]), st.booleans(), st.booleans())
def test_events_stand_by_user_then_time_then_tie_rule_then_as_given(events, by, timed, tied):
    events = sorted(events, key=SORTED_BY[by])
    user, time, first, second = (
        np.array([event[at] for event in events], dtype=kind)
        for at, kind in enumerate((np.int32, float, np.uint64, np.int8))
    )
    rule = (lambda rows: [first[rows], second[rows]]) if tied else None
    found, users, times = ordered(user, time if timed else None, rule)
    keys = [
        (user[at], time[at] if timed else 0, *((first[at], second[at]) if tied else ()), at)
        for at in range(len(events))
    ]
    assert found.tolist() == [key[-1] for key in sorted(keys)]
    assert found.dtype == np.uint32
    assert np.array_equal(users, user[found])
    assert times is None if not timed else np.array_equal(times, time[found])


@pytest.mark.parametrize("time", [None, np.empty(0)])
def test_no_event_has_no_order(time):
    found, _, _ = ordered(np.empty(0, np.int32), time, lambda rows: [rows])
    assert found.tolist() == []
