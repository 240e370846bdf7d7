import math

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.errors import ModelError
from shortlist.sampling import SAMPLERS, build_sampler

COUNTS = torch.tensor([0, 8, 1, 0, 1])


def test_popularity_draws_by_the_count_to_the_power_alpha():
    chance = build_sampler("popularity", COUNTS, alpha=2).frequency
    torch.testing.assert_close(chance, torch.tensor([0, 64, 1, 0, 1]).double() / 66)
    even = build_sampler("popularity", COUNTS, alpha=0).frequency
    torch.testing.assert_close(even, torch.tensor([0, 1, 1, 0, 1]).double() / 3)


def test_a_draw_of_exactly_0_is_not_the_unknown_item(monkeypatch):
    sampler = build_sampler("popularity", COUNTS, negatives=2, alpha=1)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.0, 0.65]).double())
    batch = Batch(*[torch.tensor([1])] * 3, None)
    assert (sampler.sample(batch, torch.Generator()).ids > 0).all()
    assert 3 not in sampler.sample(batch, torch.Generator()).ids  # never seen in training


def test_the_chance_of_a_rare_item_is_not_floored():
    counts = torch.tensor([0, 10**9, 1])
    log_q = build_sampler("popularity", counts, negatives=1, alpha=1).log_q(torch.tensor([2]), None)
    assert log_q.item() == pytest.approx(-math.log(1e9 + 1), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("uniform", {"alpha": 0.5}, "use sampler = 'popularity'"),
        ("mixed", {"alpha": 0.5}, "use sampler = 'popularity'"),
        ("in_batch", {"alpha": 0.5}, "use sampler = 'popularity'"),
        ("in_batch", {"negatives": 8}, "set batch_size"),
        ("in_batch", {"shared": False}, "one for all rows"),
        ("mixed", {"shared": False}, "one pool for all rows"),
        ("mixture", {"alpha": 0.5, "mixture": {"uniform": 1.0}}, "use sampler = 'popularity'"),
        ("mixture", {"mixture": {}}, "names no law"),
        ("mixture", {"mixture": {"unifrm": 1.0}}, "Did you mean 'uniform'"),
        ("mixture", {"mixture": {"uniform": 0.0}}, "mixture.uniform must be > 0"),
        ("mixture", {"mixture": {"uniform": float("inf")}}, "mixture.uniform must be > 0"),
        ("uniform", {"mixture": {"uniform": 1.0}}, "belongs to sampler = 'mixed' or 'mixture'"),
        ("in_batch", {"mixture": {"uniform": 1.0}}, "belongs to sampler = 'mixed' or 'mixture'"),
        ("memory", {"alpha": 0.5}, "as often as in the log"),
        ("memory", {"shared": False}, "one pool for all rows"),
        ("catalogue", {"negatives": 8}, "use sampler = 'uniform'"),
        ("catalogue", {"alpha": 0.5}, "in the pool once"),
        ("catalogue", {"shared": False}, "one pool for all rows"),
        ("in_batch_streaming", {"negatives": 8}, "set batch_size"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused_with_the_cure(name, option, reason):
    with pytest.raises(ModelError, match=reason):
        build_sampler(name, COUNTS, **option)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize(
    "counts", [[0, 0, 0], [1, 2, 3], [0], [0, -1, 2], [0, float("nan"), 1], [[0, 1], [1, 2]]]
)
def test_counts_that_cannot_be_are_refused(name, counts):
    with pytest.raises(ModelError, match="counts must"):
        build_sampler(name, torch.tensor(counts))


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_an_alpha_that_cannot_be_is_refused(alpha):
    with pytest.raises(ModelError, match="alpha must be >= 0"):
        build_sampler("popularity", COUNTS, alpha=alpha)


@pytest.mark.parametrize("name", ["uniform", "popularity", "mixed", "mixture", "memory"])
def test_no_negatives_at_all_is_refused(name):
    with pytest.raises(ModelError, match="negatives must be >= 1, got 0"):
        build_sampler(name, COUNTS, negatives=0)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'in_batch'"):
        build_sampler("in-batch", COUNTS)
