"""The cache of results keeps the latest ones, keeps no error, and is safe with threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from shortlist.data.remembered import Remembered


def test_the_answer_asked_for_longest_ago_is_forgotten_first():
    kept, made = Remembered(most=2), []
    for asked in ("a", "b", "a", "c", "a", "b"):
        assert kept.get(asked, lambda asked=asked: made.append(asked) or asked) == asked
    assert made == ["a", "b", "c", "b"]
    assert len(kept) == 2


def test_an_error_is_not_an_answer():
    kept = Remembered()
    with pytest.raises(ZeroDivisionError):
        kept.get("x", lambda: 1 / 0)
    assert len(kept) == 0
    assert kept.get("x", lambda: 3) == 3


def test_threads_that_ask_at_once_get_their_own_answers():
    kept, together = Remembered(most=3), Barrier(4)

    def ask(thread):
        together.wait()
        return [kept.get(n % 7, lambda n=n: n % 7) == n % 7 for n in range(2_000)]

    with ThreadPoolExecutor(4) as pool:
        assert all(all(answers) for answers in pool.map(ask, range(4)))
    assert len(kept) == 3
