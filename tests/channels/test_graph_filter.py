"""Graph filters as a channel: dense oracles, blocks, explanations, bundles and new events."""

import numpy as np
import polars as pl
import pytest
from numpy.polynomial.chebyshev import chebval

from shortlist.asking.queries import Queries
from shortlist.channels.counting import graph_filter
from shortlist.channels.counting.graph_filter import FILTERS, GraphFilter
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.linear.graph import plateau
from shortlist.linear.matrix import user_item_matrix

FEW = {"factors": 12, "low_pass": 0.15}


def powers(sums, exponent):
    return np.where(sums > 0, np.maximum(sums, 1) ** exponent, 0)


def oracle(retriever):
    """The filter as one dense matrix [items, items], in float64: scores = history · filter.

    The singular vectors are the retriever's: near the cut they are approximate, and how well they
    are found is tests/linear/test_graph.py's matter.
    """
    numbers, data = retriever.numbers, retriever.data
    log = user_item_matrix(data.training_log, data.items.trained).toarray()[:, 1:]
    log = log.astype(np.float64)
    users, items = log.sum(1), log.sum(0)
    graph = powers(users, -numbers.user_power)[:, None] * log * powers(items, -numbers.item_power)
    graph = graph / np.linalg.norm(graph, 2)
    right = retriever._vectors[1:].T.astype(np.float64)
    np.testing.assert_allclose(right @ right.T, np.eye(numbers.factors), atol=1e-5)
    paths = graph.T @ graph

    def tilt(filter_, q):
        return powers(items, -q)[:, None] * filter_ * powers(items, q)

    if numbers.degree:
        squares, basis = np.linalg.eigh(paths)
        series = chebval(1 - 2 * squares, plateau(numbers.degree, numbers.flatness))
        paths = basis @ np.diag(series) @ basis.T
    blurred = tilt(paths, numbers.tilt)
    smooth = numbers.low_pass * tilt(right.T @ right, numbers.low_pass_tilt)
    step = -numbers.sharpening * tilt(paths, numbers.tilt)
    series = np.eye(len(items))
    for order in range(numbers.order, 0, -1):
        series = np.eye(len(items)) + step @ series / order
    if numbers.merged:
        return (blurred + smooth) @ series
    return blurred @ series + smooth


@pytest.fixture(scope="module", params=FILTERS)
def fitted(request, split) -> GraphFilter:
    return GraphFilter(filter=request.param, **FEW).fit(split)


def test_scores_are_those_of_the_dense_filter(fitted):
    data = fitted.data
    known = data.log.before("test")
    histories = user_item_matrix(known, data.items.trained).toarray()[1:201, 1:]
    expected = histories @ oracle(fitted)
    users = data.users.external(np.arange(1, 201))
    found = fitted.recommend(Queries(users, before="test", exclude_seen=False), 10**6)
    valid = found.rows > 0
    by_row = np.take_along_axis(expected, np.maximum(found.rows - 1, 0), axis=1)
    size = np.abs(expected).max()
    np.testing.assert_allclose(found.scores[valid], by_row[valid], atol=2e-4 * size)
    assert valid.mean() > 0.99
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_the_published_filters_have_the_published_numbers():
    assert FILTERS["gf-cf"][:9] == (0.5, 0.5, 0.0, 256, 0.3, 0.5, 0.0, 4, True)
    assert FILTERS["bspm"][:9] == (0.5, 0.5, 0.0, 448, 0.2, 0.5, 2.5, 4, True)
    assert FILTERS["chebyshev"] == (0.5, 0.5, 0.4, 512, 0.2, 0.4, 0.0, 1, False, 8, 1.5)


def test_options_of_another_filter_are_refused():
    for filter_, option in (("bspm", "degree"), ("gf-cf", "flatness"), ("chebyshev", "sharpening")):
        with pytest.raises(ModelError, match=f"{option} does nothing with filter = '{filter_}'"):
            GraphFilter(filter=filter_, **{option: 2})


def test_each_number_can_be_replaced_and_acts(split):
    base = GraphFilter(filter="bspm", **FEW).fit(split)
    users = base.data.users.ids[:30]
    plain = base.recommend(users, 20)
    for option in (
        {"user_power": 0.2},
        {"item_power": 0.3},
        {"tilt": 0.2},
        {"factors": 3},
        {"low_pass": 0.0},
        {"sharpening": 0.0},
        {"recency": 2.0},
        {"values": "explicit"},
        {"latest_items": 3},
    ):
        few = {} if option.get("low_pass") == 0 else FEW  # without the part it has no factors
        other = GraphFilter(**{"filter": "bspm", **few, **option}).fit(split)
        for name, value in option.items():
            assert getattr(other.numbers, name, value) == value
        assert not np.array_equal(other.recommend(users, 20).scores, plain.scores), option


def test_replaced_numbers_equal_the_dense_filter_too(split):
    own = GraphFilter(
        filter="gf-cf", factors=5, user_power=0.1, item_power=0.7, tilt=-0.1, sharpening=0.7
    ).fit(split)
    item = own.data.items.external(np.array([9]))[0]
    found = own.recommend(Queries(histories=[[item]], exclude_seen=False), 10**6)
    valid = found.rows[0] > 0
    expected = oracle(own)[8]
    np.testing.assert_allclose(
        found.scores[0][valid],
        expected[found.rows[0][valid] - 1],
        atol=2e-4 * np.abs(expected).max(),
    )


def test_an_answer_does_not_depend_on_the_other_queries(fitted, monkeypatch):
    users = fitted.data.users.ids
    together = fitted.recommend(users, 20)
    for at in (0, 17, 130, 299):
        alone = fitted.recommend(users[at : at + 1], 20)
        np.testing.assert_array_equal(alone.rows[0], together.rows[at])
        np.testing.assert_array_equal(alone.scores[0], together.scores[at])


def test_items_that_no_path_reaches_are_left_out():
    # Two worlds apart, and a list as long as what can be reached.
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3, 7, 8, 9]})
    data = Dataset.load(frame.with_columns(time=pl.int_range(6)), schema=Schema(time="time"))
    data = data.split("leave-last-out").training_data("all")
    found = (
        GraphFilter(low_pass=0.0, sharpening=0.0)
        .fit_data(data)
        .recommend(Queries(histories=[[1]]), 5)
    )
    assert sorted(found.ids[0]) == [2, 3]
    assert found.rows[0, 2:].tolist() == [-1] * 3
    assert (found.scores[0, 2:] == -np.inf).all()
    # By symmetry the two are equal: the tie key decides.
    keys = data.items.tie_keys[found.rows[0, :2]]
    assert found.scores[0, 0] == found.scores[0, 1]
    assert keys[0] < keys[1]


def test_a_user_and_their_history_given_as_a_list_get_the_same(fitted):
    data = fitted.data
    users = data.users.ids[:20].to_list()
    known = data.log.before("end")
    lists = [
        data.items.external(known.item[known.indptr[row] : known.indptr[row + 1]]).to_list()
        for row in data.users.rows(users)
    ]
    by_id, by_history = fitted.recommend(users, 10), fitted.recommend(Queries(histories=lists), 10)
    np.testing.assert_array_equal(by_id.rows, by_history.rows)
    np.testing.assert_array_equal(by_id.scores, by_history.scores)
    for history, found in zip(lists, by_id.ids, strict=True):
        assert not set(history) & set(found)


def test_nothing_known_gives_popular_items_and_says_so(fitted):
    assert fitted.recommend(Queries(histories=[[], [-5]]), 3).fallback.tolist() == [True, True]


def test_contributions_are_what_a_score_falls_by_when_the_event_goes(fitted):
    history = fitted.data.items.ids[[3, 17, 40, 90]].to_list()
    top = fitted.recommend(Queries(histories=[history]), 4)
    why = fitted.explain(Queries(histories=[history]), [top.ids[0]])
    sums = why.group_by("item", maintain_order=True).agg(pl.col("contribution").sum())
    assert sums["item"].to_list() == top.ids[0]
    np.testing.assert_allclose(sums["contribution"], top.scores[0], atol=1e-5)
    for gone in history:
        rest = Queries(histories=[[i for i in history if i != gone]], exclude_seen=False)
        scores = dict(fitted.recommend(rest, 10**6).to_frame().select("item", "score").iter_rows())
        for item, score in zip(top.ids[0], top.scores[0], strict=True):
            named = why.filter((pl.col("item") == item) & (pl.col("because") == str(gone)))
            assert score - scores[item] == pytest.approx(named["contribution"].sum(), abs=1e-5)


def test_similar_items_are_the_best_of_a_history_of_one(fitted):
    item = fitted.data.items.external(np.array([12]))
    similar = fitted.similar(item, 5)
    history = fitted.recommend(Queries(histories=[item.to_list()]), 5)
    assert similar.ids == history.ids


def test_saved_and_loaded_it_gives_the_same_bits(fitted):
    settings, tensors = fitted.state()
    assert set(tensors["learned"]) == {"vectors", "values"}
    again = GraphFilter.from_state(fitted.data, settings, tensors)
    users = fitted.data.users.ids[:50]
    once, twice = fitted.recommend(users, 20), again.recommend(users, 20)
    np.testing.assert_array_equal(once.rows, twice.rows)
    np.testing.assert_array_equal(once.scores, twice.scores)


def test_fitted_twice_it_gives_the_same_bits(fitted, split):
    again = GraphFilter(fitted.options).fit(split)
    users = fitted.data.users.ids[:50]
    np.testing.assert_array_equal(
        fitted.recommend(users, 20).scores, again.recommend(users, 20).scores
    )


def test_recency_without_a_time_is_refused(world):
    log = Dataset.load(world.interactions.select("user_id", "item_id"))
    with pytest.raises(ModelError, match=r"recency needs data\.time"):
        GraphFilter(recency=5.0).fit(log.split("random"))


def test_new_events_join_the_graph_and_the_vectors_stay():
    items = [20, 30, 20, 30, 30, 40, 50]
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2, 3, 3, 3], "item_id": items})
    frame = frame.with_columns(time=pl.int_range(7))
    # Item 10 comes later, and its row before all others.
    later = pl.DataFrame({"user_id": [4, 4, 1], "item_id": [20, 10, 40], "time": [7, 8, 9]})

    def data_of(log):
        return Dataset.load(log, schema=Schema(time="time")).split().training_data("all")

    retriever = GraphFilter(factors=2, low_pass=0.1).fit_data(data_of(frame))
    vectors = dict(zip(retriever.data.items.ids, retriever._vectors[1:], strict=True))
    retriever = retriever.observe(data_of(pl.concat([frame, later])))
    assert retriever.data.items.ids.to_list() == [10, 20, 30, 40, 50]
    for item, vector in zip(retriever.data.items.ids, retriever._vectors[1:], strict=True):
        np.testing.assert_allclose(vector, vectors.get(item, [0, 0]), rtol=0, atol=1e-12)
    # The new item has a neighbour at once: the one its user met as well.
    assert retriever.recommend(Queries(histories=[[10]]), 5).ids[0][0] == 20
    settings, tensors = retriever.state()
    again = GraphFilter.from_state(retriever.data, settings, tensors)
    once, twice = retriever.recommend([1, 4], 5), again.recommend([1, 4], 5)
    np.testing.assert_array_equal(once.scores, twice.scores)


def test_blocks_do_not_show(fitted, monkeypatch):
    users = fitted.data.users.ids[:60]
    whole = fitted.recommend(users, 20)
    monkeypatch.setattr(graph_filter, "BLOCK", 16)
    np.testing.assert_allclose(fitted.recommend(users, 20).scores, whole.scores, atol=1e-6)
