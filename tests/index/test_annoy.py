"""AnnoyForest: what the contract of all indexes does not cover."""

import sys

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.index.annoy import AnnoyForest


def test_without_annoy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "annoy", None)
    with pytest.raises(ModelError, match="pip install 'annoy"):
        AnnoyForest("dot").build(torch.tensor([1]), torch.ones(1, 2))


@pytest.mark.parametrize("settings", [{"trees": 0}, {"search_k": 0}, {"refine": 0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ModelError, match=next(iter(settings))):
        AnnoyForest("dot", **settings)


def test_more_effort_finds_more():
    pytest.importorskip("annoy")
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(5_000, 16, generator=generator)
    queries = torch.randn(50, 16, generator=generator)
    index = AnnoyForest("cosine", trees=5).build(torch.arange(5_000), vectors)
    truth = index.adjust(search_k=1_000_000).search(queries, 10).ids
    found = index.adjust(search_k=100).search(queries, 10).ids
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert 50 < sum(shared) < 450
