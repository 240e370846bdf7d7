import torch

from shortlist.data.batches import Batch
from shortlist.sampling import build_sampler


def test_the_pool_is_every_trained_item_once_and_certain():
    sampler = build_sampler("catalogue", torch.tensor([0, 8, 0, 1, 1]))
    batch = Batch(*[torch.tensor([1, 3])] * 3, None)
    pool = sampler.sample(batch, None)
    assert pool.ids.tolist() == [1, 3, 4]
    assert pool.log_q.tolist() == [0, 0, 0]
    assert pool.source.tolist() == [-1, -1, -1]
    assert pool.distinct
