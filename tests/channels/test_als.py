"""ALS as a channel: folding in, dense references, unknown items, explanations, bundles."""

import numpy as np
import polars as pl
import pytest

from shortlist.asking.queries import Queries
from shortlist.channels.counting.als import ALS
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.linear.matrix import user_item_matrix

SMALL = {"factors": 6, "iterations": 4, "alpha": 5.0, "regularisation": 0.5, "seed": 1}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bias"])
def als(request, split) -> ALS:
    return ALS(**SMALL, bias=request.param).fit(split)


def vector_of(als, history):
    """A user's vector from the item rows of their history, by the textbook, float64."""
    design = als._vectors.astype(np.float64)
    if als.options.bias:
        design = np.hstack([design, (np.arange(len(design)) > 0)[:, None]])
    offset = als._biases.astype(np.float64)
    options, events = als.options, np.zeros(len(design))
    events[history] = 1
    confidence = 1 + options.alpha * events
    data = als.data
    log = user_item_matrix(data.training_log, data.items.trained)
    mass = options.alpha * np.asarray(log.sum(axis=1)) + log.shape[1]
    mine = options.alpha * events.sum() + log.shape[1]
    ridge = options.regularisation * (mine / mass.mean()) ** options.frequency_scaling
    system = (design.T * confidence) @ design + ridge * np.eye(design.shape[1])
    return np.linalg.solve(system, design.T @ (confidence * (events - offset))), design


def test_a_query_is_the_least_squares_of_its_history_times_every_item(als):
    history = [3, 17, 40, 90, 91, 92, 93, 94]
    vector, design = vector_of(als, history)
    expected = design @ vector + als._biases
    ids = als.data.items.external(np.array(history)).to_list()
    found = als.recommend(Queries(histories=[ids], exclude_seen=False), 10**6)
    np.testing.assert_allclose(found.scores[0], expected[found.rows[0]], atol=1e-5)
    assert len(found.rows[0]) == als.data.items.trained
    assert (np.diff(found.scores[0]) <= 0).all()


def loss(als, users, others):
    """The objective of Hu et al. for user vectors [users, D] and the retriever's items."""
    data, options = als.data, als.options
    log = user_item_matrix(data.training_log, data.items.trained).toarray()[1:, 1:]
    confidence = 1 + options.alpha * log
    error = (confidence * (log - users @ others.T) ** 2).sum()
    mass_of_users = options.alpha * log.sum(1) + log.shape[1] + 1
    mass_of_items = options.alpha * log.sum(0) + log.shape[0] + 1
    power = options.frequency_scaling
    average = (mass_of_users.sum() + log.shape[1] + 1) / (len(log) + 1)
    ridge_of_users = options.regularisation * (mass_of_users / average) ** power
    ridge_of_items = options.regularisation * (mass_of_items / mass_of_items.mean()) ** power
    return (
        error
        + (ridge_of_users * (users**2).sum(1)).sum()
        + (ridge_of_items * (others**2).sum(1)).sum()
    )


def test_every_round_lowers_the_loss_of_the_paper(split):
    losses = []
    for rounds in (1, 2, 3, 6, 12):
        als = ALS(**(SMALL | {"iterations": rounds})).fit(split)
        data = als.data
        profile = user_item_matrix(data.training_log, data.items.trained)
        users = als.fold_in(profile)[1:].astype(np.float64)
        losses.append(loss(als, users, als._vectors[1:].astype(np.float64)))
    assert (np.diff(losses) < 0).all()


def test_it_finds_the_factors_of_a_log_that_has_them():
    random = np.random.default_rng(0)
    group = np.arange(40) % 4
    rows = [
        (u, i) for u in range(40) for i in range(24) if i % 4 == group[u] and random.random() < 0.7
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    data = Dataset.load(frame).split("random").training_data("all")
    als = ALS(factors=4, iterations=10, regularisation=0.1).fit_data(data)
    found = als.recommend(Queries(histories=[[2], [7]]), 5).ids
    assert sorted(i % 4 for i in found[0]) == [2] * 5
    assert sorted(i % 4 for i in found[1]) == [3] * 5
    assert {i % 4 for i in als.similar([4], 5).ids[0]} == {0}


def test_known_users_get_what_their_history_given_as_a_list_gets(als):
    data = als.data
    users = data.users.ids[:20].to_list()
    known = data.log.before("end")
    lists = [
        data.items.external(known.item[known.indptr[row] : known.indptr[row + 1]]).to_list()
        for row in data.users.rows(users)
    ]
    by_id, by_history = als.recommend(users, 10), als.recommend(Queries(histories=lists), 10)
    np.testing.assert_array_equal(by_id.rows, by_history.rows)
    np.testing.assert_array_equal(by_id.scores, by_history.scores)
    for history, found in zip(lists, by_id.ids, strict=True):
        assert not set(history) & set(found)
    alone = als.recommend(users[7:8], 10)
    np.testing.assert_array_equal(alone.scores[0], by_id.scores[7])


def test_nothing_known_gives_popular_items_and_says_so(als):
    assert als.recommend(Queries(histories=[[], [-5]]), 3).fallback.tolist() == [True, True]


def test_it_cannot_score_an_item_without_a_training_event():
    # Item 99 is met by nobody before the test.
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1, 1, 2, 2, 2, 2], "item_id": [1, 2, 3, 4, 1, 2, 3, 99]}
    )
    split = Dataset.load(frame.with_columns(time=pl.int_range(8)), schema=Schema(time="time"))
    als = ALS(factors=2).fit(split.split("leave-last-out"))
    everything = als.recommend(Queries([1], exclude_seen=False), 10**6)
    assert sorted(everything.ids[0]) == [1, 2]
    assert als.recommend(Queries(histories=[[99]]), 1).fallback.tolist() == [True]
    assert als.explain([1], [[99]]).is_empty()


def test_contributions_sum_to_the_score_and_leave_with_their_event_the_matrix_held(als):
    history = [3, 17, 40, 90]
    ids = als.data.items.external(np.array(history)).to_list()
    top = als.recommend(Queries(histories=[ids]), 3)
    why = als.explain(Queries(histories=[ids]), [top.ids[0]])
    sums = why.group_by("item", maintain_order=True).agg(pl.col("contribution").sum())
    assert sums["item"].to_list() == top.ids[0]
    np.testing.assert_allclose(sums["contribution"], top.scores[0], atol=1e-5)
    assert ("bias" in why["kind"].to_list()) == als.options.bias
    # Hu et al.: x = W (sum of c y over the events); W held, an event takes its own term along.
    vector, design = vector_of(als, history)
    confidence = np.ones(len(design))
    confidence[history] += als.options.alpha
    mass = user_item_matrix(als.data.training_log, als.data.items.trained)
    mass = als.options.alpha * np.asarray(mass.sum(axis=1)) + mass.shape[1]
    mine = als.options.alpha * len(history) + len(design)
    ridge = als.options.regularisation * (mine / mass.mean()) ** als.options.frequency_scaling
    held = np.linalg.inv((design.T * confidence) @ design + ridge * np.eye(design.shape[1]))
    offset = als._biases.astype(np.float64)
    for gone, name in zip(history, ids, strict=True):
        events = np.isin(np.arange(len(design)), [h for h in history if h != gone])
        right = confidence * (events - offset)
        right[gone] = -offset[gone]  # what the item would ask for had nothing happened
        without = design @ (held @ (design.T @ right)) + offset
        for item, row, score in zip(top.ids[0], top.rows[0], top.scores[0], strict=True):
            named = why.filter((pl.col("item") == item) & (pl.col("because") == str(name)))
            assert score - without[row] == pytest.approx(named["contribution"].sum(), abs=1e-4)
    np.testing.assert_allclose(top.scores[0], (design @ vector + offset)[top.rows[0]], atol=1e-5)


def test_similar_items_are_those_of_the_nearest_direction(als):
    item = als.data.items.external(np.array([12]))
    unit = als._vectors[1:] / np.linalg.norm(als._vectors[1:], axis=1, keepdims=True)
    cosine = unit @ unit[11]
    cosine[11] = -2
    found = als.similar(item, 5)
    assert found.rows[0].tolist() == (np.argsort(-cosine)[:5] + 1).tolist()
    np.testing.assert_allclose(found.scores[0], np.sort(cosine)[::-1][:5], atol=1e-5)


def test_saved_and_loaded_it_gives_the_same_bits(als):
    settings, tensors = als.state()
    again = ALS.from_state(als.data, settings, tensors)
    users = als.data.users.ids[:50]
    once, twice = als.recommend(users, 20), again.recommend(users, 20)
    np.testing.assert_array_equal(once.rows, twice.rows)
    np.testing.assert_array_equal(once.scores, twice.scores)


def test_the_seed_decides_and_nothing_else(split, als):
    again = ALS(als.options).fit(split)
    np.testing.assert_array_equal(als._vectors, again._vectors)
    other = ALS(als.options, seed=2).fit(split)
    assert not np.array_equal(als._vectors, other._vectors)


@pytest.mark.parametrize(
    "option",
    [
        {"factors": 5},
        {"iterations": 3},
        {"alpha": 2.0},
        {"regularisation": 5.0},
        {"frequency_scaling": 0.0},
        {"values": "explicit"},
        {"recency": 2.0},
        {"latest_items": 3},
    ],
    ids=str,
)
def test_each_option_acts(split, option):
    plain, other = ALS(**SMALL).fit(split), ALS(**(SMALL | option)).fit(split)
    users = plain.data.users.ids[:30]
    assert not np.array_equal(plain.recommend(users).scores, other.recommend(users).scores)


def test_an_old_event_counts_less_the_older_it_is_and_at_last_nothing(split):
    als = ALS(**SMALL, recency=1.0).fit(split)
    items = als.data.items.ids
    # 2 ** -170 is no float32: the first events weigh nothing at all.
    kept = items[20:190].to_list()
    once = als.recommend(Queries(histories=[[*items[:5], *kept]], exclude_seen=False), 5)
    again = als.recommend(Queries(histories=[kept], exclude_seen=False), 5)
    fewer = als.recommend(Queries(histories=[kept[:-1]], exclude_seen=False), 5)
    np.testing.assert_array_equal(once.scores, again.scores)
    assert not np.array_equal(fewer.scores, again.scores)


def test_an_event_of_weight_0_is_no_event():
    rows = [(u, i, 1.0 + (u + i) % 3) for u in range(6) for i in range(6) if (u * i) % 4 < 2]
    columns = ["user_id", "item_id", "stars"]
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        time=pl.int_range(len(rows))
    )
    late = pl.DataFrame([(5, 2, 0.0, 99), (1, 3, 0.0, 99)], schema=[*columns, "time"], orient="row")
    schema = Schema(time="time", weight="stars")
    one, other = (
        ALS(values="explicit", factors=3).fit(Dataset.load(log, schema=schema).split(), "all")
        for log in (frame, pl.concat([frame, late]))
    )
    asked = Queries(users=list(range(6)), exclude_seen=False)
    np.testing.assert_array_equal(one.recommend(asked, 6).scores, other.recommend(asked, 6).scores)


def test_recency_without_a_time_is_refused(world):
    log = Dataset.load(world.interactions.select("user_id", "item_id"))
    with pytest.raises(ModelError, match=r"recency needs data\.time"):
        ALS(recency=5.0).fit(log.split("random"))


def test_new_events_change_histories_and_not_vectors():
    frame = pl.DataFrame(
        {"user_id": [1, 1, 2, 2, 3, 3, 3], "item_id": [20, 30, 20, 30, 30, 40, 50]}
    )
    frame = frame.with_columns(time=pl.int_range(7))
    # Item 10 comes later, and its row before all others.
    later = pl.DataFrame({"user_id": [4, 4, 1], "item_id": [20, 10, 40], "time": [7, 8, 9]})

    def data_of(log):
        return Dataset.load(log, schema=Schema(time="time")).split().training_data("all")

    als = ALS(factors=3, regularisation=0.5, frequency_scaling=0.0).fit_data(data_of(frame))
    before = als.recommend(Queries(histories=[[20]], exclude_seen=False), 5)
    als = als.observe(data_of(pl.concat([frame, later])))
    after = als.recommend(Queries(histories=[[20]], exclude_seen=False), 5)
    assert after.ids[0][:4] == before.ids[0][:4]
    np.testing.assert_allclose(after.scores[0][:4], before.scores[0][:4], atol=1e-5)
    known, listed = als.recommend([4], 3), als.recommend(Queries(histories=[[20, 10]]), 3)
    assert known.ids == listed.ids
    assert 10 not in known.ids[0]
    assert als.recommend(Queries(histories=[[10]]), 2).fallback.tolist() == [True]
    settings, tensors = als.state()
    again = ALS.from_state(als.data, settings, tensors)
    np.testing.assert_array_equal(again.recommend([4], 3).scores, known.scores)
