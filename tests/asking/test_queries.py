"""Queries refuse by name what is no list of ids, no k or no condition, and accept all else."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

import shortlist
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.data.vocabulary import checked_ids
from shortlist.errors import DataError, ModelError, QueryError


@pytest.fixture(scope="module")
def blend(split):
    parts = {"cf": ItemCF(), "tags": Inverted(attribute="tags")}
    return Blend(parts, quotas={"cf": 5, "tags": 1}).fit(split)


@pytest.fixture(scope="module")
def model(split):
    return Popular().fit(split)


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("cust-00001", r"write \['cust-00001'\]"),
        (1, r"write \[1\]"),
        ({1, 2}, "a set, which has no order"),
        ({1: 2}, "a dict"),
        ([2**70], "64 bits"),
        ([None], r"users\[0\] = None is no id"),
        ([1, None], r"users\[1\] = None"),
        ([float("nan")], "nan is no id"),
        ([1.0], "no id"),
        ([True, 1], "True is no id"),
        ([[1]], r"users\[0\] = \[1\] is a list"),
        ([1, "1"], "all of one type"),
        (["\ud800"], "no id"),
        (np.array([[1]]), r"shape \(1, 1\)"),
        (np.array([1.5]), "no id"),
        (np.array(3), r"shape \(\)"),
        (pl.Series([1, None]), r"users\[1\] is missing"),
        (pl.Series([1.0]), "Float64"),
        (pl.DataFrame({"user": [1]}), r"shape \(1, 1\)"),
        (object(), "an? object"),
    ],
)
def test_what_is_no_list_of_users_is_refused_and_shows_what_to_write(users, said):
    with pytest.raises(QueryError, match=said):
        Queries(users)


@pytest.mark.parametrize("before", ["validation", "test"])
def test_histories_are_given_whole_so_a_cut_of_stored_events_is_refused(before):
    with pytest.raises(QueryError, match=r"before .* needs users: shorten the histories"):
        Queries(histories=[[1]], before=before)
    assert Queries(histories=[[1]], before="end").before == "end"


def test_columns_arrays_and_numbers_of_other_libraries_are_lists_of_ids(blend):
    pandas = pytest.importorskip("pandas")
    users = blend.data.users.ids[:3].to_list()
    expected = blend.recommend(users, 5).rows
    for given_ in (
        tuple(users),
        np.array(users),
        np.array(users, dtype=np.uint64),
        np.array(users, dtype=object),
        [np.int64(user) for user in users],
        pl.Series(users, dtype=pl.UInt64),
        pandas.Series(users, index=[7, 7, 7]),
        pandas.Index(users),
        torch.tensor(users),
    ):
        assert (blend.recommend(given_, np.int32(5)).rows == expected).all()
    assert checked_ids(pandas.Series(["a", "b"]), "users") == ["a", "b"]
    assert checked_ids(pl.Series(["a"], dtype=pl.Categorical), "users").dtype == pl.String
    assert len(blend.recommend([], 5)) == 0


@pytest.mark.parametrize("k", [2.5, "3", None, True, [3], float("nan"), np.float64(2)])
def test_a_depth_that_is_no_whole_number_is_refused(blend, k):
    user = blend.data.users.ids[:1]
    for ask in (blend.recommend, blend.channels["cf"].recommend):
        with pytest.raises(QueryError, match="k must be a whole number"):
            ask(user, k)
        with pytest.raises(QueryError, match="k must be a whole number"):
            ask(Queries(user, quota={"studio": 1}), k)
    with pytest.raises(QueryError, match="k must be a whole number"):
        blend.channels["cf"].similar(blend.data.items.ids[:1], k)


@pytest.mark.parametrize("k", [0, -1, np.int64(0)])
def test_a_depth_below_one_is_refused(blend, k):
    with pytest.raises(QueryError, match="at least 1"):
        blend.recommend(blend.data.users.ids[:1], k)


@pytest.mark.parametrize(
    "k", [5, [], [0], [2**70], [True], "10", [2.5], ["10"], None, {10: 1}, [[10]]]
)
def test_depths_of_an_evaluation_are_a_list_of_whole_numbers(model, k):
    for measure in (
        lambda: shortlist.evaluate(model, k=k),
        lambda: shortlist.compare(model, model, k=k),
    ):
        with pytest.raises(QueryError, match="k must be"):
            measure()


def test_a_depth_named_twice_is_measured_once(model):
    once, twice = (shortlist.evaluate(model, k=k).to_dict() for k in ([10], np.array([10, 10])))
    assert once == twice


def test_an_evaluation_of_anything_else_says_what_to_write(model, split, tmp_path):
    shortlist.save(model, tmp_path / "b")
    bundle = shortlist.load(tmp_path / "b")
    with pytest.raises(QueryError, match=r"got a Bundle: write bundle\.retriever"):
        shortlist.evaluate(bundle)
    with pytest.raises(QueryError, match=r"write bundle\.retriever"):
        shortlist.compare(model, bundle)
    for on in ("end", "train", 1, ["test"]):
        with pytest.raises(QueryError, match="on must be"):
            shortlist.evaluate(model, on=on)
    with pytest.raises(QueryError, match="exclude_seen must be True or False"):
        shortlist.evaluate(model, exclude_seen="no")
    for fit in ("everything", ["train"]):
        with pytest.raises(ModelError, match="fit must be one of train"):
            split.training_data(fit)


def test_lists_of_lists_are_named_where_they_are_none(blend):
    user, cf = blend.data.users.ids[:1], blend.channels["cf"]
    item = blend.data.items.ids[0]
    for histories, said in (
        ("abc", "list of lists"),
        (["abc"], r"histories\[0\] must be a list of ids, got the text 'abc'"),
        ([1, 2], r"histories\[0\] must be a list of ids"),
        ([[item], None], r"histories\[1\]"),
        ([[item, None]], r"histories\[0\]\[1\] = None"),
        ([[[item]]], r"histories\[0\]\[0\] = .* is a list"),
    ):
        with pytest.raises(QueryError, match=said):
            Queries(histories=histories)
    with pytest.raises(QueryError, match=r"items\[0\] must be a list of ids"):
        cf.explain(user, [item])
    with pytest.raises(QueryError, match="one list of items a query"):
        cf.explain(user, [[item], [item]])
    with pytest.raises(QueryError, match=r"items must be a list of ids, got the text 'x'"):
        cf.similar("x")
    with pytest.raises(QueryError, match="list of values a query"):
        blend.channels["tags"].lookup([5])
    with pytest.raises(ModelError, match="got the text"):
        blend.channels["tags"].refresh("tag")
    with pytest.raises(QueryError, match="size must be a whole number"):
        shortlist.plan({"cf": cf}, 2.5)


def test_fit_says_how_a_split_is_made(split, world):
    for kind in (ItemCF(), Popular(), shortlist.TwoTower(dim=4), Blend({"a": ItemCF()})):
        with pytest.raises(DataError, match=r"fit\(dataset\.split\(\)\)"):
            kind.fit(split.dataset)
        for other in (world.interactions, "log.csv"):
            with pytest.raises(DataError, match=r"Dataset\.load\(.*\)\.split\(\)"):
                kind.fit(other)


IDS = st.one_of(st.integers(-5, 2**70), st.text(max_size=3), st.none(), st.booleans(), st.floats())
JUNK = st.recursive(
    IDS | st.binary(max_size=2) | st.sets(st.integers(0, 9), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["column", "eq", "in", "min", "and", "not"]), inner)
    ),
    max_leaves=6,
)
FIELDS = ("users", "histories", "before", "exclude_seen", "where", "allow", "deny", "quota", "rows")


@budget(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=2),
    st.sampled_from(["users", "histories"]),
    JUNK | st.just(3),
)
def test_junk_in_a_query_is_a_query_error_or_an_answer(blend, odd, asked, k):
    known = {"users": blend.data.users.ids[:2], "histories": [[blend.data.items.ids[0]]]}
    if not {"users", "histories"} & set(odd):
        odd = odd | {asked: known[asked]}
    try:
        found = blend.recommend(Queries(**odd), k)
    except QueryError:
        return
    width = found.rows.shape[1]
    assert isinstance(k, int)
    assert width == min(k, len(blend.candidate_rows()))
    assert len(found) == len(odd.get("users", odd.get("histories")))
