"""Popularity metrics: decay and smoothed rates by hand, and refused inputs."""

import numpy as np
import polars as pl
import pytest

from shortlist.data.dataset import Dataset
from shortlist.data.interactions import Interactions
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.linear.posterior import decayed_counts, posterior, smoothed_rate

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2, 2, 2, 3],
        "item_id": [10, 20, 30, 40, 10, 30, 50, 20],
        "time": [1, 3, 5, 7, 2, 4, 9, 6],
    }
)
SHOWN = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 3, 3, 3],
        "item_id": [10, 10, 20, 20, 20, 20, 10],
        "time": [1, 2, 3, 2, 6, 5, 4],
        "clicked": [1, 0, 1, 0, 0, 1, 1],
    }
)


def data(**options):
    return Dataset.load(LOG, schema=Schema(time="time", **options)).split().training_data()


def with_shows(shown=SHOWN):
    return (
        Dataset.load(LOG, impressions=shown, schema=Schema(time="time", click="clicked"))
        .split()
        .training_data()
    )


def test_an_event_of_one_half_life_before_the_newest_counts_a_half():
    log = Interactions(
        np.ones(4, np.int32), np.array([1, 1, 2, 3], np.int32), 2, time=np.array([100, 90, 80, 70])
    )
    assert decayed_counts(log, 3, 10, None).tolist() == [0, 1.5, 0.25, 0.125]


def test_a_half_life_is_in_seconds_whatever_the_times_are_in():
    log = Interactions(
        np.ones(2, np.int32), np.array([1, 2], np.int32), 2, time=np.array([1_000_000, 0])
    )
    assert decayed_counts(log, 2, 1.0, "us").tolist() == [0, 1, 0.5]
    assert decayed_counts(log, 2, 1000.0, "ms").tolist() == [0, 1, 0.5]


def test_an_age_beyond_all_numbers_counts_nothing():
    log = Interactions(np.ones(2, np.int32), np.array([1, 2], np.int32), 2, time=np.array([9, 0]))
    assert decayed_counts(log, 2, 1e-308, None).tolist() == [0, 1, 0]


def test_counts_are_those_of_training_rows_alone():
    known = data()
    by_id = dict(zip(known.items.ids, posterior(known, "count")[1:], strict=False))
    # User 1 trains on 10, 20, user 2 on 10, user 3 on 20; what they did later is held out.
    assert by_id == {10: 2, 20: 2}
    recent = dict(zip(known.items.ids, posterior(known, "recent", half_life=1.0)[1:], strict=False))
    assert recent == {10: 2.0**-5 + 2.0**-4, 20: 1 + 2.0**-3}


def test_a_smoothed_rate_lies_between_its_own_and_that_of_all():
    # Before the cut: 10 shown 3 times and clicked twice, 20 four times and twice: 4 of 7 in all.
    known = with_shows()
    found = posterior(known, "ctr", prior_strength=2.0)
    rows = known.items.rows([10, 20])
    np.testing.assert_allclose(found[rows], [(2 + 8 / 7) / 5, (2 + 8 / 7) / 6])
    conversion = posterior(known, "conversion", prior_strength=2.0)
    np.testing.assert_allclose(conversion[rows], [(2 + 8 / 7) / 5, (2 + 8 / 7) / 6])


def test_an_item_that_was_never_shown_has_the_rate_of_all():
    known = with_shows(SHOWN.filter(pl.col("item_id") == 10))
    row = int(known.items.rows([20])[0])
    assert posterior(known, "ctr", prior_strength=5.0)[row] == pytest.approx(2 / 3)
    # 20 has two training events, which no show explains: they do not count.
    assert posterior(known, "conversion", prior_strength=5.0)[row] == pytest.approx(2 / 3)


def test_row_zero_is_worth_nothing():
    known = with_shows()
    assert posterior(known, "count")[0] == posterior(known, "ctr")[0] == 0
    assert posterior(known, "recent", half_life=3.0)[0] == 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [("ctr", "data.impressions, data.click"), ("recent", "needs half_life")],
)
def test_a_metric_the_data_cannot_give_is_refused(metric, message):
    with pytest.raises(ModelError, match=message):
        posterior(data(), metric)


def test_a_half_life_without_times_is_refused():
    log = Interactions(np.ones(1, np.int32), np.ones(1, np.int32), 2)
    with pytest.raises(ModelError, match=r"half_life needs data\.time"):
        decayed_counts(log, 1, 10.0, None)


def test_rates_nobody_can_tell_apart_are_refused():
    with pytest.raises(ModelError, match="no shown item was chosen before the cut"):
        smoothed_rate(np.zeros(3, np.int64), np.array([0, 4, 2]), 1.0)
    with pytest.raises(ModelError, match="no item was shown before the cut"):
        smoothed_rate(np.zeros(3, np.int64), np.zeros(3, np.int64), 1.0)
