"""What every sampler keeps to, run over the table SAMPLERS."""

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.sampling import SAMPLERS, build_sampler

COUNTS = torch.tensor([0, 40, 25, 10, 8, 6, 0, 4, 3, 2, 1, 1, 0])  # rows 6 and 12 are unseen
SEEN = (COUNTS > 0).nonzero().squeeze(1)
UNSEEN = (COUNTS == 0).nonzero().squeeze(1)
CHI_SQUARE_999 = 27.88  # 9 degrees of freedom, 999 of 1,000 below

KINDS = [
    pytest.param(name, shared, id=name if shared is None else f"{name}-{shared=}")
    for name, sampler in SAMPLERS.items()
    for shared in ((None,) if "shared" in sampler.refuses else (True, False))
]
pytestmark = pytest.mark.parametrize(("name", "shared"), KINDS)


def build(name, shared, negatives=30):
    given = None if "negatives" in SAMPLERS[name].refuses else negatives
    return build_sampler(name, COUNTS, negatives=given, shared=shared)


def batch_of(positive):
    rows = len(positive)
    empty = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(rows + 1, dtype=torch.int64))
    return Batch(torch.arange(rows), positive, torch.ones(rows), empty)


def from_the_stream(rows, generator):
    return batch_of(torch.multinomial(COUNTS.float(), rows, True, generator=generator))


def test_it_draws_as_often_as_log_q_says(name, shared):
    """Chi-square of the counts that the first row of a batch meets, over 500 batches."""
    generator = torch.Generator().manual_seed(11)
    sampler = build(name, shared)
    met = torch.zeros(len(COUNTS))
    for _ in range(500):
        batch = from_the_stream(30, generator)
        pool = sampler.sample(batch, generator)
        ids, source = (pool.ids[0], pool.source[0]) if pool.ids.dim() == 2 else pool[0::2]
        met += torch.bincount(ids[source != 0], minlength=len(COUNTS))
    assert (met[UNSEEN] == 0).all()
    expected = 500 * sampler.log_q(SEEN, batch).exp()
    assert met.sum().item() == pytest.approx(expected.sum().item(), rel=1e-5)
    assert ((met[SEEN] - expected).square() / expected).sum() < CHI_SQUARE_999


def test_a_pool_is_well_formed(name, shared):
    generator = torch.Generator().manual_seed(5)
    batch = from_the_stream(7, generator)
    sampler = build(name, shared)
    pool = sampler.sample(batch, generator)
    assert pool.ids.dtype == torch.int64
    assert pool.ids.shape == pool.log_q.shape == pool.source.shape
    assert pool.ids.dim() == (2 if shared is False else 1)
    assert pool.ids.device == batch.positive.device
    assert not pool.distinct
    torch.testing.assert_close(pool.log_q, sampler.log_q(pool.ids, batch))
    ours = pool.source >= 0
    assert torch.equal(batch.positive[pool.source[ours]], pool.ids[ours])


def test_a_seed_repeats_the_draw_and_another_gives_another(name, shared):
    batch = from_the_stream(7, torch.Generator().manual_seed(5))
    sampler = build(name, shared)
    first, again, other = (
        sampler.sample(batch, torch.Generator().manual_seed(seed)).ids for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    if name != "in_batch":  # which draws nothing
        assert not torch.equal(first, other)


def test_a_batch_of_one_row_still_has_a_finite_log_q(name, shared):
    batch = batch_of(torch.tensor([3]))
    pool = build(name, shared).sample(batch, torch.Generator().manual_seed(0))
    assert pool.log_q.isfinite().all()


def test_an_item_it_cannot_count_is_refused(name, shared):
    with pytest.raises(ModelError, match=r"item rows \[6, 12\] have no training count"):
        build(name, shared).log_q(torch.tensor([1, 6, 12]), batch_of(torch.tensor([1, 2])))


def test_its_draws_do_not_depend_on_the_scale_of_the_counts(name, shared):
    batch = batch_of(torch.tensor([1, 2, 3]))
    options = {"shared": shared}
    small = build_sampler(name, COUNTS, **options).log_q(SEEN, batch)
    large = build_sampler(name, COUNTS * 1000, **options).log_q(SEEN, batch)
    torch.testing.assert_close(small, large)
