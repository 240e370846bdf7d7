"""ItemCF: exact sums over stored neighbours, the same answers by every way in, new events."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Schema
from shortlist.errors import ModelError

FULL = {"neighbours": 300}  # every neighbour of the planted world
MIXED = {"user_weighting": "iuf", "shrinkage": 2.0, "time_decay": 86400.0, "recency": 5.0}


@pytest.fixture(scope="module")
def data(split):
    return split.training_data()


def log_of(rows, **schema):
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "t", "w"], orient="row")
    return Dataset.load(frame, schema=Schema(time="t", weight="w", **schema))


def everything(dataset):
    """Training data of a log too small to be split: all of it."""
    role = np.zeros(len(dataset.log), dtype=np.int8)
    return Split(dataset, replace(dataset.log, role=role), "random").training_data("all")


def incidence(data):
    matrix = np.zeros((data.users.trained + 1, data.items.trained + 1))
    matrix[data.training_log.user, data.training_log.item] = 1
    return matrix


def cosine(data):
    matrix = incidence(data)
    norm = np.sqrt(matrix.sum(0))
    similar = matrix.T @ matrix / np.maximum(np.outer(norm, norm), 1e-9)
    np.fill_diagonal(similar, 0)
    return similar


def block_of(data, count=None, **given):
    users = data.users.ids[: count or data.users.trained]
    return next(row_blocks(Queries(users=users, before="validation", **given), data))


def test_scores_are_the_product_of_the_history_and_the_similarities(data):
    model = ItemCF(**FULL).fit_data(data)
    block = block_of(data)
    expected = (incidence(data)[1:] @ cosine(data))[:, 1:]
    found = model.scores(model.profile(block))
    np.testing.assert_allclose(np.where(np.isfinite(found), found, 0), expected, rtol=1e-5)
    assert (np.isfinite(found) == (expected > 0)).all()


@pytest.mark.parametrize("weighting", ["iuf", "inverse"])
def test_users_of_many_items_count_less(weighting):
    # Items 1 and 2 meet in user 1 of two items and in user 2 of three.
    rows = [(1, 1, 1, 1.0), (1, 2, 2, 1.0), (2, 1, 1, 1.0), (2, 2, 2, 1.0), (2, 3, 3, 1.0)]
    model = ItemCF(similarity="dot", user_weighting=weighting).fit_data(everything(log_of(rows)))
    by_hand = {"iuf": 1 / np.log(3) + 1 / np.log(4), "inverse": 1 / 2 + 1 / 3}[weighting]
    assert model.similar([1], 1).scores[0, 0] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("options", [{}, {"neighbours": 3}, MIXED])
def test_search_gives_the_dense_scores_in_order_bit_for_bit(data, options, exclude):
    model = ItemCF(**options).fit_data(data)
    block, keys = block_of(data, 120, exclude_seen=exclude), data.items.tie_keys
    hits = model.search(block, 150)
    scores = model.scores(model.profile(block))
    for query in range(120):
        met = block.history.values[block.history.offsets[query] : block.history.offsets[query + 1]]
        banned = set(met.tolist()) if exclude else set()
        rows = [c + 1 for c in np.flatnonzero(np.isfinite(scores[query])) if c + 1 not in banned]
        rows.sort(key=lambda row: (-scores[query, row - 1], keys[row]))
        rows = rows[:150]
        assert hits.ids[query, : len(rows)].tolist() == rows
        assert (hits.ids[query, len(rows) :] == -1).all()
        np.testing.assert_array_equal(
            hits.scores[query, : len(rows)], scores[query, np.array(rows, int) - 1]
        )
        assert (hits.scores[query, len(rows) :] == float("-inf")).all()


def test_a_list_is_as_long_as_what_the_history_touches():
    # Users 1 and 2 share 10 and 20; 30 and 40 stand apart.
    rows = [(1, 10, 1, 1.0), (1, 20, 2, 1.0), (2, 10, 1, 1.0), (2, 20, 2, 1.0)]
    rows += [(3, 30, 1, 1.0), (3, 40, 2, 1.0)]
    model = ItemCF().fit_data(everything(log_of(rows)))
    answer = model.recommend(Queries(histories=[[10], [30, 40], [], [99]]), 3)
    assert answer.ids[:2] == [[20], []]
    assert answer.scores[0].tolist() == [1.0, float("-inf"), float("-inf")]
    assert answer.fallback.tolist() == [False, False, True, True]
    assert len(answer.ids[2]) == 3
    seen = model.recommend(Queries(histories=[[30, 40]], exclude_seen=False), 9)
    assert sorted(seen.ids[0]) == [30, 40]


def test_a_user_and_the_list_of_their_items_get_the_same(data):
    model = ItemCF(recency=4.0, latest_items=7).fit_data(data)
    users = data.users.ids[:30]
    lists = [
        data.items.external(data.log.before("validation").item[a:b].astype(np.int64)).to_list()
        for a, b in zip(
            *[data.log.before("validation").indptr[i : i + 30] for i in (1, 2)], strict=True
        )
    ]
    by_id = model.recommend(Queries(users=users, before="validation"), 20)
    by_list = model.recommend(Queries(histories=lists), 20)
    np.testing.assert_array_equal(by_id.rows, by_list.rows)
    np.testing.assert_array_equal(by_id.scores, by_list.scores)


@pytest.mark.parametrize("options", [{}, MIXED, {"similarity": "swing", "swing_users": 5}])
def test_a_saved_model_answers_with_the_same_bits(data, options):
    model = ItemCF(**options).fit_data(data)
    settings, states = model.state()
    again = ItemCF.from_state(data, json.loads(json.dumps(settings)), states)
    queries = Queries(users=data.users.ids[:50])
    first, second = model.recommend(queries, 30), again.recommend(queries, 30)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_similar_items_are_the_stored_neighbours():
    rows = [
        (u, i, t, 1.0)
        for u, items in enumerate([[1, 2], [1, 2], [1, 3]])
        for t, i in enumerate(items)
    ]
    model = ItemCF(neighbours=1).fit_data(everything(log_of(rows)))
    near = model.similar([2, 3, 77], 2)
    assert near.ids[:2] == [[1], [1]]
    np.testing.assert_allclose(near.scores[:2, 0], [2 / np.sqrt(6), 1 / np.sqrt(3)], rtol=1e-6)
    assert near.fallback.tolist() == [False, False, True]


@pytest.mark.parametrize("options", [{}, MIXED, {"values": "explicit"}])
def test_contributions_sum_to_the_score_and_deleting_an_event_takes_its_own_away(data, options):
    model = ItemCF(**options).fit_data(data)
    users = data.users.ids[:4]
    queries = Queries(users=users, before="validation")
    answer = model.recommend(queries, 5)
    why = model.explain(queries, answer.ids)
    assert set(why["kind"]) == {"event"}
    sums = why.group_by("query", "item").agg(pl.col("contribution").sum())
    for query, item, total in sums.iter_rows():
        place = answer.ids[query].index(item)
        assert total == pytest.approx(float(answer.scores[query, place]), rel=1e-5)
    block = next(row_blocks(queries, data))
    profile = model.profile(block)
    query, item, _, because, contribution = why.row(0)
    column = int(data.items.rows([item])[0]) - 1
    deleted = profile.copy().tolil()
    deleted[query, int(data.items.rows([int(because)])[0])] = 0
    after = model.scores(deleted.tocsr())[query, column]
    after = after if np.isfinite(after) else 0
    assert model.scores(profile)[query, column] - after == pytest.approx(contribution, rel=1e-4)


def test_time_decay_reads_seconds_in_the_unit_of_the_column():
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 2],
            "item_id": [1, 2, 3],
            "t": pl.Series([0, 3_600_000, 0]).cast(pl.Datetime("ms")),
        }
    )
    data = everything(Dataset.load(frame, schema=Schema(time="t")))
    model = ItemCF(time_decay=3600.0).fit_data(data)
    assert model.similar([1], 1).scores.tolist() == [[0.5]]


def test_explicit_values_are_read_from_the_last_event_of_a_pair():
    rows = [(1, 1, 1, 5.0), (1, 1, 2, 3.0), (1, 2, 3, 4.0), (2, 1, 1, 4.0), (2, 3, 2, 1.0)]
    data = everything(log_of(rows))
    model = ItemCF(values="explicit", similarity="dot").fit_data(data)
    near = model.similar([1], 2)
    assert near.ids == [[2, 3]]
    assert near.scores.tolist() == [[12.0, 4.0]]
    # Cosine divides by the lengths of the columns: |(3, 4)| = 5, and 4.
    cosines = ItemCF(values="explicit").fit_data(data).similar([1], 2)
    assert cosines.scores[0].tolist() == pytest.approx([0.8, 0.6])
    assert cosines.ids == [[3, 2]]


REFUSED = [
    ({"alpha": 0.5}, "alpha does nothing"),
    ({"similarity": "jaccard", "time_decay": 60.0}, "jaccard compares sets"),
    ({"similarity": "jaccard", "values": "explicit"}, "for cosine and dot"),
    ({"similarity": "conditional", "item_weighting": "tf-idf"}, "for cosine and dot"),
    ({"item_weighting": "tf-idf", "user_weighting": "iuf"}, "weights users already"),
    ({"item_weighting": "bm25"}, "its lengths cancel"),
    ({"bm25_b": 0.5}, "need item_weighting = 'bm25'"),
    ({"item_weighting": "bm25", "similarity": "dot", "bm25_b": 1.5}, "from 0 to 1"),
    ({"similarity": "swing", "shrinkage": 3.0}, "swing has its own weights"),
    ({"most_items": 1}, "leaves no two items"),
    ({"swing_users": 5}, "need similarity = 'swing'"),
    ({"neighbours": 0}, "neighbours"),
    ({"neighbors": 5}, "Did you mean|neighbours"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_do_nothing_together_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        ItemCF(**options)


@pytest.mark.parametrize("option", ["recency", "latest_items", "most_items", "time_decay"])
def test_options_about_time_need_a_time(option):
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2] * 9, "item_id": list(range(36))})
    split = Dataset.load(frame).split()
    with pytest.raises(ModelError, match=f"{option} needs data.time"):
        ItemCF(**{option: 5 if option.endswith("_items") else 5.0}).fit(split)
    with pytest.raises(ModelError, match=r"needs data\.weight"):
        ItemCF(values="explicit").fit(split)


def grown(seed):
    """A log, and the same log with later events: a new user, a new item, old users go on."""
    rng = np.random.default_rng(seed)
    rows = [
        (int(u), int(i), t, float(rng.integers(1, 6)))
        for t, (u, i) in enumerate(
            zip(rng.integers(5, 60, 300), 2 * rng.zipf(1.3, 300).clip(max=60), strict=True)
        )
    ]
    more = [
        (7, 4, 301, 2.0),
        (7, 999, 302, 1.0),
        (3, 6, 303, 5.0),
        (3, 8, 304, 1.0),
        (8, 5, 305, 4.0),
    ]
    return (everything(log_of(part)) for part in (rows, rows + more))


OBSERVED = [
    {},
    {"similarity": "jaccard", "user_weighting": "iuf"},
    {"similarity": "conditional", "shrinkage": 1.0},
    {"similarity": "dot", "user_weighting": "iuf", "time_decay": 40.0},
    {"values": "explicit"},
    {"item_weighting": "tf-idf"},
    {"item_weighting": "bm25", "similarity": "dot"},
    {"similarity": "swing", "swing_users": 3},
    {"most_items": 3},
    {"most_items": 4, "values": "explicit", "item_weighting": "tf-idf"},
]


@pytest.mark.parametrize("options", OBSERVED)
@pytest.mark.parametrize("seed", [1, 2])
def test_new_events_give_what_a_whole_fit_gives_bit_for_bit(options, seed):
    before, after = grown(seed)
    whole = ItemCF(neighbours=5, **options).fit_data(after)
    model = ItemCF(neighbours=5, **options).fit_data(before)
    assert len(model.neighbours) < len(whole.neighbours)
    model = model.observe(after)
    for name in ("start", "ids", "scores"):
        found, wanted = (getattr(m.neighbours, name) for m in (model, whole))
        np.testing.assert_array_equal(found, wanted)
    answers = [m.recommend(Queries(histories=[[4, 999], [6]]), 5) for m in (model, whole)]
    np.testing.assert_array_equal(answers[0].rows, answers[1].rows)


@pytest.mark.parametrize("options", OBSERVED[:-2])
def test_most_items_is_a_fit_on_the_latest_distinct_items_of_each_user(options):
    data = next(grown(3))
    whole = ItemCF(neighbours=5, most_items=2, **options).fit_data(data)
    log, last = data.log, {}
    for at, pair in enumerate(zip(log.user.tolist(), log.item.tolist(), strict=True)):
        last[pair] = at
    kept = np.zeros(len(log), bool)
    for user in set(log.user.tolist()):
        kept[sorted(at for (owner, _), at in last.items() if owner == user)[-2:]] = True
    by_hand = ItemCF(neighbours=5, **options).fit_data(replace(data, log=log.keep(kept)))
    np.testing.assert_array_equal(whole.neighbours.ids, by_hand.neighbours.ids)
    np.testing.assert_array_equal(whole.neighbours.scores, by_hand.neighbours.scores)


def test_new_events_leave_rows_alone_that_cannot_differ(monkeypatch):
    rows = [
        (u, i, t, 1.0)
        for t, (u, i) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2), (3, 5), (3, 6), (4, 6), (4, 7)])
    ]
    old, new = (everything(log_of(part)) for part in (rows, [*rows, (4, 8, 99, 1.0)]))
    model, made = ItemCF().fit_data(old), []
    nearest = model._nearest
    monkeypatch.setattr(
        model, "_nearest", lambda data, pairs, rows: made.append(rows) or nearest(data, pairs, rows)
    )
    model = model.observe(new)
    # Users 1 and 2 and their items have nothing to do with user 4, whose items are 6, 7, 8.
    assert new.items.external(made[0]).to_list() == [6, 7, 8]


def test_only_allowed_items_are_given_and_the_lists_are_filled_up_with_them(data):
    model = ItemCF().fit_data(data)
    block = block_of(data, 20)
    allow = torch.zeros(len(data.items) + 1, dtype=torch.bool)
    allow[1::3] = True
    found, whole = model.search(replace(block, allow=allow), 15), model.search(block, 200)
    for query in range(20):
        rows = [r for r in whole.ids[query].tolist() if r > 0 and allow[r]][:15]
        assert found.ids[query, : len(rows)].tolist() == rows
        assert (found.ids[query, len(rows) :] == -1).all()
