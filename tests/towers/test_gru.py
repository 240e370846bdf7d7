"""The recurrent tower: its formula by hand. What all towers promise is in tests/contracts."""

import pytest
import torch

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.towers.gru import GRU


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(20, 16)
    table[0] = 0
    return table


@torch.no_grad()
def test_a_state_is_a_gated_mean_of_the_last_state_and_the_new_event_by_hand(table):
    torch.manual_seed(2)
    tower = GRU(Model(dim=16, history_length=8), history_layers=1).eval()
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


def test_it_trains_at_every_event_and_answers(split):
    fitted = TwoTower(history="gru", history_layers=1, dim=8, epochs=1, batch_size=256).fit(split)
    assert fitted.towers.query.causal
    assert len(fitted.recommend([10_001], 5).ids[0]) == 5
