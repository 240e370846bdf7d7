"""The HSTU tower: by hand, and what must not change its vectors."""

import numpy as np
import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.towers.clock import BUCKETS
from shortlist.towers.hstu import HSTU

DIM, HEADS, LENGTH = 8, 2, 6


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


def built(*, timed=False, layers=2):
    """A tower whose every weight differs from what it starts with."""
    torch.manual_seed(0)
    tower = HSTU(
        Model(dim=DIM, history_length=LENGTH, dropout=0.2),
        history_layers=layers,
        history_heads=HEADS,
        history_time=timed,
    )
    with torch.no_grad():
        for weights in tower.parameters():
            weights.add_(0.5 * torch.randn(weights.shape))
    return tower.eval()


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(20, DIM)
    table[0] = 0
    return table


TWO = ragged([1, 2, 3, 4, 5], [6, 7, 8])
TIMES = torch.tensor([10, 11, 40, 1000, 90_000, 5, 5, 700])


def silu(values):
    return values / (1 + np.exp(-values))


def normed(values):
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("timed", [False, True])
def test_a_unit_over_three_events_is_the_formula_of_the_paper(table, timed):
    tower = built(timed=timed, layers=1)
    weights = {
        name: value.detach().numpy().astype(float) for name, value in tower.named_parameters()
    }
    items = table[[1, 2, 3]].numpy().astype(float)
    hidden = items / np.linalg.norm(items, axis=1, keepdims=True) * np.sqrt(DIM)
    projected = silu(normed(hidden) @ weights["units.0.project.weight"].T)
    gate, value, query, key = np.split(projected, 4, axis=1)
    buckets = {(1, 0): 1, (2, 0): 4, (2, 1): 4}  # of gaps of 1, 30 and 29 units
    seen = np.zeros((3, DIM))
    for head in range(HEADS):
        part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
        for now in range(3):
            for then in range(now + 1):
                score = query[now, part] @ key[then, part] + weights["units.0.place"][now - then]
                if timed:
                    score += weights["units.0.time"][buckets.get((now, then), 0), 0]
                seen[now, part] += silu(score) / LENGTH * value[then, part]
    out = (gate * normed(seen)) @ weights["units.0.out.weight"].T + weights["units.0.out.bias"]
    by_hand = normed(hidden + out) * weights["norm.weight"] + weights["norm.bias"]
    found = tower(ragged([1, 2, 3]), table, TIMES[:3] if timed else None)
    np.testing.assert_allclose(found.detach().numpy(), by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("timed", [False, True])
def test_neither_padding_nor_others_in_the_batch_nor_later_events_change_a_vector(table, timed):
    tower = built(timed=timed)
    together = tower(TWO, table, TIMES)
    torch.testing.assert_close(
        tower(ragged([6, 7, 8]), table, TIMES[5:]), together[5:], atol=1e-5, rtol=1e-5
    )
    for length in range(1, 5):
        part = tower(ragged([1, 2, 3, 4, 5][:length]), table, TIMES[:length])
        torch.testing.assert_close(part, together[:length], atol=1e-5, rtol=1e-5)


def test_what_counts_is_the_time_between_events_and_not_the_date(table):
    tower = built(timed=True)
    found = tower(TWO, table, TIMES)
    torch.testing.assert_close(tower(TWO, table, TIMES + 1_700_000_000), found)
    other = TIMES.clone()
    other[2] += 500
    moved = tower(TWO, table, other) - found
    assert moved[2].abs().max() > 0.01
    assert not moved[:2].any()
    assert not moved[5:].any()


def test_with_an_anchor_an_event_looks_back_from_there(table):
    tower = built(timed=True)
    plain = tower(TWO, table, TIMES)
    torch.testing.assert_close(tower(TWO, table, TIMES, TIMES), plain)
    later = TIMES.clone()
    later[4] += 10_000_000
    moved = tower(TWO, table, TIMES, later) - plain
    assert moved[4].abs().max() > 0.01
    assert not moved[:4].any()


def test_before_training_times_and_places_say_nothing(table):
    torch.manual_seed(0)
    plain = HSTU(Model(dim=DIM, history_length=LENGTH)).eval()
    timed = HSTU(Model(dim=DIM, history_length=LENGTH), history_time=True).eval()
    timed.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(timed(TWO, table, TIMES), plain(TWO, table))
    assert all(not unit.place.any() for unit in plain.units)


def test_a_history_without_times_reads_the_number_of_what_is_not_known(table):
    tower = built(timed=True)
    without = tower(TWO, table)
    with torch.no_grad():
        for unit in tower.units:
            unit.time[BUCKETS] += 3.0
    assert (tower(TWO, table) - without).abs().max() > 0.01


def test_gradients_reach_every_weight(table):
    tower = built(timed=True).train()
    tower(TWO, table, TIMES).square().sum().backward()
    assert all(bool(weights.grad.any()) for weights in tower.parameters())


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ModelError, match="history_heads"):
        HSTU(Model(dim=18), history_heads=4)
