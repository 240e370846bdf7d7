"""The attention tower: what it reads, and what must not change its vectors."""

import math

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.towers.attention import Attention
from shortlist.towers.clock import BUCKETS, TIMELESS, event_gaps
from shortlist.towers.noise import dropout
from shortlist.towers.padding import Padded


def ragged(*lists):
    flat = torch.tensor([i for items in lists for i in items], dtype=torch.int64)
    sizes = torch.tensor([0, *(len(items) for items in lists)])
    return Ragged(flat, sizes.cumsum(0))


@pytest.fixture
def tower():
    torch.manual_seed(0)
    built = Attention(Model(dim=16, history_length=8)).eval()
    for block in built.blocks:  # loud enough that what a block adds is seen
        torch.nn.init.normal_(block.found.weight, std=0.3)
        torch.nn.init.normal_(block.narrow.weight, std=0.3)
    return built


@pytest.fixture
def table():
    torch.manual_seed(1)
    table = torch.randn(20, 16)
    table[0] = 0
    return table


def test_a_vector_depends_on_how_far_apart_events_lie_and_not_on_where_they_begin(tower, table):
    """Rotary positions are relative: with all else equal, a shift of all places changes nothing."""
    hidden = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(2))
    block = tower.blocks[0]
    early = block(hidden[:, :4], tower.turn[:, :4])
    late = block(hidden[:, :4], tower.turn[:, 3:7])
    torch.testing.assert_close(early, late, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_is_softmax_over_the_events_so_far_by_hand(tower, table):
    """The first block's attention, one head at a time, as the formula says."""
    block = tower.blocks[0]
    hidden = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(3))
    still = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)])  # all places turned by nothing
    normed = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    query, key, value = (normed @ block.look.weight.T).view(3, 3, 2, 8).unbind(1)
    seen = torch.zeros(3, 2, 8)
    for head in range(2):
        for now in range(3):
            scores = key[: now + 1, head] @ query[now, head] / math.sqrt(8)
            seen[now, head] = scores.exp() / scores.exp().sum() @ value[: now + 1, head]
    after = hidden + (seen.reshape(1, 3, 16) @ block.found.weight.T)
    block.narrow.weight.data.zero_()
    torch.testing.assert_close(block(hidden, still), after, atol=1e-5, rtol=1e-5)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ModelError, match="history_heads"):
        Attention(Model(dim=18), history_heads=2)


def test_what_goes_into_the_rectangle_comes_out_of_it():
    lists = ragged([1, 2, 3], [], [4])
    values = torch.arange(8.0).view(4, 2)
    padded = Padded.of(lists)
    rectangle = padded.spread(values)
    assert rectangle.shape == (3, 3, 2)
    assert torch.equal(rectangle[0], values[:3])
    assert torch.equal(rectangle[2, 0], values[3])
    assert rectangle[1].abs().sum() == 0
    assert torch.equal(padded.gather(rectangle), values)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.001])
def test_dropout_keeps_the_mean_and_drops_the_share(share):
    torch.manual_seed(0)
    values = torch.ones(400_000)
    left = dropout(values, share, training=True)
    rounded = max(1, round(share * 256)) / 256
    assert float((left == 0).float().mean()) == pytest.approx(rounded, abs=0.004)
    assert float(left.mean()) == pytest.approx(1.0, abs=0.006)
    assert left.unique().tolist() == pytest.approx([0.0, 1 / (1 - rounded)])
    assert dropout(values, share, training=False) is values


TWO = ragged([1, 2, 3, 4, 5], [6, 7, 8])
TIMES = torch.tensor([10, 11, 40, 1000, 90_000, 5, 5, 700])


@pytest.fixture
def timed():
    torch.manual_seed(0)
    built = Attention(Model(dim=16, history_length=8), history_time=True)
    for block in built.blocks:
        torch.nn.init.normal_(block.found.weight, std=0.3)
        torch.nn.init.normal_(block.time, std=2.0)
    return built.eval()


def test_before_training_times_say_nothing(tower, timed, table):
    timed.load_state_dict(tower.state_dict(), strict=False)
    for block in timed.blocks:
        torch.nn.init.zeros_(block.time)
    plain = tower(TWO, table)
    torch.testing.assert_close(timed(TWO, table, TIMES), plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(timed(TWO, table), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_what_counts_is_the_time_between_events_and_not_the_date(timed, table, dtype):
    found = timed(TWO, table, TIMES.to(dtype))
    later = timed(TWO, table, (TIMES + 1_700_000_000).to(dtype))
    torch.testing.assert_close(found, later)
    other = TIMES.clone()
    other[2] += 500
    moved = timed(TWO, table, other.to(dtype)) - found
    assert moved[2].abs().max() > 0.01
    assert not moved[:2].any()
    assert not moved[5:].any()


def test_gaps_are_in_powers_of_two_and_a_later_event_is_no_gap():
    gaps = event_gaps(Padded.of(TWO), TIMES, hide=False)
    assert gaps[0, 4].tolist() == [16, 16, 16, 16, 0]  # 2^16 <= 90,000 - t + 1 < 2^17
    assert gaps[0, 2].tolist() == [4, 4, 0, 0, 0]  # 30 and 29 units
    assert gaps[1, 2, :3].tolist() == [9, 9, 0]
    assert gaps[1, 1, 0] == 0  # of the same time
    far = event_gaps(Padded.of(ragged([1, 2])), torch.tensor([-(2.0**80), 2.0**80]), hide=False)
    assert far.max() == BUCKETS - 1


@torch.no_grad()
def test_the_bias_is_added_before_the_softmax_by_hand(timed):
    block = timed.blocks[0]
    hidden = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(3))
    still = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)])
    gaps = torch.tensor([[[0, 0, 0], [3, 0, 0], [BUCKETS, 1, 0]]])
    normed = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    query, key, value = (normed @ block.look.weight.T).view(3, 3, 2, 8).unbind(1)
    seen = torch.zeros(3, 2, 8)
    for head in range(2):
        for now in range(3):
            scores = key[: now + 1, head] @ query[now, head] / math.sqrt(8)
            scores = scores + block.time[gaps[0, now, : now + 1], head]
            seen[now, head] = scores.softmax(0) @ value[: now + 1, head]
    after = hidden + (seen.reshape(1, 3, 16) @ block.found.weight.T)
    block.narrow.weight.data.zero_()
    torch.testing.assert_close(block(hidden, still, gaps), after, atol=1e-5, rtol=1e-5)


def test_a_timed_history_gives_the_same_alone_and_has_seen_no_later_event(timed, table):
    together = timed(TWO, table, TIMES)
    torch.testing.assert_close(
        timed(ragged([6, 7, 8]), table, TIMES[5:]), together[5:], atol=1e-5, rtol=1e-5
    )
    for length in range(1, 5):
        part = timed(ragged([1, 2, 3, 4, 5][:length]), table, TIMES[:length])
        torch.testing.assert_close(part, together[:length], atol=1e-5, rtol=1e-5)


def test_a_share_of_the_histories_trains_without_its_times():
    torch.manual_seed(0)
    many = Padded.of(Ragged(torch.ones(4000, dtype=torch.int64), torch.arange(0, 4001, 2)))
    gaps = event_gaps(many, torch.arange(4000), hide=True)
    left_out = (gaps == BUCKETS).flatten(1)
    assert torch.equal(left_out.any(1), left_out.all(1))
    assert left_out.any(1).float().mean().item() == pytest.approx(TIMELESS, abs=0.02)
    assert bool((event_gaps(many, None, hide=True) == BUCKETS).all())
