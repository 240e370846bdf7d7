"""The contract of every reader of histories in the table TOWERS."""

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.towers import TOWERS, build_history

WIDTH, LENGTH, ITEMS = 16, 8, 20
CAUSAL = sorted(name for name, kind in TOWERS.items() if kind.causal)


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


def built(name, **options):
    """A tower with loud weights, so that whatever it does is seen."""
    torch.manual_seed(0)
    tower = build_history(
        Model(history=name, dim=WIDTH, history_length=LENGTH, dropout=0.0, **options)
    )
    for weight in tower.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return tower.eval()


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(ITEMS, WIDTH)
    table[0] = 0
    return table


def of_list(name, found, lists, number):
    """What a tower gave for one of the lists."""
    begin, end = lists.offsets[number : number + 2].tolist()
    return found[begin:end] if name in CAUSAL else found[number]


@pytest.mark.parametrize("name", TOWERS)
def test_a_list_gives_the_same_alone_and_beside_others(name, table):
    tower, lists = built(name), ragged([1, 2, 3, 4, 5, 6, 7, 8], [3, 5], [], [9])
    together = tower(lists, table)
    for number, items in enumerate([[1, 2, 3, 4, 5, 6, 7, 8], [3, 5], [], [9]]):
        alone = ragged(items)
        torch.testing.assert_close(
            of_list(name, together, lists, number),
            of_list(name, tower(alone, table), alone, 0),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", TOWERS)
def test_shapes_are_those_of_the_protocol_and_nothing_is_left_undefined(name, table):
    found = built(name)(ragged([3, 5], [], [9]), table)
    if name in CAUSAL:
        assert found.shape == (3, WIDTH)
    else:
        assert found.shape[::2] == (3, WIDTH)
        assert found.dim() == 3
    assert bool(found.isfinite().all())
    assert built(name)(ragged(), table).shape[0] == 0


@pytest.mark.parametrize("name", TOWERS)
def test_the_events_of_a_history_count(name, table):
    tower = built(name)
    one, other = (tower(ragged([3, 5, item]), table) for item in (7, 9))
    assert (one[-1] - other[-1]).abs().max() > 0.01


@pytest.mark.parametrize("name", TOWERS)
def test_events_are_left_out_in_training_only(name, table):
    tower, lists = built(name, history_dropout=0.5), ragged([3, 5, 7, 9])
    tower.train()
    noisy = [tower(lists, table) for _ in range(6)]
    assert len({tuple(vectors.flatten().tolist()) for vectors in noisy}) > 1
    tower.eval()
    assert torch.equal(tower(lists, table), tower(lists, table))


@pytest.mark.parametrize("name", TOWERS)
def test_gradients_reach_the_items_that_were_met_and_no_others(name, table):
    table.requires_grad_()
    built(name)(ragged([3, 5], [9]), table).square().sum().backward()
    moved = table.grad.abs().sum(dim=1).nonzero().squeeze(1).tolist()
    assert moved == [3, 5, 9]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_vector_has_seen_no_later_event(name, table):
    tower = built(name)
    whole = tower(ragged([3, 5, 7, 9]), table)
    for length in range(1, 5):
        part = tower(ragged([3, 5, 7, 9][:length]), table)
        torch.testing.assert_close(part, whole[:length], atol=1e-5, rtol=1e-5)
    other = tower(ragged([3, 5, 7, 2]), table)
    torch.testing.assert_close(other[:3], whole[:3])
    assert (other[3] - whole[3]).abs().max() > 0.01


@pytest.mark.parametrize("name", CAUSAL)
def test_order_counts(name, table):
    tower = built(name)
    forth, back = tower(ragged([3, 5, 7]), table), tower(ragged([5, 3, 7]), table)
    assert (forth[2] - back[2]).abs().max() > 0.01


@pytest.mark.parametrize("name", CAUSAL)
def test_the_lengths_of_item_embeddings_are_not_read(name, table):
    tower = built(name)
    torch.testing.assert_close(tower(ragged([3, 5]), table), tower(ragged([3, 5]), table * 7))
