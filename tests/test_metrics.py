"""Metrics: each definition pinned by hand, then against independent implementations."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from shortlist.channels.learned.base import validation_score
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.config import Training
from shortlist.data.dataset import Dataset
from shortlist.data.synthetic import planted_world
from shortlist.errors import DataError, ModelError
from shortlist.metrics import (
    PER_USER,
    average_popularity,
    coverage,
    exposure,
    gini,
    hits,
    novelty,
    per_user,
    popularity_percentile,
)

OURS = ("recall", "hit_rate", "precision", "mrr", "map", "ndcg")
"""The metrics whose definitions are written out here; others have tests of their own."""


def figures(top, relevant, ks):
    """Every metric for lists and the relevant items of each user, given as Python lists."""
    values = np.array([item for items in relevant for item in items], dtype=np.int64)
    counts = np.array([len(items) for items in relevant], dtype=np.int64)
    found = hits(np.array(top), values, np.concatenate([[0], counts.cumsum()]))
    return per_user(found, counts, ks)


def one(top, relevant, k):
    """The figures of a single user at k, by name."""
    got = figures([top], [relevant], [k])
    return {name: got[f"{name}@{k}"].item() for name in PER_USER}


def test_hits_at_ranks_2_and_3_of_four_relevant_items():
    got = one([9, 1, 2], [1, 2, 3, 4], k=3)
    assert {name: got[name] for name in OURS} == pytest.approx(
        {
            "recall": 2 / 4,
            "hit_rate": 1,
            "precision": 2 / 3,
            "mrr": 1 / 2,
            "map": (1 / 2 + 2 / 3) / 3,
            "ndcg": (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2),
        }
    )


def test_the_ideal_of_ndcg_and_map_ends_at_the_number_of_relevant_items():
    got = one([9, 1, 8, 7], [1], k=4)
    assert {name: got[name] for name in OURS} == pytest.approx(
        {
            "recall": 1,
            "hit_rate": 1,
            "precision": 1 / 4,
            "mrr": 1 / 2,
            "map": 1 / 2,
            "ndcg": 1 / math.log2(3),
        }
    )


def test_a_perfect_list_reaches_one_though_more_items_are_relevant_than_it_holds():
    got = one([3, 1], [1, 2, 3, 4], k=2)
    assert {name: got[name] for name in ("ndcg", "map", "mrr", "precision")} == pytest.approx(
        dict.fromkeys(("ndcg", "map", "mrr", "precision"), 1.0)
    )
    assert got["recall"] == 0.5


def test_no_hit_costs_everything():
    assert one([5, 6], [1], k=2) == dict.fromkeys(PER_USER, 0.0)


def test_a_hit_beyond_k_does_not_count_at_k():
    got = figures([[5, 6, 1]], [[1]], ks=[2, 3])
    assert all(got[f"{name}@2"] == 0 for name in PER_USER)
    assert got["mrr@3"] == pytest.approx(1 / 3)


def test_precision_of_a_short_list_is_still_over_k():
    assert one([1, -1, -1, -1], [1], k=4)["precision"] == 0.25


def test_an_empty_slot_is_never_a_hit():
    assert not hits(np.array([[-1, -1], [-1, -1]]), np.array([0, 1]), np.array([0, 1, 2])).any()
    # -1 of the second user must not reach the last item of the first.
    assert not hits(np.array([[0, 2], [-1, 0]]), np.array([9]), np.array([0, 1, 1])).any()


def test_an_item_relevant_to_another_user_only_is_no_hit():
    found = hits(np.array([[1, 2], [1, 2]]), np.array([2, 1]), np.array([0, 1, 2]))
    assert found.tolist() == [[False, True], [True, False]]


def test_a_user_without_relevant_items_has_no_figure():
    got = figures([[1, 2], [1, 2]], [[1], []], ks=[1, 2])
    for values in got.values():
        assert values[0] == pytest.approx(values[0])
        assert np.isnan(values[1])


def test_users_who_all_lack_relevant_items_have_no_figure():
    assert all(np.isnan(values).all() for values in figures([[1, 2]], [[]], ks=[2]).values())


def test_no_users_have_no_figures():
    got = per_user(np.zeros((0, 3), dtype=bool), np.zeros(0, dtype=np.int64), ks=[3])
    assert [len(values) for values in got.values()] == [0] * len(PER_USER)


def test_names_are_metric_at_k():
    assert set(figures([[1, 2]], [[1]], ks=[1, 2])) == {
        f"{name}@{k}" for name in PER_USER for k in (1, 2)
    }


def random_lists(users=200, k=20, items=60, seed=11):
    generator = np.random.default_rng(seed)
    top = np.stack([generator.permutation(items)[:k] for _ in range(users)])
    for user in range(0, users, 7):
        top[user, generator.integers(k) :] = -1
    sizes = generator.integers(1, 30, size=users)
    relevant = [generator.permutation(items)[:size].tolist() for size in sizes]
    return top, relevant


def by_definition(top, relevant, k):
    """One user's figures, each written as its definition reads."""
    gains = [int(item in relevant) for item in top[:k]]
    best = min(k, len(relevant))
    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain]
    return {
        "recall": sum(gains) / len(relevant),
        "hit_rate": float(any(gains)),
        "precision": sum(gains) / k,
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum(sum(gains[:rank]) / rank for rank in ranks) / best,
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks)
        / sum(1 / math.log2(rank + 1) for rank in range(1, best + 1)),
    }


@pytest.mark.parametrize("k", [1, 5, 20])
def test_brute_force_gives_the_same_on_200_users(k):
    top, relevant = random_lists()
    got = figures(top, relevant, [k])
    for user, (line, items) in enumerate(zip(top.tolist(), relevant, strict=True)):
        expected = by_definition(line, items, k)
        for name in OURS:
            assert got[f"{name}@{k}"][user] == pytest.approx(expected[name], abs=1e-12), name


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
given = json.load(sys.stdin)
found = evaluate(Qrels(given["qrels"]), Run(given["run"]), given["names"], return_mean=False)
print(json.dumps({name: list(map(float, values)) for name, values in found.items()}))
"""


def test_ranx_gives_the_same():
    pytest.importorskip("ranx")
    top, relevant = random_lists(users=40)
    qrels = {f"{u:03}": {str(item): 1 for item in items} for u, items in enumerate(relevant)}
    run = {
        f"{u:03}": {str(item): 100.0 - rank for rank, item in enumerate(line) if item >= 0}
        for u, line in enumerate(top.tolist())
    }
    # Its lists cannot be empty; an item that exists nowhere is no hit.
    run = {user: line or {"none": 1.0} for user, line in run.items()}
    k = 10
    names = [f"{name}@{k}" for name in OURS]
    # In a process of its own, where nothing is compiled: that would take most of a minute.
    answer = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps({"qrels": qrels, "run": run, "names": names}),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {name: np.array(values) for name, values in json.loads(answer.stdout).items()}
    ours = figures(top, relevant, [k])
    # Its average precision is over all relevant items, ours over those that fit into k.
    counts = np.array([len(items) for items in relevant])
    theirs[f"map@{k}"] = theirs[f"map@{k}"] * counts / np.minimum(counts, k)
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-9, err_msg=name)


def test_torchmetrics_gives_the_same():
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    import torch

    theirs = {
        "recall": retrieval.retrieval_recall,
        "hit_rate": retrieval.retrieval_hit_rate,
        "precision": retrieval.retrieval_precision,
        "ndcg": retrieval.retrieval_normalized_dcg,
        "mrr": retrieval.retrieval_reciprocal_rank,
    }  # Its average precision is over the hits found: another figure.
    generator = np.random.default_rng(5)
    items, k = 40, 10
    for _ in range(20):
        order = generator.permutation(items)
        relevant = generator.permutation(items)[: generator.integers(1, 25)]
        scores = torch.empty(items)
        scores[torch.from_numpy(order)] = torch.linspace(1, 0.1, items)
        target = torch.zeros(items, dtype=torch.bool)
        target[torch.from_numpy(relevant)] = True
        ours = one(order.tolist(), relevant.tolist(), k)
        for name, metric in theirs.items():
            assert ours[name] == pytest.approx(metric(scores, target, top_k=k).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("top", "values", "offsets", "message"),
    [
        ([[1, 2, 1]], [1], [0, 1], "the list of user 0 holds item 1 twice"),
        ([[1, 2], [3, 3]], [1], [0, 1, 1], "the list of user 1 holds item 3 twice"),
        ([[1, 2]], [4, 5, 4], [0, 3], "item 4 is listed as relevant twice for user 0"),
        ([[1, 2]], [1], [0, 2], "offsets must run from 0 to 1"),
        ([[1, 2]], [1], [0, 1, 1], "offsets must run from 0 to 1"),
        ([[1, 2]], [-1], [0, 1], "relevant items must be >= 0"),
        ([[2**62, 2]] * 2, [1], [0, 1, 1], "overflow int64"),
    ],
)
def test_lists_that_would_be_counted_wrong_are_refused(top, values, offsets, message):
    with pytest.raises(DataError, match=message):
        hits(np.array(top), np.array(values), np.array(offsets))


def test_two_users_may_share_a_relevant_item_and_empty_slots_repeat():
    found = hits(np.array([[4, -1, -1], [4, -1, -1]]), np.array([4, 4]), np.array([0, 1, 2]))
    assert found[:, 0].all()


@pytest.mark.parametrize("k", [0, -1, 3])
def test_k_beyond_the_lists_is_refused(k):
    with pytest.raises(ModelError, match="k must be between 1 and"):
        figures([[1, 2]], [[1]], ks=[k])


def test_fewer_relevant_items_than_hits_is_refused():
    with pytest.raises(DataError, match="no fewer than the hits"):
        per_user(np.array([[True, True]]), np.array([1]), ks=[2])


def test_what_lists_do_to_the_catalogue_by_hand():
    top = np.array([[1, 2], [1, -1], [1, 3]])
    shown = exposure(top, items=6)[1:]  # Row 0 is no item.
    assert shown.tolist() == [3, 1, 1, 0, 0]
    popularity = np.array([10, 4, 4, 1, 0])
    assert coverage(shown) == 3 / 5
    assert average_popularity(shown, popularity) == (3 * 10 + 4 + 4) / 5
    # Percentiles: item 1 has four below and half of itself; items 2 and 3 share the middle.
    assert popularity_percentile(shown, popularity) == pytest.approx((3 * 0.9 + 2 * 0.6) / 5)
    # Mean absolute difference over all pairs, over twice the mean.
    pairs = abs(shown[:, None] - shown[None, :]).mean()
    assert gini(shown) == pytest.approx(pairs / (2 * shown.mean()))


def test_novelty_is_what_a_hand_works_out():
    """Shares 4/8, 3/8, 1/8 of the events; the item without one counts as one with one."""
    shown = np.array([2, 0, 1, 1])
    popularity = np.array([4, 3, 1, 0])
    assert novelty(shown, popularity) == pytest.approx((2 * 1 + 3 + 3) / 4)
    assert novelty(shown, popularity * 5) == pytest.approx((2 + 3 + math.log2(40)) / 4)


def test_random_lists_are_neutral_in_popularity_and_popular_ones_are_not():
    generator = np.random.default_rng(2)
    popularity = np.sort(generator.zipf(1.5, size=500))
    assert popularity_percentile(np.full(500, 7), popularity) == pytest.approx(0.5)
    most_popular = np.where(np.arange(500) >= 495, 100, 0)
    assert popularity_percentile(most_popular, popularity) > 0.99


def test_empty_lists_have_no_popularity_and_cover_nothing():
    shown = exposure(np.full((3, 2), -1), items=4)
    assert coverage(shown) == 0
    assert math.isnan(gini(shown))
    assert math.isnan(average_popularity(shown, shown))
    assert math.isnan(popularity_percentile(shown, shown))
    assert math.isnan(novelty(shown, shown))


def test_exposure_adds_up_over_blocks_of_users():
    top, _ = random_lists()
    whole = exposure(top, items=60)
    assert (exposure(top[:77], items=60) + exposure(top[77:], items=60) == whole).all()


def test_a_metric_is_one_row_of_the_table_measured_and_monitored(monkeypatch):
    def early(found, relevant):
        return found[:, :3].any(1) / relevant

    monkeypatch.setitem(PER_USER, "early", early)
    found = per_user(np.array([[True, False], [False, False]]), np.array([2, 0]), ks=[2])
    np.testing.assert_array_equal(found["early@2"], [0.5, np.nan])
    assert Training(monitor="early@5").monitor == "early@5"


def test_every_metric_can_pick_the_epoch():
    world = planted_world(users=40, items=40, events=400, seed=1)
    split = Dataset.load(world.interactions).split("random")
    fitted = TwoTower(epochs=1, dim=4, batch_size=128, history="mean").fit(split)
    for name in PER_USER:
        assert 0 < validation_score(fitted, f"{name}@20") <= 1


def test_novelty_is_of_all_training_events_where_some_items_are_no_candidates():
    shown = np.array([2, 0])
    assert novelty(shown, np.array([4, 4]), events=32) == pytest.approx(3)
