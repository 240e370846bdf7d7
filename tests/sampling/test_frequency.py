"""The streaming estimate: close to the truth, bounded in memory, and following what changes."""

import math

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.errors import ModelError
from shortlist.sampling import build_sampler
from shortlist.sampling.frequency import StreamingFrequency


def stream(shares, batches, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(shares, batches * size, True, generator=generator)
    return drawn.view(batches, size)


def zipf(items):
    shares = 1 / torch.arange(1, items + 1).double()
    return shares / shares.sum()


def log_error(estimate, ids, shares):
    return (estimate.of(ids).log() - shares[ids].log()).abs()


def test_the_first_events_count_as_they_are():
    estimate = StreamingFrequency(buckets=64)
    estimate.update(torch.tensor([1, 2, 1, 3, 1]))
    torch.testing.assert_close(
        estimate.of(torch.tensor([1, 2, 3])), torch.tensor([0.6, 0.2, 0.2]).double()
    )
    estimate.update(torch.tensor([1, 1, 1, 1, 3]))
    torch.testing.assert_close(estimate.of(torch.tensor([1, 3])), torch.tensor([0.7, 0.2]).double())
    # 2 stands where it was last seen: the paper's estimate moves only with an item's own events.
    assert estimate.of(torch.tensor([2])).item() == pytest.approx(0.2)


def test_an_item_never_seen_is_rarer_than_any_event():
    estimate = StreamingFrequency(buckets=64)
    assert estimate.of(torch.tensor([5])).item() == 1
    estimate.update(torch.tensor([1, 2, 1, 3]))
    assert estimate.of(torch.tensor([[7], [8]])).tolist() == [[0.2], [0.2]]


@pytest.mark.parametrize("size", [16, 512], ids="batches of {}".format)
def test_it_finds_the_shares_of_a_stream_of_popular_and_rare_items(size):
    """The top item is in a batch of 512 seventy-five times: counted in batches it would be 1."""
    shares = zipf(500)
    estimate = StreamingFrequency(buckets=4096, rate=0.01)
    for ids in stream(shares, 60_000 // size, size):
        estimate.update(ids)
    error = log_error(estimate, torch.arange(100), shares)
    assert error.mean() < 0.08
    assert error.max() < 0.4


def test_it_follows_a_share_that_changes():
    before = torch.tensor([0.5, 0.5, 0.0, 0.0]).double()
    after = torch.tensor([0.1, 0.4, 0.5, 0.0]).double()
    estimate = StreamingFrequency(buckets=64, rate=0.05)
    for ids in torch.cat([stream(before, 200, 32), stream(after, 200, 32, seed=1)]):
        estimate.update(ids)
    assert log_error(estimate, torch.arange(3), after).max() < 0.25


def test_several_hashes_make_up_for_a_crowded_table():
    shares, errors = zipf(2000), []
    for hashes in (1, 4):
        estimate = StreamingFrequency(buckets=1024, hashes=hashes)
        for ids in stream(shares, 100, 512):
            estimate.update(ids)
        errors.append(log_error(estimate, torch.arange(300), shares).mean().item())
        assert estimate._interval.numel() == 1024 * hashes  # whatever came by
    assert errors[1] < errors[0] / 2


def test_hashes_spread_neighbouring_rows_and_differ_from_each_other():
    estimate = StreamingFrequency(buckets=1024, hashes=3)
    places = estimate._places(torch.arange(4096)) % 1024
    for one in places:
        assert len(one.unique()) > 900  # random throws would fill 1,005 of 1,024
        assert torch.bincount(one, minlength=1024).max() < 24
    assert (places[0] == places[1]).float().mean() < 0.02


@pytest.mark.parametrize(
    "options",
    [{"buckets": 3}, {"buckets": 1}, {"buckets": 0}, {"hashes": 0}, {"rate": 0.0}, {"rate": 1.5}],
    ids=str,
)
def test_what_cannot_work_is_refused(options):
    with pytest.raises(ModelError, match=f"{next(iter(options))} must be"):
        StreamingFrequency(**options)


def test_the_sampler_takes_each_batch_in_before_it_answers():
    sampler = build_sampler("in_batch_streaming", torch.tensor([0, 1, 1, 1]))
    positive = torch.tensor([1, 1, 2, 1, 7])  # 7 is new: nobody had counted it
    batch = Batch(positive, positive, torch.ones(5), None)
    pool = sampler.sample(batch, None)
    wanted = [math.log(4 * share) for share in (0.6, 0.6, 0.2, 0.6, 0.2)]
    assert pool.log_q.tolist() == pytest.approx(wanted, rel=1e-6)
    assert pool.source.tolist() == [0, 1, 2, 3, 4]


def test_an_estimate_that_begins_with_counts_knows_the_shares_and_follows_the_stream():
    estimate = StreamingFrequency(buckets=4096)
    estimate.begin(torch.tensor([0.0, 60.0, 30.0, 9.5, 0.5]))
    rows = torch.arange(1, 5)
    torch.testing.assert_close(
        estimate.of(rows), torch.tensor([0.6, 0.3, 0.095, 0.005], dtype=torch.float64)
    )
    for _ in range(200):
        estimate.update(torch.tensor([4, 4, 4, 1]))
    torch.testing.assert_close(
        estimate.of(rows[[3, 0]]), torch.tensor([0.75, 0.25], dtype=torch.float64), atol=0.1, rtol=0
    )
