"""Pooled histories: the latest event first, padding and order where they belong."""

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged, windows
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


LISTS = ragged(
    [1, 2, 3, 4, 5, 6, 1, 1, 2], [3], [], [6, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 0, 1], [4, 4]
)
PLACES = {
    "every event": list(range(len(LISTS.values))),
    "a few": [0, 2, 8, 9, 15, 23],
    "one": [22],
    "none": [],
}


def one_by_one(pool, places, table):
    """Each position with a list of its own: the latest events up to it."""
    end = places + 1
    begin = torch.maximum(end - 5, LISTS.offsets[LISTS.owners()[places]])
    return pool(windows(LISTS.values, begin, end - begin), table)


@pytest.mark.parametrize("kind", [RecencyPooling, MeanPooling])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_asked_within_histories_it_gives_what_each_position_gives_alone(kind, places, dtype, close):
    pool, at = kind(Model(history_length=5)), torch.tensor(PLACES[places], dtype=torch.int64)
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    table[0] = 0
    table.requires_grad_()
    found, wanted = pool(LISTS, table, at), one_by_one(pool, at, table)
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (mine,) = torch.autograd.grad((found * slope).sum(), table)
    (theirs,) = torch.autograd.grad((wanted * slope).sum(), table)
    torch.testing.assert_close(mine, theirs, rtol=close, atol=close)
    assert not mine[0].any()


def test_a_long_history_loses_no_digits():
    """100,000 large numbers of one sign before the one that is asked for."""
    table = torch.tensor([[0.0], [1000.0], [0.001]])
    history = Ragged(torch.tensor([1] * 100_000 + [2]), torch.tensor([0, 100_001]))
    found = RecencyPooling(Model(history_length=5))(history, table, torch.tensor([100_000]))
    assert found[0, 0].item() == pytest.approx(0.001, rel=1e-4)


def test_an_event_left_out_is_left_out_for_all_positions():
    pool, table = RecencyPooling(Model(history_length=1, history_dropout=0.5)).train(), torch.eye(7)
    history = ragged([1, 2, 3, 4, 5, 6])
    torch.manual_seed(0)
    found = pool(history, table, torch.arange(6))[:, 0]  # one event each
    torch.manual_seed(0)
    kept = torch.rand(6) >= 0.5
    assert torch.equal(found, table[history.values] * kept[:, None])
    assert 0 < kept.sum() < 6
