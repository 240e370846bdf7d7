"""Scann: what the contract of all indexes does not cover."""

import json
import sys

import numpy as np
import pytest
import torch

from shortlist.errors import ModelError
from shortlist.index import ExactIndex
from shortlist.index.scann import FEWEST, Scann


def test_without_scann_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ModelError, match=r"pip install 'scann"):
        Scann("dot").build(torch.tensor([1]), torch.ones(1, 2))


@pytest.mark.parametrize("settings", [{"leaves": 0}, {"searched": 0}, {"refine": 0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ModelError, match=next(iter(settings))):
        Scann("dot", **settings)


def made(items, settings=None):
    pytest.importorskip("scann")
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(items, 16, generator=generator)
    queries = torch.randn(50, 16, generator=generator)
    return Scann("cosine", **(settings or {})).build(torch.arange(items), vectors), queries


def shared(found, truth):
    pairs = zip(found.ids.tolist(), truth.ids.tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs)


def test_more_effort_finds_more():
    index, queries = made(3_000, {"leaves": 50})
    exact = ExactIndex("cosine").build(index._exact.items.ids, index._exact.items.vectors)
    truth = exact.search(queries, 10)
    little = shared(index.adjust(searched=0.02, refine=1).search(queries, 10), truth)
    much = shared(index.adjust(searched=1.0, refine=30).search(queries, 10), truth)
    assert little < 350
    assert much > 490


@pytest.mark.parametrize("items", [1, FEWEST - 1, FEWEST, FEWEST + 1])
def test_few_items_are_found_as_well(items):
    index, queries = made(items)
    exact = ExactIndex("cosine").build(index._exact.items.ids, index._exact.items.vectors)
    assert torch.equal(index.search(queries, 5).ids, exact.search(queries, 5).ids)
    assert (index._library is None) == (items < FEWEST)


def test_a_state_with_a_file_that_could_be_unpickled_is_refused():
    index, _ = made(100)
    dumped = index._dump().tobytes()
    assert b".pkl" not in dumped.partition(b"\n")[0]
    bad = json.dumps({"scann_docids.pkl": 3}).encode() + b"\nabc"
    with pytest.raises(ModelError, match="not ScaNN's"):
        index._restore(np.frombuffer(bad, dtype=np.uint8), 100, 16)
