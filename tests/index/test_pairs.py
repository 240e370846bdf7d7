"""The plain and the compiled form of scores of pairs are equal bit by bit."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.compiled import PLAIN_CALLS, load, worth_loading
from shortlist.index import ExactIndex, candidates, exact
from shortlist.index.candidates import Contents, Seen, best_of_columns, best_plainly, measure
from shortlist.index.pairs import measures_of
from shortlist.similarity import SIMILARITIES


def rough(random, *shape):
    """Numbers of very different sizes, whose sums depend on the order in which they are taken."""
    sizes = 10.0 ** random.integers(-4, 5, shape)
    return (random.standard_normal(shape) * sizes).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 70),
    width=st.integers(1, 70),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    k=st.integers(1, 80),
    euclidean=st.booleans(),
)
def test_both_forms_give_equal_bits(seed, items, width, shape, k, euclidean):
    load()
    random = np.random.default_rng(seed)
    points, vectors = rough(random, *shape, width), rough(random, items, width)
    vectors[random.random(items) < 0.3] = vectors[0]  # Equal scores go by column.
    contents = Contents(random.permutation(items), vectors, np.empty(0, np.int64), euclidean)
    met = [random.permutation(2 * items)[: random.integers(0, items + 1)] for _ in points]
    seen = Seen(np.concatenate(met), np.cumsum([0, *map(len, met)]))
    columns = np.flatnonzero(random.random(items) < 0.8)
    wide = np.broadcast_to(columns, (len(points), len(columns)))
    compiled = best_of_columns(contents, points, columns, seen, k)
    plain = best_plainly(contents, points, wide, seen, k)
    for mine, yours in zip(compiled, plain, strict=True):
        assert np.array_equal(mine, yours)
    flat = points.reshape(-1, width)
    units = np.empty_like(flat), np.empty_like(flat)
    assert measure(flat, units[0]) == measures_of(flat, units[1])
    assert np.array_equal(*units)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("items", [20, 1000, 5003])
def test_an_answer_is_the_same_before_and_after_compiled_code_is_loaded(
    similarity, items, monkeypatch
):
    load()
    random = np.random.default_rng(5)
    vectors = torch.from_numpy(rough(random, items, 19))
    index = ExactIndex(similarity).build(torch.arange(items), vectors)
    queries = torch.from_numpy(rough(random, 3, 19))
    met = torch.arange(0, 15), torch.tensor([0, 5, 5, 15])
    allow = torch.from_numpy(random.random(items) < 0.7)
    asked = [
        (queries, {}),
        (queries[1:2], {"allow": allow}),
        (queries, {"exclude": met}),
        (queries[None], {}),
    ]
    before = [index.search(points, 10, **given) for points, given in asked]
    compiled = {"_keys_of_slots", "_keys_of_columns", "measure_points"}
    for module in (candidates, exact):
        monkeypatch.setattr(module, "worth_loading", lambda: False)
    for name in compiled:
        monkeypatch.delattr(candidates, name)
    for (points, given_too), expected in zip(asked, before, strict=True):
        found = index.search(points, 10, **given_too)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.scores, expected.scores)


def test_a_process_that_asks_much_loads_compiled_code(monkeypatch):
    load()
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setattr("shortlist.compiled._plain_calls", iter(range(1, PLAIN_CALLS + 3)))
    assert not any(worth_loading() for _ in range(PLAIN_CALLS))
    assert worth_loading()
