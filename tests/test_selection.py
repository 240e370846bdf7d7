"""Sort keys order candidates as scores do, and the best ones come first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shortlist.selection import (
    NOTHING,
    best_to_front,
    empty_held,
    hold,
    key_of,
    score_of,
    write_best,
)

SCORES = st.floats(width=32, allow_nan=False)


@given(SCORES, SCORES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_key_is_greater_for_the_better_score_and_then_for_the_greater_rank(a, b, first, second):
    a, b = np.float32(a), np.float32(b)
    left, right = key_of(a, first), key_of(b, second)
    assert (left > right) == ((a, first) > (b, second))
    assert (left == right) == ((a, first) == (b, second))
    assert score_of(left) == a
    assert left > NOTHING


@given(st.lists(st.integers(-5, 5), min_size=1), st.integers(1, 60))
def test_the_greatest_keys_come_to_the_front_and_none_is_lost(keys, best):
    held = np.array([*keys, 99], dtype=np.int64)
    best_to_front(held, len(keys), best)
    assert sorted(held[: len(keys)].tolist()) == sorted(keys)
    assert held[len(keys)] == 99
    if best <= len(keys):
        assert sorted(held[:best].tolist()) == sorted(keys)[-best:]
    if best < len(keys):
        assert held[best - 1] == sorted(keys)[-best]


@given(st.integers(0, 400), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_what_is_held_one_by_one_ends_in_the_greatest_keys_and_then_nothing(many, best, seed):
    keys = (np.random.default_rng(seed).permutation(many) - 200).tolist()
    held, count, floor = empty_held(best), 0, NOTHING
    for key in keys:
        count, floor = hold(held, count, floor, best, key)
    written = np.zeros(best, dtype=np.int64)
    write_best(held, count, written)
    kept = sorted(keys)[-best:]
    assert sorted(written[: len(kept)].tolist()) == kept
    assert (written[len(kept) :] == NOTHING).all()
