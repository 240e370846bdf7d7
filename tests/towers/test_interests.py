"""Several vectors of a user: the papers' formulas by hand, and what must not change them."""

import numpy as np
import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.towers import TOWERS, build_history
from shortlist.towers.base import InterestTower
from shortlist.towers.interests import RoutedInterests, SelfAttentiveInterests

KINDS = {"comirec": SelfAttentiveInterests, "mind": RoutedInterests}


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


def build(name, **options):
    torch.manual_seed(0)
    shape = {"dim": 4, "history_length": 8, "interests": 2} | options
    tower = build_history(Model(history=name, **shape)).eval()
    if name == "comirec":  # positions that were learned
        torch.nn.init.normal_(tower.position)
    return tower


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(20, 4)
    table[0] = 0
    return table


@torch.no_grad()
def test_comirec_is_a_softmax_over_the_events_for_each_interest_by_hand(table):
    tower = build("comirec")
    items, position = table.numpy(), tower.position.numpy()
    widen, weigh = tower.widen.weight.numpy(), tower.weigh.weight.numpy()
    met = items[[3, 5, 7]]
    seen = 2 * met / np.linalg.norm(met, axis=1, keepdims=True) + position[[2, 1, 0]]
    logits = np.tanh(seen @ widen.T) @ weigh.T  # [3, 2]
    weights = np.exp(logits) / np.exp(logits).sum(axis=0)
    found = tower(ragged([9], [3, 5, 7]), table)[1]
    np.testing.assert_allclose(found.numpy(), weights.T @ met, atol=1e-5)


def squash(vectors):
    square = (vectors**2).sum(axis=1, keepdims=True)
    return square / (1 + square) * vectors / np.sqrt(square)


@torch.no_grad()
def test_mind_routes_events_to_the_interests_they_agree_with_by_hand(table):
    tower = build("mind")
    torch.nn.init.normal_(tower.map.weight)
    met = table.numpy()[[3, 5, 7, 9]]
    mapped = met / np.linalg.norm(met, axis=1, keepdims=True) @ tower.map.weight.numpy().T
    logits = tower.start.numpy()[[3, 2, 1, 0]]
    for _ in range(3):
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        interests = squash(shares.T @ mapped)
        logits = logits + mapped @ interests.T
    found = tower(ragged([2], [3, 5, 7, 9]), table)[1]
    np.testing.assert_allclose(found.numpy(), interests, atol=1e-5)


@torch.no_grad()
def test_mind_gives_two_tastes_an_interest_each(table):
    tower = build("mind")
    table[1:6], table[6:11] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, -1.0, 0, 0])
    tower.map.weight *= 4  # agreement counts more than where routing starts
    first, second = tower(ragged([1, 6, 2, 7, 3, 8]), table)[0]
    ends = {(round(float(v[0])), round(float(v[1]))) for v in (first, second)}
    assert ends == {(1, 0), (0, -1)}


@torch.no_grad()
@pytest.mark.parametrize(("events", "wanted"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3)])
def test_mind_has_at_most_log2_n_interests_and_the_first_stands_in_for_the_others(
    table, events, wanted
):
    found = build("mind", interests=4)(ragged(list(range(1, events + 1))), table)[0]
    assert len({tuple(vector.tolist()) for vector in found}) == wanted
    assert all(torch.equal(vector, found[0]) for vector in found[wanted:])
    assert found.norm(dim=1).min() > 0


@pytest.mark.parametrize("name", KINDS)
def test_padding_and_neighbours_change_nothing(name, table):
    tower = build(name)
    alone = tower(ragged([3, 5, 4, 6]), table)
    beside = tower(ragged([1, 2, 3, 4, 5, 6, 7, 8], [3, 5, 4, 6], []), table)
    torch.testing.assert_close(beside[1:2], alone)


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_history_is_zero_and_every_gradient_is_finite(name, table):
    tower, table = build(name).train(), table.requires_grad_()
    found = tower(ragged([], [3], [5, 0, 4, 6]), table)
    assert found.shape == (3, 2, 4)
    assert not found[0].any()
    assert found[1].any()
    found.square().sum().backward()
    assert table.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in tower.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", KINDS)
def test_all_events_may_be_left_out_and_none_is_when_serving(name, table):
    tower, lists = build(name, history_dropout=0.99).train(), ragged([3, 5, 4, 6])
    assert not any(tower(lists, table).any() for _ in range(3))
    tower.eval()
    assert torch.equal(tower(lists, table), tower(lists, table))
    assert tower(lists, table).any()


def test_one_interest_of_comirec_is_an_attention_pooled_history(table):
    found = build("comirec", interests=1)(ragged([3, 5]), table)
    assert found.shape == (1, 1, 4)
    between = (found[0, 0] - table[3]) / (table[5] - table[3])
    torch.testing.assert_close(between, between[:1].expand(4), atol=1e-5, rtol=1e-5)
    assert 0 < between[0] < 1


def test_the_recipe_knows_which_towers_give_several_vectors():
    for name in TOWERS:
        shape = Model(history=name, dim=4, dropout=0.0)
        assert isinstance(build_history(shape), InterestTower) == (shape.query_vectors is not None)
