"""The evaluation against brute force, and what it must refuse or count."""

import numpy as np
import polars as pl
import pytest

import shortlist.evaluation.evaluate as evaluating
from shortlist.asking.queries import Queries
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.evaluation.evaluate import evaluate


def brute_force(retriever, k, exclude_seen=True):
    """Recall, NDCG and MRR at k, a Python loop over users, scores from the exported vectors."""
    data = retriever.data
    ids, vectors = retriever.encode_items()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    order = np.argsort(data.items.tie_keys[data.items.rows(ids)])
    found = {"recall": [], "ndcg": [], "mrr": []}
    for row, user in enumerate(data.users.ids, start=1):
        events = slice(*data.log.indptr[row : row + 2])
        item, role = data.log.item[events], data.log.role[events]
        wanted, met = set(item[role == 2].tolist()), set(item[role < 2].tolist())
        if not wanted:
            continue
        query = retriever.encode_users(Queries([user], before="test"))
        scores = (vectors @ (query / query.norm()).T)[:, 0]
        ranked = sorted(order, key=lambda place: -scores[place].item())
        rows = data.items.rows(ids)
        allowed = [rows[p] for p in ranked if not (exclude_seen and rows[p] in met)][:k]
        hits = np.array([r in wanted for r in allowed])
        gains = 1 / np.log2(np.arange(2, len(hits) + 2))
        found["recall"].append(hits.sum() / len(wanted))
        found["ndcg"].append((hits * gains).sum() / gains[: min(k, len(wanted))].sum())
        found["mrr"].append(1 / (1 + hits.argmax()) if hits.any() else 0.0)
    return {name: float(np.mean(values)) for name, values in found.items()}, len(found["mrr"])


@pytest.mark.parametrize("kind", ["leave-last-out", "random"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_report_equals_brute_force(world, kind, exclude_seen):
    split = Dataset.load(world.interactions, schema=Schema(time="timestamp")).split(kind)
    model = TwoTower(dim=8, epochs=1, batch_size=128).fit(split)
    report = evaluate(model, k=(7,), exclude_seen=exclude_seen)
    by_hand, users = brute_force(model, 7, exclude_seen)
    assert report.users == users
    for name, value in by_hand.items():
        assert report.metrics[f"{name}@7"].mean == pytest.approx(value, abs=1e-9)


def test_popularity_stands_beside_on_the_same_cases_and_rows(fitted, split):
    report = evaluate(fitted, k=(10,))
    alone = evaluate(Popular().fit(split), k=(10,))
    assert report.popularity == alone.metrics
    assert alone.differences["ndcg@10"] == (0, 0, 0)
    assert report.metrics["ndcg@10"].mean - report.popularity["ndcg@10"].mean == pytest.approx(
        report.differences["ndcg@10"].mean
    )


def test_a_model_fitted_on_the_rows_it_would_be_measured_on_is_refused(split):
    with pytest.raises(ModelError, match="worthless"):
        evaluate(Popular().fit(split, "all"))
    with pytest.raises(ModelError, match="worthless"):
        evaluate(Popular().fit(split, "train+validation"), on="validation")


def test_held_out_items_nobody_can_recommend_are_misses_and_counted():
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 2, 2, 2, 2],
            "item_id": [1, 2, 3, 99, 3, 2, 1, 3],
            "time": [1, 2, 3, 4, 1, 2, 3, 4],
        }
    )
    split = Dataset.load(frame, schema=Schema(time="time")).split()
    report = evaluate(Popular().fit(split), k=(3,))
    assert report.users == 2
    assert report.counts["held_out_items_not_candidates"] == 1
    assert report.counts["held_out_items_already_seen"] == 1
    assert report.metrics["recall@3"].mean == 0
    repeat = evaluate(Popular().fit(split), k=(3,), exclude_seen=False)
    assert repeat.counts["held_out_items_already_seen"] == 0
    assert repeat.metrics["recall@3"].mean == 0.5
    assert sum("counts as a miss" in line for line in report.lines()) == 2


def test_a_constant_scorer_gets_what_chance_gives():
    """Every item once: popularity ties everywhere, so the hash decides and must not favour ids."""
    items = 400
    users = np.repeat(np.arange(items // 4), 4)
    frame = pl.DataFrame(
        {"user_id": users, "item_id": np.arange(items), "time": np.tile(np.arange(4), items // 4)}
    )
    catalogue = pl.DataFrame({"item_id": np.arange(items), "x": np.zeros(items)})
    from shortlist.data.schema import Feature

    schema = Schema(time="time", item_features=(Feature("x", "numeric"),))
    split = Dataset.load(frame, items=catalogue, schema=schema).split()
    report = evaluate(Popular().fit(split), k=(10, 397))
    # 200 trained items come first (two a user, tied); the tests lie among the other 200, tied too.
    assert report.metrics["recall@10"].mean == 0
    assert report.metrics["recall@397"].mean == 1
    mrr = report.metrics["mrr@397"]
    chance = np.mean(1 / np.arange(199, 397))
    assert mrr.low < chance < mrr.high


def test_the_json_form_has_the_promised_keys(fitted):
    report = evaluate(fitted, k=(5, 10)).to_dict()
    assert {"split", "users", "candidate_items", "metrics", "baseline"} <= report.keys()
    assert set(report["metrics"]["recall@10"]) == {"mean", "low", "high"}
    assert report["baseline"]["popularity"].keys() == report["metrics"].keys()
    assert {"hit_rate@5", "ndcg@5", "mrr@5", "precision@5", "map@5"} <= report["metrics"].keys()
    assert {"coverage@5", "popularity_percentile@10"} <= report["catalogue"].keys()


def test_a_depth_far_beyond_the_catalogue_takes_few_users_at_a_time(fitted, monkeypatch):
    widths = []
    padded = evaluating._padded
    monkeypatch.setattr(evaluating, "SLOTS_AT_A_TIME", 10_000)
    monkeypatch.setattr(
        evaluating, "_padded", lambda rows, k: widths.append(len(rows)) or padded(rows, k)
    )
    deep = evaluate(fitted, k=[10, 1_000]).metrics
    assert max(widths) == 10
    monkeypatch.undo()
    assert evaluate(fitted, k=[10]).metrics["ndcg@10"].mean == deep["ndcg@10"].mean
