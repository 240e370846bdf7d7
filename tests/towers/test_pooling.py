"""Pooled histories: the latest event first, padding and order where they belong."""

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.towers.pooling import MeanPooling, RecencyPooling


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


@pytest.fixture
def pooling():
    return RecencyPooling(Model(history_length=5)).eval()


@pytest.fixture
def table():
    """Width 1, item i embedded as 10^i: sums can be read off."""
    weight = torch.zeros(7, 1)
    weight[1:, 0] = 10.0 ** torch.arange(1, 7)
    return weight.requires_grad_()


def test_segments_are_the_last_event_then_two_then_the_rest_scaled_by_root_n(pooling, table):
    assert pooling.edges.tolist() == [0, 1, 3, 5]
    found = pooling(ragged([1, 2, 3, 4, 5], [6], [], [3, 4]), table)[:, :, 0]
    by_hand = torch.tensor(
        [
            [1e5, (1e4 + 1e3) / 2**0.5, (1e2 + 1e1) / 2**0.5],
            [1e6, 0, 0],
            [0, 0, 0],
            [1e4, 1e3, 0],
        ]
    )
    torch.testing.assert_close(found, by_hand)


def test_what_stands_beside_a_history_in_the_batch_changes_nothing(pooling, table):
    alone = pooling(ragged([2, 3, 4]), table)
    among = pooling(ragged([1, 1, 1, 1, 1], [2, 3, 4], [], [6]), table)[1:2]
    assert torch.equal(alone, among)


def test_mean_pooling_does_not_care_about_order():
    pool, table = MeanPooling(Model(history_length=5)).eval(), torch.rand(7, 4)
    torch.testing.assert_close(pool(ragged([1, 2, 3]), table), pool(ragged([3, 1, 2]), table))
    assert pool(ragged([1, 2, 3]), table).shape == (1, 1, 4)


def test_the_unknown_item_is_zero_and_learns_nothing(pooling, table):
    pooling.train()
    pooling(ragged([0, 1, 0]), table).sum().backward()
    assert table.grad[0].item() == 0
    assert table.grad[1].item() != 0


def test_history_dropout_acts_in_training_only():
    pool, table = RecencyPooling(Model(history_length=5, history_dropout=0.5)), torch.rand(7, 4)
    history = ragged([1, 2, 3, 4, 5])
    torch.manual_seed(0)
    assert not torch.equal(pool(history, table), pool(history, table))
    pool.eval()
    assert torch.equal(pool(history, table), pool(history, table))
