"""What every sampler keeps to, run over the table SAMPLERS."""

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.losses import SoftmaxLoss
from shortlist.sampling import SAMPLERS, build_sampler
from shortlist.training.objective import Objective

COUNTS = torch.tensor([0, 40, 25, 10, 8, 6, 0, 4, 3, 2, 1, 1, 0])  # rows 6 and 12 are unseen
SEEN = (COUNTS > 0).nonzero().squeeze(1)
UNSEEN = (COUNTS == 0).nonzero().squeeze(1)
CHI_SQUARE_999 = 27.88  # 9 degrees of freedom, 999 of 1,000 below

DRAWS_NOTHING = {"in_batch", "in_batch_streaming", "memory", "catalogue"}
OPEN_VOCABULARY = {"in_batch_streaming"}  # it answers for any item, with an estimate
OFF = 0.3  # how far such an estimate may be off for an item with a few hundred events

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
    """Chi-square of the counts that the first row of a batch meets, over 500 pools.

    Each pool is the second one of a sampler of its own: a memory holds something by then, and
    what it holds is not counted twice. An estimate goes on, and is close where there are events.
    """
    generator = torch.Generator().manual_seed(11)
    met = torch.zeros(len(COUNTS))
    sampler = build(name, shared)
    for _ in range(500):
        if name not in OPEN_VOCABULARY:
            sampler = build(name, shared)
            sampler.sample(from_the_stream(30, generator), generator)
        batch = from_the_stream(30, generator)
        pool = sampler.sample(batch, generator)
        ids, source = (pool.ids[0], pool.source[0]) if pool.ids.dim() == 2 else pool[0::2]
        met += torch.bincount(ids[source != 0], minlength=len(COUNTS))
    assert (met[UNSEEN] == 0).all()
    expected = 500 * sampler.log_q(SEEN, batch).exp()
    if name in OPEN_VOCABULARY:
        torch.testing.assert_close(met[SEEN], expected, rtol=OFF, atol=0)
        return
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
    for ids in pool.ids.view(-1, pool.ids.shape[-1]):
        assert pool.distinct == (len(ids.unique()) == len(ids))
    torch.testing.assert_close(pool.log_q, sampler.log_q(pool.ids, batch))
    ours = pool.source >= 0
    assert torch.equal(batch.positive[pool.source[ours]], pool.ids[ours])


def test_a_seed_repeats_the_draw_and_another_gives_another(name, shared):
    batch = from_the_stream(7, torch.Generator().manual_seed(5))
    first, again, other = (
        build(name, shared).sample(batch, torch.Generator().manual_seed(seed)).ids
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in DRAWS_NOTHING)


def test_a_batch_of_one_row_still_has_a_finite_log_q(name, shared):
    batch = batch_of(torch.tensor([3]))
    pool = build(name, shared).sample(batch, torch.Generator().manual_seed(0))
    assert pool.log_q.isfinite().all()


def test_an_item_it_cannot_count_is_refused(name, shared):
    sampler, batch = build(name, shared), batch_of(torch.tensor([1, 2]))
    if name in OPEN_VOCABULARY:
        assert sampler.log_q(torch.tensor([1, 6, 12, 9999]), batch).isfinite().all()
        return
    with pytest.raises(ModelError, match=r"item rows \[6, 12\] have no training count"):
        sampler.log_q(torch.tensor([1, 6, 12]), batch)


def test_its_draws_do_not_depend_on_the_scale_of_the_counts(name, shared):
    batch = batch_of(torch.tensor([1, 2, 3]))
    options = {"shared": shared}
    small = build_sampler(name, COUNTS, **options).log_q(SEEN, batch)
    large = build_sampler(name, COUNTS * 1000, **options).log_q(SEEN, batch)
    torch.testing.assert_close(small, large)


@pytest.mark.parametrize("mask_hits", [None, True, False])
@pytest.mark.parametrize("correct", [True, False])
def test_masked_known_positives_are_inert_and_no_others_are(name, shared, correct, mask_hits):
    """A slot moves its item's vector just where it is not masked, row by row."""
    generator = torch.Generator().manual_seed(3)
    batch = batch_of(torch.tensor([1, 2, 3, 1, 4, 5]))
    known = Ragged(torch.tensor([1, 8, 7, 2, 3, 2, 8, 1, 5]), torch.tensor([0, 3, 4, 6, 7, 8, 9]))
    sampler = build(name, shared)
    pool = sampler.sample(batch, generator)
    objective = Objective(
        SoftmaxLoss(), "dot", correct_sampling=correct, mask_hits=mask_hits, mask_known=True
    )
    queries = torch.randn(6, 4, generator=generator)
    table = torch.randn(len(COUNTS), 4, generator=generator)
    vectors = table[pool.ids].requires_grad_()
    losses = objective(
        queries,
        table[batch.positive],
        vectors,
        positive_ids=batch.positive,
        positive_log_q=sampler.log_q(batch.positive, batch),
        negatives=pool,
        known=known,
    )
    drop_hits = (pool.distinct or not correct) if mask_hits is None else mask_hits
    for row, cost in enumerate(losses):
        liked = known.values[known.offsets[row] : known.offsets[row + 1]]
        (slope,) = torch.autograd.grad(cost, vectors, retain_graph=True)
        ids, source = pool.ids, pool.source
        if ids.dim() == 2:
            assert (slope[torch.arange(6) != row] == 0).all()
            slope, ids, source = slope[row], ids[row], source[row]
        hit = ids == batch.positive[row]
        masked = (torch.isin(ids, liked) & ~hit) | (source == row) | (hit & drop_hits)
        assert torch.equal((slope == 0).all(dim=1), masked)


def test_it_says_what_its_correction_is_worth_and_why(name, shared):
    label, reason = SAMPLERS[name].exactness
    assert label in {"exact", "consistent", "not corrected"}
    assert len(reason) > 20
