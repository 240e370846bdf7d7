import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.sampling import build_sampler

COUNTS = torch.tensor([0, 8, 1, 1])


def batch(ids):
    positive = torch.tensor(ids)
    return Batch(positive, positive, torch.ones(len(ids)), None)


def test_a_pool_holds_the_batch_and_the_latest_positives_before_it():
    sampler = build_sampler("memory", COUNTS, negatives=4)
    first = sampler.sample(batch([1, 2]), None)
    second = sampler.sample(batch([1, 1]), None)
    third = sampler.sample(batch([3, 1]), None)
    fourth = sampler.sample(batch([2, 2]), None)
    assert first.ids.tolist() == [1, 2]
    assert second.ids.tolist() == [1, 1, 1, 2]
    assert third.ids.tolist() == [3, 1, 1, 1, 1, 2]
    assert fourth.ids.tolist() == [2, 2, 3, 1, 1, 1]  # the first batch is forgotten
    assert fourth.source.tolist() == [0, 1, -1, -1, -1, -1]


def test_log_q_counts_the_slots_of_the_latest_pool_and_not_of_the_next():
    sampler = build_sampler("memory", COUNTS, negatives=100)
    for slots in (2, 5, 8):  # B - 1, then 3 and 6 remembered ones besides
        pool = sampler.sample(batch([1, 1, 2]), None)
        expected = sampler.log_q(torch.tensor([1, 2, 3]), batch([1, 1, 2])).exp()
        torch.testing.assert_close(expected, slots * torch.tensor([0.8, 0.1, 0.1]))
        assert len(pool.ids) == slots + 1


def test_what_it_remembers_is_its_own_copy():
    sampler = build_sampler("memory", COUNTS, negatives=4)
    first = batch([1, 2])
    sampler.sample(first, None)
    first.positive.fill_(3)
    assert sampler.sample(batch([1]), None).ids.tolist() == [1, 1, 2]


@pytest.mark.parametrize("size", [1, 3])
def test_it_remembers_no_more_than_it_was_told(size):
    sampler = build_sampler("memory", COUNTS, negatives=size)
    sampler.sample(batch([1, 1, 2, 3, 1]), None)
    assert len(sampler.sample(batch([2]), None).ids) == 1 + size


def test_one_that_goes_on_remembers_the_training_before_and_counts_its_slots_by_its_shares():
    earlier, now = torch.tensor([0, 6, 2, 0]), torch.tensor([0, 0, 1, 3])
    sampler = build_sampler("memory", now, negatives=4000)
    sampler.go_on(now, earlier, torch.Generator().manual_seed(0))
    pool = sampler.sample(batch([3, 2]), None)
    shares = torch.bincount(pool.ids[2:], minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0, 0.75, 0.25, 0]), atol=0.02, rtol=0)
    rows = torch.tensor([1, 2, 3])
    expected = sampler.log_q(rows, batch([3, 2])).exp()  # 1 slot of now, 4,000 of before
    torch.testing.assert_close(expected, torch.tensor([3000.0, 1000.25, 0.75]))
    sampler.sample(batch([3, 2]), None)  # two of the old ones have made room
    expected = sampler.log_q(rows, batch([3, 2])).exp()
    torch.testing.assert_close(expected, torch.tensor([2998.5, 1000.25, 2.25]))
