"""Bootstrap intervals: against theory, against the plain bootstrap, and on what they refuse."""

import numpy as np
import pytest

from shortlist.errors import DataError, ModelError
from shortlist.evaluation import significance
from shortlist.evaluation.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    paired_interval,
    paired_p,
)


def test_a_large_sample_gives_the_interval_of_the_normal_law():
    values = np.random.default_rng(1).random(20_000)
    interval = bootstrap_interval(values, seed=2)
    error = values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_resampled_means_spread_as_drawing_users_one_by_one_does():
    values = np.random.default_rng(3).exponential(size=12)
    interval = bootstrap_interval(values, seed=4, samples=20_000)
    generator = np.random.default_rng(5)
    plain = values[generator.integers(12, size=(20_000, 12))].mean(axis=1)
    low, high = np.quantile(plain, [0.025, 0.975])
    assert interval.low == pytest.approx(low, rel=0.03)
    assert interval.high == pytest.approx(high, rel=0.03)


def test_95_of_100_intervals_hold_the_truth():
    generator = np.random.default_rng(6)
    held = 0
    for trial in range(300):
        interval = bootstrap_interval(generator.random(100) < 0.3, seed=trial, samples=200)
        held += interval.low <= 0.3 <= interval.high
    assert 0.90 < held / 300 < 0.99


def test_a_lower_level_is_narrower():
    values = np.random.default_rng(7).random(500)
    wide, narrow = (bootstrap_interval(values, seed=1, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    values = np.random.default_rng(8).random(300)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_memory_blocks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(9).random(300)
    whole = bootstrap_interval(values, seed=1)
    monkeypatch.setattr(significance, "WEIGHTS", 1000)
    assert bootstrap_interval(values, seed=1) == pytest.approx(whole)


def test_several_figures_together_are_each_as_alone():
    generator = np.random.default_rng(10)
    columns = {name: generator.random(200) for name in ("recall@10", "ndcg@10")}
    together = bootstrap_intervals(columns, seed=3)
    for name, values in columns.items():
        assert together[name] == pytest.approx(bootstrap_interval(values, seed=3))


def test_no_figures_give_no_intervals():
    assert bootstrap_intervals({}, seed=1) == {}


def test_a_small_steady_gain_is_seen_in_pairs_and_not_side_by_side():
    generator = np.random.default_rng(11)
    b = generator.random(400)
    a = b + 0.01 + 0.02 * generator.standard_normal(400)
    paired = paired_interval(a, b, seed=1)
    assert paired.mean == pytest.approx((a - b).mean())
    assert 0 < paired.low < paired.high
    assert bootstrap_interval(a, seed=1).low < bootstrap_interval(b, seed=1).high


def test_the_sign_of_a_pair_is_first_less_second():
    better, worse = np.ones(10), np.zeros(10)
    assert paired_interval(better, worse, seed=1) == (1.0, 1.0, 1.0)
    assert paired_interval(worse, better, seed=1) == (-1.0, -1.0, -1.0)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [[1.0, 2.0]]])
def test_figures_that_are_missing_are_refused(values):
    with pytest.raises(DataError, match="finite figure"):
        bootstrap_interval(np.array(values), seed=1)


def test_models_measured_on_other_users_are_refused():
    with pytest.raises(DataError, match="same users"):
        paired_interval(np.ones(3), np.ones(1), seed=1)
    with pytest.raises(DataError, match="same users"):
        bootstrap_intervals({"a": np.ones(3), "b": np.ones(2)}, seed=1)


def test_p_of_a_pair_is_what_a_table_of_t_gives():
    """Mean .75, deviation .5, of 4 users: t = 3 with 3 degrees of freedom."""
    assert paired_p(np.array([1.0, 1.0, 0.0, 1.0])) == pytest.approx(0.05767, abs=1e-5)
    assert paired_p(-np.array([1.0, 1.0, 0.0, 1.0])) == pytest.approx(0.05767, abs=1e-5)


def test_p_where_nothing_or_everything_differs():
    assert paired_p(np.zeros(50)) == 1.0
    assert paired_p(np.array([0.5])) == 1.0
    assert paired_p(np.full(50, 0.25)) == 0.0
    with pytest.raises(DataError, match="finite"):
        paired_p(np.array([np.nan, 1.0]))


def test_p_of_models_that_are_alike_is_even():
    generator = np.random.default_rng(2)
    found = np.array([paired_p(generator.normal(size=40)) for _ in range(2000)])
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (found < 0.5).mean() == pytest.approx(0.5, abs=0.035)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # .01 x 3, .03 x 2, .04 x 1 but no less than .06
        ([0.2], [0.2]),
        ([0.4, 0.01, 0.6, 0.02], [0.8, 0.04, 0.8, 0.06]),
        ([0.7, 0.9], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_is_what_a_hand_works_out(p, corrected):
    assert holm(p) == pytest.approx(corrected)


@pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": 95}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ModelError, match="samples must be"):
        bootstrap_interval(np.ones(3), seed=1, **options)
