"""Mixtures: of distributions slot by slot, and of whole pools side by side."""

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.sampling import (
    InBatchSampler,
    MixedSampler,
    PopularitySampler,
    UniformSampler,
    build_sampler,
)

COUNTS = torch.tensor([0, 8, 1, 0, 1])


def batch(ids):
    positive = torch.tensor(ids)
    return Batch(positive, positive, torch.ones(len(ids)), None)


@pytest.mark.parametrize(
    ("mixture", "law"),
    [
        ({"uniform": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ({"in_batch": 5.0}, [0.8, 0.1, 0.1]),
        ({"in_batch": 2.0, "uniform": 1.0}, [0.8 * 2 / 3 + 1 / 9, 0.1 * 2 / 3 + 1 / 9, 0.0]),
        (None, [0.0, 0.0, 0.0]),
    ],
)
def test_each_slot_is_drawn_from_the_weighted_sum_of_the_laws(mixture, law):
    sampler = build_sampler("mixture", COUNTS, mixture=mixture, negatives=6)
    expected = sampler.log_q(torch.tensor([1, 2, 4]), batch([1])).exp()
    if mixture is None:  # as much of each
        drawn = COUNTS.double()[[1, 2, 4]].pow(0.75)
        law = (0.5 * drawn / drawn.sum() + 0.5 / 3).tolist()
    law[2] = law[1]  # items 2 and 4 are alike
    torch.testing.assert_close(expected, 6 * torch.tensor(law))


def test_the_expected_counts_of_the_parts_are_summed():
    sampler = build_sampler("mixed", COUNTS, negatives=6, mixture={"in_batch": 1.0})
    expected = sampler.log_q(torch.tensor([1, 2, 4]), batch([1, 2, 1, 1, 4])).exp()
    torch.testing.assert_close(expected, (4 + 6) * torch.tensor([0.8, 0.1, 0.1]))


def test_parts_may_be_any_samplers_and_shared_ones_join_each_rows_own():
    parts = (
        InBatchSampler.from_counts(COUNTS),
        UniformSampler.from_counts(COUNTS, negatives=2, shared=False),
        PopularitySampler.from_counts(COUNTS, negatives=3),
    )
    sampler, generator = MixedSampler(parts), torch.Generator().manual_seed(0)
    pool = sampler.sample(batch([1, 4, 2]), generator)
    assert pool.ids.shape == pool.source.shape == pool.log_q.shape == (3, 3 + 2 + 3)
    assert pool.source[:, :3].tolist() == [[0, 1, 2]] * 3
    assert pool.ids[:, :3].tolist() == [[1, 4, 2]] * 3
    assert (pool.source[:, 3:] == -1).all()
    assert (pool.ids[:, 5:] == pool.ids[0, 5:]).all()
    by_hand = 2 * 0.1 + 2 / 3 + 3 * parts[2].frequency[2].item()
    expected = sampler.log_q(torch.tensor([2]), batch([1, 4, 2])).exp()
    assert expected.item() == pytest.approx(by_hand, rel=1e-6)
