"""The recurrent tower: what it has seen, and what must not change its vectors."""

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.retrievers.vector import TwoTower
from shortlist.towers.gru import GRU


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


@pytest.fixture(params=[1, 2])
def tower(request):
    torch.manual_seed(0)
    return GRU(Model(history="gru", dim=16, history_length=8, history_layers=request.param)).eval()


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(20, 16)
    table[0] = 0
    return table


def test_a_vector_has_seen_no_later_event(tower, table):
    whole = tower(ragged([3, 5, 7, 9]), table)
    for length in range(1, 5):
        part = tower(ragged([3, 5, 7, 9][:length]), table)
        torch.testing.assert_close(part, whole[:length])
    other = tower(ragged([3, 5, 7, 2]), table)
    torch.testing.assert_close(other[:3], whole[:3])
    assert (other[3] - whole[3]).abs().max() > 0.01


def test_padding_and_neighbours_change_nothing(tower, table):
    alone = tower(ragged([3, 5]), table)
    beside = tower(ragged([1, 2, 3, 4, 5, 6, 7, 8], [3, 5], [], [9]), table)
    torch.testing.assert_close(beside[8:10], alone)


def test_order_counts(tower, table):
    forth, back = tower(ragged([3, 5, 7]), table), tower(ragged([5, 3, 7]), table)
    assert (forth[2] - back[2]).abs().max() > 0.01


def test_the_lengths_of_item_embeddings_are_not_read(tower, table):
    torch.testing.assert_close(tower(ragged([3, 5]), table), tower(ragged([3, 5]), table * 7))


@torch.no_grad()
def test_a_state_is_a_gated_mean_of_the_last_state_and_the_new_event_by_hand(table):
    torch.manual_seed(2)
    tower = GRU(Model(history="gru", dim=16, history_length=8, history_layers=1)).eval()
    weights = dict(tower.layers.named_parameters())
    state = torch.zeros(16)
    by_hand = []
    for item in (3, 5, 7):
        event = table[item] / table[item].norm() * 4
        new = (weights["weight_ih_l0"] @ event + weights["bias_ih_l0"]).view(3, 16)
        old = (weights["weight_hh_l0"] @ state + weights["bias_hh_l0"]).view(3, 16)
        reset, keep = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        state = (1 - keep) * torch.tanh(new[2] + reset * old[2]) + keep * state
        by_hand.append(state)
    found = tower(ragged([3, 5, 7]), table)
    torch.testing.assert_close(found, torch.stack(by_hand), atol=1e-5, rtol=1e-5)


def test_events_are_left_out_in_training_only(table):
    torch.manual_seed(0)
    shape = Model(history="gru", dim=16, history_length=8, dropout=0.0, history_dropout=0.5)
    tower, lists = GRU(shape), ragged([3, 5, 7, 9])
    noisy = [tower(lists, table) for _ in range(4)]
    assert len({tuple(vectors.flatten().tolist()) for vectors in noisy}) > 1
    tower.eval()
    assert torch.equal(tower(lists, table), tower(lists, table))


def test_it_trains_at_every_event_and_answers(split):
    fitted = TwoTower(history="gru", history_layers=1, dim=8, epochs=1, batch_size=256).fit(split)
    assert fitted.towers.query.causal
    assert len(fitted.recommend([10_001], 5).ids[0]) == 5
