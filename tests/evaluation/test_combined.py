"""Reports of several trainings as one: worked out by hand, and what its summary says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from shortlist import Dataset, ItemCF, Popular, Schema, TwoTower, evaluate
from shortlist.data.synthetic import planted_world
from shortlist.evaluation import evaluate as measuring
from shortlist.evaluation.combined import combined, width_of
from shortlist.evaluation.evaluate import Untrained, evaluate_beside, user_figures
from shortlist.evaluation.report import Report
from shortlist.evaluation.significance import Interval

SAID = {"on": "test", "k": (5, 20), "exclude_seen": True, "ladder": True}


@pytest.fixture(scope="module")
def models():
    world = planted_world(users=150, items=90, events=1_500, seed=6)
    split = Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()
    towers = {"dim": 4, "epochs": 1, "batch_size": 128}
    return [TwoTower(**towers, seed=seed).fit(split) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def seeds(models):
    return {n: evaluate(model, k=(5, 20), ladder=True) for n, model in enumerate(models)}


def test_differences_are_paired_by_user_and_then_averaged_over_seeds(models, seeds):
    whole = combined("seed", seeds)
    method = ItemCF().fit_data(models[0].data)
    theirs = user_figures(method, k=(5, 20))["recall@20"]
    ours = np.array([user_figures(model, k=(5, 20))["recall@20"] for model in models])
    gaps = ours - theirs  # [seeds, users]
    found = next(rung for rung in whole.ladder if rung.name == "item-cf").difference["recall@20"]
    assert found.mean == pytest.approx(gaps.mean())
    of_users = (gaps.std(axis=1) ** 2).mean() / gaps.shape[1]
    of_seeds = gaps.mean(axis=1).var(ddof=1) / 3
    freedom = 2 * ((of_users + of_seeds) / of_seeds) ** 2
    half = stdtrit(freedom, 0.975) * np.sqrt(of_users + of_seeds)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)  # users are resampled there


def test_slices_over_seeds_sum_to_the_whole(seeds):
    whole = combined("seed", seeds)
    for by in ("history", "items"):
        parts = [part for part in whole.slices if part.by == by]
        assert sum(part.events for part in parts) == whole.counts["held_out_events"]
        found = sum(part.found[20] for part in parts)
        assert found == pytest.approx(whole.metrics["recall@20"].mean * whole.users)


def test_methods_measured_once_are_those_of_each_report_and_of_no_other_rows(models, monkeypatch):
    fits = []
    fitted = measuring._fitted
    counted = lambda method, data: fits.append(method) or fitted(method, data)  # noqa: E731
    monkeypatch.setattr(measuring, "_fitted", counted)
    untrained = Untrained()
    for model in models:
        assert evaluate_beside(model, untrained, **SAID) == evaluate(model, k=(5, 20), ladder=True)
    assert len(fits) == 4 + 4 * len(models)  # once for all, and once in each report alone
    other = planted_world(users=150, items=90, events=1_500, seed=7).interactions
    elsewhere = Popular().fit(Dataset.load(other, schema=Schema(time="timestamp")).split())
    alone = evaluate(elsewhere, k=(5, 20), ladder=True)
    assert evaluate_beside(elsewhere, untrained, **SAID) == alone


def with_recall(report, mean, users=100):
    """The report with another recall@5, and the difference to each method that follows."""
    ladder = tuple(
        replace(
            rung,
            metrics=rung.metrics | {"recall@5": Interval(0.2, 0.15, 0.25)},
            difference=rung.difference | {"recall@5": Interval(mean - 0.2, mean - 0.25, mean)},
        )
        for rung in report.ladder
    )
    own = {**report.metrics, "recall@5": Interval(mean, mean - 0.1, mean + 0.1)}
    return replace(report, users=users, metrics=own, ladder=ladder)


def test_the_summary_says_how_much_is_the_luck_of_a_seed(seeds):
    """Shares .19, .21 and .26: a deviation of .0361, and 1.96 √2 of it is .0999."""
    three = {n: with_recall(seeds[n], share) for n, share in enumerate((0.19, 0.21, 0.26))}
    said = " ".join(combined("seed", three).in_short())
    assert "Each figure is the mean over 3 seeds, and its 95 % interval covers other seeds" in said
    assert (
        "From seed to seed the share among the first 5 varies between 19.0% and 26.0% (standard "
        "deviation 3.6 percentage points): two single trainings less than 10.0 points apart may "
        "differ by the luck of their seeds alone."
    ) in said
    assert "With 2 of the 3 seeds the model finds a larger share than" in said
    folds = " ".join(combined("fold", three).in_short())
    assert "In 2 of the 3 folds the model finds a larger share than" in folds
    assert "luck" not in folds
    page = combined("seed", three).to_html("mine")
    assert "How much do the seeds differ?" in page
    assert "It does not cover other trainings" not in page


def test_one_fold_of_few_users_leaves_no_interval_and_no_verdict(seeds):
    few = {name: Interval(figure.mean, None, None) for name, figure in seeds[0].metrics.items()}
    folds = {1: seeds[1], 2: replace(seeds[0], users=3, metrics=few)}
    whole = combined("fold", folds)
    assert whole.users == seeds[1].users + 3
    assert whole.metrics["recall@5"].ends is None
    said = whole.in_short()[1]
    assert said.startswith("3 users are too few to say whether it is better")
    assert said.endswith("20 or more are needed in each fold.")
    assert "Each figure is the mean over 2 folds." in whole.in_short()
    assert not any("a larger share than" in line for line in whole.in_short())


def test_slices_that_only_some_folds_have_are_summed_in_the_usual_order(seeds):
    part = next(part for part in seeds[0].slices if part.by == "items")
    none = replace(part, by="history", name="none", users=30, events=30)
    short = replace(none, name="5 to 19", users=40, events=50)
    folds = {1: replace(seeds[0], slices=(short, part)), 2: replace(seeds[1], slices=(none, short))}
    found = combined("fold", folds).slices
    assert [(each.by, each.name) for each in found][:2] == [
        ("history", "none"),
        ("history", "5 to 19"),
    ]
    assert [(each.users, each.events) for each in found][:2] == [(30, 30), (80, 100)]
    assert not found[0].enough  # one fold tells nothing of others
    assert found[1].found[5] == 2 * part.found[5]


def test_a_figure_that_the_report_of_an_older_version_lacks_is_left_out(seeds):
    told = seeds[0].to_dict()
    del told["ladder"], told["slices"], told["catalogue"]["gini@5"]
    older = Report.of_dict(told)
    for pair in ({0: older, 1: seeds[1]}, {0: seeds[1], 1: older}):
        whole = combined("seed", pair)
        assert "gini@5" not in whole.catalogue
        assert whole.catalogue["coverage@5"] > 0
        assert whole.in_short()
        assert "mine" in whole.to_html("mine")


def test_the_width_is_that_of_a_table_of_t():
    assert [width_of(n) for n in (1, 2, 5.5, 100)] == pytest.approx(
        [stdtrit(n, 0.975) for n in (1, 2, 5.5, 100)]
    )
