"""UserCF: the nearest users and what they met, against a dense oracle; explanations that hold."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.capabilities import FindsSimilar
from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.channels.counting import user_cf
from shortlist.channels.counting.user_cf import UserCF
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Schema
from shortlist.errors import ModelError


@pytest.fixture(scope="module")
def data(split):
    return split.training_data()


def everything(rows):
    """Training data of a small log, all of it."""
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "t", "w"], orient="row")
    dataset = Dataset.load(frame, schema=Schema(time="t", weight="w"))
    role = np.zeros(len(dataset.log), dtype=np.int8)
    return Split(dataset, replace(dataset.log, role=role), "random").training_data("all")


def oracle(data, profile, own, similarity, iuf, count, matrix):
    """Neighbours and scores of one query, by plain loops: {user: sim}, [items + 1]."""
    users = matrix.shape[0]
    counts = (matrix != 0).sum(0)
    weight = (
        np.where(counts > 0, 1 / np.log1p(np.maximum(counts, 1)), 0) if iuf else 1.0 * (counts >= 0)
    )
    near = []
    for user in range(1, users):
        if similarity == "cosine":
            below = np.linalg.norm(profile) * np.linalg.norm(matrix[user])
            value = (profile * weight * matrix[user]).sum() / below if below else 0
        else:
            shared = (profile * matrix[user] * weight).sum()
            below = (profile * weight).sum() + (matrix[user] * weight).sum() - shared
            value = shared / below if below else 0
        if value != 0 and user != own:
            near.append((-np.float32(value), data.users.tie_keys[user], user))
    near = sorted(near)[:count]
    scores = np.zeros(matrix.shape[1])
    for value, _, user in near:
        scores += -np.float64(value) * matrix[user]
    touched = np.zeros(matrix.shape[1], bool)
    for _, _, user in near:
        touched |= matrix[user] != 0
    return {user: -value for value, _, user in near}, np.where(touched, scores, -np.inf)


CASES = [
    {},
    {"neighbours": 7},
    {"similarity": "jaccard"},
    {"similarity": "jaccard", "item_weighting": "iuf", "neighbours": 15},
    {"item_weighting": "iuf", "recency": 3.0, "neighbours": 20},
    {"values": "explicit", "latest_items": 6},
]


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("options", CASES)
def test_lists_are_those_of_the_oracle(data, options, exclude, monkeypatch):
    monkeypatch.setattr(user_cf, "PRODUCTS", 3000)  # several parts, as with many queries
    model = UserCF(**options).fit_data(data)
    chosen = data.users.ids[:12]
    queries = Queries(users=chosen, before="validation", exclude_seen=exclude)
    block = next(row_blocks(queries, data))
    profiles = model.profile(block).toarray()
    hits, near = model.search(block, 25), model.neighbours_of(block)
    explicit = options.get("values") == "explicit"
    log = data.training_log
    matrix = np.zeros((data.users.trained + 1, data.items.trained + 1))
    matrix[log.user, log.item] = log.weight if explicit else 1
    for query in range(12):
        similar, scores = oracle(
            data,
            profiles[query].astype(np.float64),
            int(block.users[query]),
            options.get("similarity", "cosine"),
            "item_weighting" in options,
            options.get("neighbours", 100),
            matrix,
        )
        row = near[[query]]
        found = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        assert found == pytest.approx(similar, rel=1e-6)
        if exclude:
            offsets = block.history.offsets
            scores[block.history.values[offsets[query] : offsets[query + 1]]] = -np.inf
        scores[0] = -np.inf
        expected = np.sort(scores)[::-1][:25]
        np.testing.assert_allclose(hits.scores[query], expected, rtol=1e-5)
        ids = hits.ids[query].numpy()
        there = ids >= 0
        assert (there == np.isfinite(expected)).all()
        np.testing.assert_allclose(scores[ids[there]], hits.scores[query][there], rtol=1e-5)


def test_ties_go_by_the_tie_keys_of_users_and_of_items():
    # Users 1..6 have item 1 and one more of their own; the query has item 1.
    data = everything([(u, i, 1, 1.0) for u in range(1, 7) for i in (1, 10 + u)])
    answer = UserCF(neighbours=3).fit_data(data).recommend(Queries(histories=[[1]]), 9)
    near = sorted(range(1, 7), key=lambda u: data.users.tie_keys[data.users.rows([u])[0]])[:3]
    expected = sorted(
        (10 + u for u in near), key=lambda i: data.items.tie_keys[data.items.rows([i])[0]]
    )
    assert answer.ids == [expected]
    np.testing.assert_allclose(answer.scores[0, :3], 1 / np.sqrt(2), rtol=1e-6)
    assert (answer.scores[0, 3:] == -np.inf).all()


def test_a_known_user_is_no_neighbour_of_their_own_and_a_list_of_the_same_items_may_be():
    data = everything([(1, 1, 1, 1.0), (1, 2, 2, 1.0), (2, 2, 1, 1.0), (2, 3, 2, 1.0)])
    model = UserCF(neighbours=1).fit_data(data)
    assert model.recommend([1], 3).ids == [[3]]
    assert model.recommend(Queries(histories=[[1, 2]]), 3).ids == [[]]
    wider = UserCF(neighbours=2).fit_data(data)
    assert wider.recommend(Queries(histories=[[1, 2]]), 3).ids == [[3]]


def test_unknown_users_and_empty_histories_get_the_popular_items_and_the_flag(data):
    answer = UserCF().fit_data(data).recommend(Queries(histories=[[], [-5]]), 4)
    assert answer.fallback.tolist() == [True, True]
    assert [len(ids) for ids in answer.ids] == [4, 4]


@pytest.mark.parametrize("options", [{}, {"similarity": "jaccard"}])
def test_a_saved_model_answers_with_the_same_bits(data, options):
    model = UserCF(**options).fit_data(data)
    settings, states = model.state()
    again = UserCF.from_state(data, json.loads(json.dumps(settings)), states)
    queries = Queries(users=data.users.ids[:20])
    first, second = model.recommend(queries, 30), again.recommend(queries, 30)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("options", CASES)
def test_contributions_sum_to_the_score(data, options):
    model = UserCF(**options).fit_data(data)
    queries = Queries(users=data.users.ids[:5], before="validation")
    answer = model.recommend(queries, 5)
    why = model.explain(queries, [*answer.ids[:4], [*answer.ids[4], 10**9]])
    kind = "user" if options.get("similarity") == "jaccard" else "event"
    assert set(why["kind"]) == {kind}
    sums = why.group_by("query", "item").agg(pl.col("contribution").sum())
    assert len(sums) == 25
    for query, item, total in sums.iter_rows():
        place = answer.ids[query].index(item)
        assert total == pytest.approx(float(answer.scores[query, place]), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"item_weighting": "iuf", "recency": 3.0}])
def test_without_an_event_the_score_falls_by_what_it_gave(data, options):
    model = UserCF(**options).fit_data(data)
    queries = Queries(users=data.users.ids[:1], before="validation")
    item = model.recommend(queries, 1).ids[0][0]
    why = model.explain(queries, [[item]])
    block = next(row_blocks(queries, data))
    profile = model.profile(block).toarray()[0].astype(np.float64)
    near = model.neighbours_of(block)
    matrix = model._matrix.toarray()
    column = int(data.items.rows([item])[0])

    def score(weights):
        """The score with the neighbours and all norms held."""
        users = near.indices
        norms = np.linalg.norm(matrix[users], axis=1) * np.linalg.norm(profile)
        return ((matrix[users] @ (weights * model._weight)) / norms * matrix[users, column]).sum()

    for _, _, _, because, contribution in why.iter_rows():
        without = profile.copy()
        without[int(data.items.rows([int(because)])[0])] = 0
        assert score(profile) - score(without) == pytest.approx(contribution, rel=1e-6)


def test_new_events_count_at_once():
    rows = [(1, 1, 1, 1.0), (2, 1, 1, 1.0), (2, 2, 2, 1.0)]
    model = UserCF().fit_data(everything(rows))
    assert model.recommend([1], 2).ids == [[2]]
    model = model.observe(
        everything([*rows, (3, 1, 1, 1.0), (3, 4, 2, 1.0), (4, 1, 5, 1.0), (4, 4, 6, 1.0)])
    )
    assert model.recommend([1], 2).ids == [[4, 2]]


REFUSED = [
    ({"similarity": "jaccard", "recency": 3.0}, "have no recency"),
    ({"similarity": "jaccard", "values": "explicit"}, "have no values"),
    ({"neighbours": 0}, "neighbours"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        UserCF(**options)


@pytest.mark.parametrize("option", ["recency", "latest_items"])
def test_options_about_time_need_a_time(option):
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2] * 9, "item_id": list(range(36))})
    with pytest.raises(ModelError, match=f"{option} needs data.time"):
        UserCF(**{option: 5 if option == "latest_items" else 5.0}).fit(Dataset.load(frame).split())
    with pytest.raises(ModelError, match=r"needs data\.weight"):
        UserCF(values="explicit").fit(Dataset.load(frame).split())


def test_similar_items_are_not_its_business(data):
    assert not isinstance(UserCF().fit_data(data), FindsSimilar)


def test_only_allowed_items_are_given_and_the_lists_are_filled_up_with_them(data):
    model = UserCF().fit_data(data)
    block = next(row_blocks(Queries(users=data.users.ids[:20], before="validation"), data))
    allow = torch.zeros(len(data.items) + 1, dtype=torch.bool)
    allow[1::3] = True
    found, whole = model.search(replace(block, allow=allow), 15), model.search(block, 200)
    for query in range(20):
        rows = [r for r in whole.ids[query].tolist() if r > 0 and allow[r]][:15]
        assert found.ids[query, : len(rows)].tolist() == rows
        assert (found.ids[query, len(rows) :] == -1).all()


def test_most_items_leaves_neighbours_their_latest_distinct_items():
    rows = [(1, 10, 1, 1.0), (1, 11, 2, 1.0), (1, 12, 3, 1.0), (1, 11, 4, 1.0), (2, 10, 5, 1.0)]
    asked = Queries(histories=[[12]], exclude_seen=False)
    of_all = UserCF().fit_data(everything(rows)).recommend(asked, 9)
    latest = UserCF(most_items=2).fit_data(everything(rows)).recommend(asked, 9)
    assert sorted(of_all.ids[0]) == [10, 11, 12]
    assert sorted(latest.ids[0]) == [11, 12]
