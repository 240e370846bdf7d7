"""Diversity of lists, worked by hand; what tells items apart; and what a report costs."""

import numpy as np
import polars as pl
import pytest

from shortlist import Dataset, ItemCF, Schema, evaluate
from shortlist.evaluation.diversity import intra_list_distance, item_vectors, unit_vectors
from shortlist.evaluation.evaluate import WARM_UP


def test_the_distance_in_a_list_is_what_a_hand_works_out():
    """Items of 1: {a}, 2: {a, b}, 3: {b}, 4: none; cosines .7071 (1, 2), .7071 (2, 3), 0 (1, 3)."""
    owners, codes = np.array([1, 2, 2, 3, 3]), np.array([0, 0, 1, 1, 1])
    vectors = unit_vectors(owners, codes, (5, 2))
    top = np.array([[1, 2, 3], [2, 3, -1], [1, 1, -1], [4, 1, -1], [1, -1, -1], [-1, -1, -1]])
    root = 1 / np.sqrt(2)
    by_hand = [1 - 2 * root / 3, 1 - root, 0, 1, np.nan, np.nan]
    assert intra_list_distance(top, vectors) == pytest.approx(by_hand, nan_ok=True)


def test_it_is_the_mean_over_pairs():
    generator = np.random.default_rng(1)
    given = generator.random((30, 8)) < 0.3
    vectors = unit_vectors(*np.nonzero(given), given.shape)
    dense = vectors.toarray()
    for size in (2, 5):
        top = generator.permutation(30)[:size][None]
        pairs = [1 - dense[a] @ dense[b] for i, a in enumerate(top[0]) for b in top[0][i + 1 :]]
        assert intra_list_distance(top, vectors) == pytest.approx([np.mean(pairs)])


def test_items_are_told_apart_by_their_features_or_else_by_training_users(split):
    data = split.training_data()
    by_tags = item_vectors(data)
    assert by_tags.by == "tags"  # price is a number
    tags = data.item_features.columns["tags"]
    assert (np.diff(by_tags.rows.indptr)[1:] == tags.lengths.numpy()[1:]).all()
    log = pl.DataFrame(
        {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [7, 8, 9, 7, 9, 8], "time": range(6)}
    )
    plain = Dataset.load(log, schema=Schema(time="time")).split().training_data()
    by_users = item_vectors(plain)
    assert by_users.by == "the users who met them"
    # User 1 trains on 7 alone, user 2 too: 8 and 9 are held out, and nothing is known of them.
    assert np.diff(by_users.rows.indptr)[plain.items.rows([7, 8, 9])].tolist() == [2, 0, 0]


def test_a_report_has_novelty_and_diversity_of_both_and_its_cost_beside_it(split):
    report = evaluate(ItemCF().fit(split), k=(5, 10), ladder=True)
    for figures in (report.catalogue, report.popularity_catalogue):
        assert figures["novelty@5"] > 0
        assert 0 < figures["diversity@10"] < 1
    assert report.catalogue["novelty@5"] > report.popularity_catalogue["novelty@5"]
    assert report.to_dict()["diversity_by"] == "tags"
    assert list(report.costs) == ["this model", *(rung.name for rung in report.ladder)]
    assert all(cost.query > 0 for cost in report.costs.values())
    assert "costs" not in report.to_dict()
    assert report == evaluate(ItemCF().fit(split), k=(5, 10), ladder=True)
    assert any("CPU µs a query" in line for line in report.lines())


def test_compiled_code_is_loaded_before_the_cost_is_measured(split, monkeypatch):
    """The first answers of a process do without it: they would warm nothing up."""
    done = []
    model = ItemCF().fit(split)
    answers = model.recommend
    monkeypatch.setattr("shortlist.compiled.load", lambda: done.append("loaded"))
    monkeypatch.setattr(
        model, "recommend", lambda *given: [done.append("asked"), answers(*given)][1]
    )
    evaluate(model, k=(5,))
    assert done[:2] == ["loaded", "asked"]


def test_the_cost_of_a_query_has_nothing_of_the_first_answer(split, monkeypatch):
    """A first answer compiles; here it takes a thousand seconds, and each other answer one."""
    now = [0.0]
    monkeypatch.setattr("shortlist.evaluation.evaluate.process_time", lambda: now[0])
    model = ItemCF().fit(split)
    answers, asked = model.recommend, []

    def recommend(queries, k):
        now[0] += 1.0 if asked else 1000.0
        asked.append(len(queries))
        return answers(queries, k)

    monkeypatch.setattr(model, "recommend", recommend)
    costs = evaluate(model, k=(5,), ladder=False).costs
    assert asked[0] <= WARM_UP
    assert costs["this model"].query == pytest.approx((len(asked) - 1) / sum(asked[1:]) * 1e6)
