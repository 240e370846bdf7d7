"""The contract of every metric of the table PER_USER: for all of them more is better."""

import numpy as np
import pytest

from shortlist.metrics import PER_USER

K, USERS = 6, 60
pytestmark = pytest.mark.parametrize("metric", list(PER_USER.values()), ids=PER_USER)


@pytest.fixture
def found():
    generator = np.random.default_rng(4)
    return generator.random((USERS, K)) < generator.random((USERS, 1))


@pytest.fixture
def relevant(found):
    return found.sum(1) + np.random.default_rng(5).integers(1, 4, USERS)


def test_it_gives_a_number_a_user_and_changes_nothing(metric, found, relevant):
    before = found.copy(), relevant.copy()
    figures = np.asarray(metric(found, relevant))
    assert figures.shape == (USERS,)
    assert np.isfinite(figures).all()
    assert np.array_equal(before[0], found)
    assert np.array_equal(before[1], relevant)


def test_a_figure_is_of_its_user_alone(metric, found, relevant):
    together = metric(found, relevant)
    alone = [metric(found[u : u + 1], relevant[u : u + 1])[0] for u in range(USERS)]
    assert np.allclose(together, alone, atol=1e-12)


def test_a_hit_more_or_a_hit_higher_up_is_never_worse_and_a_full_list_is_better_than_none(
    metric, found, relevant
):
    figures, enough = metric(found, relevant), np.full(USERS, K)
    for place in range(K):
        more = found.copy()
        more[:, place] = True
        assert (metric(more, enough) >= metric(found, enough) - 1e-12).all()
        if place:
            higher = found.copy()
            higher[:, [place - 1, place]] = np.sort(found[:, [place - 1, place]], axis=1)[:, ::-1]
            assert (metric(higher, relevant) >= figures - 1e-12).all()
    assert metric(np.ones((1, K), dtype=bool), enough[:1]) > metric(
        np.zeros((1, K), dtype=bool), enough[:1]
    )
