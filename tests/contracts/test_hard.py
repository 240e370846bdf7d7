"""What every source of hard negatives keeps to, run over the table HARD."""

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.losses import SoftmaxLoss
from shortlist.sampling import SAMPLERS, build_sampler, check_sampler
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard import HARD, build_hard, check_hard
from shortlist.sampling.hard.base import HardWorld
from shortlist.training.hard import HardTerm
from shortlist.training.objective import Objective

ITEMS = 40
LISTS = Ragged(torch.arange(1, 31), torch.tensor([0, 0, 10, 20, 30]))  # users 1, 2, 3
KNOWN = Ragged(torch.tensor([1, 2, 11, 30]), torch.tensor([0, 0, 2, 3, 4]))
OPTIONS = {"mined": {"ranks": (2, 12), "ceiling": 1.0}}
WIDE = {"mined": {"ranks": (1, 39), "ceiling": 1.0}}

pytestmark = pytest.mark.parametrize("name", HARD)


def table(items=ITEMS):
    return torch.randn(items + 1, 4, generator=torch.Generator().manual_seed(8))


def term_of(name, known=True, options=OPTIONS, share=0.2):
    logged = {"exposed": LISTS, "dropped": LISTS}
    world = HardWorld(torch.arange(1, ITEMS + 1), "dot", logged, KNOWN if known else None)
    source = build_hard(name, world, **options.get(name, {}))
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=False, mask_hits=True)
    return HardTerm(source, objective, known=not known, share=share)


def batch_of(users, positive):
    lists = [KNOWN.values[KNOWN.offsets[u] : KNOWN.offsets[u + 1]] for u in users]
    sizes = torch.tensor([0] + [len(part) for part in lists])
    known = Ragged(torch.cat(lists), sizes.cumsum(0))
    empty = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(len(users) + 1).long())
    return Batch(users, positive, torch.ones(len(users)), empty, known)


def negatives_of(term, batch, seed=0, shared=True):
    """The hard negatives of a batch, as the trainer gets them: ids and vectors."""
    generator = torch.Generator().manual_seed(seed)
    items = table()
    queries = items[batch.positive] + 0.1
    shape = (20,) if shared else (len(batch.users), 20)
    ids = torch.randint(1, ITEMS + 1, shape, generator=generator)
    pool = Negatives.drawn(ids, torch.zeros(shape))
    term.refresh(lambda rows: items[rows])
    drawn = term.draw(batch, queries, pool, generator)
    if drawn is not None:
        return drawn, items[drawn.ids]
    return term.choose(batch, queries, items[batch.positive], pool, items[pool.ids])


BATCH = batch_of(torch.tensor([1, 2, 3, 1]), torch.tensor([1, 11, 30, 2]))


@pytest.mark.parametrize("shared", [True, False])
def test_each_row_gets_its_share_of_distinct_items_with_their_vectors(name, shared):
    hard, vectors = negatives_of(term_of(name), BATCH, shared=shared)
    assert hard.ids.shape == hard.source.shape == hard.log_q.shape == (4, 4)  # 0.2 of 20
    assert hard.ids.dtype == torch.int64
    assert hard.distinct
    assert not hard.log_q.any()
    for ids, filled in zip(hard.ids, hard.source < 0, strict=True):
        assert filled.any()
        assert len(ids[filled].unique()) == len(ids[filled])
    filled = hard.source < 0
    torch.testing.assert_close(vectors[filled], table()[hard.ids[filled]])


def test_no_draw_is_the_positive_or_a_known_positive(name):
    term = term_of(name)
    known = {1: {1, 2}, 2: {11}, 3: {30}}
    for seed in range(50):
        hard, _ = negatives_of(term, BATCH, seed)
        for user, ids, filled in zip(BATCH.users, hard.ids, hard.source < 0, strict=True):
            assert not known[int(user)] & set(ids[filled].tolist())


def test_known_positives_but_the_rows_own_come_where_that_is_asked_for(name):
    term = term_of(name, known=False, options=WIDE, share=1.0)
    met = torch.zeros(4, ITEMS + 1)
    for seed in range(200):
        hard, _ = negatives_of(term, BATCH, seed)
        filled = hard.source < 0
        row = torch.arange(4).unsqueeze(1).expand_as(hard.ids)
        met[row[filled], hard.ids[filled]] += 1
    assert not met[torch.arange(4), BATCH.positive].any()
    assert met[0, 2] > 0 or met[3, 1] > 0  # user 1 knows 1 and 2


def test_a_seed_repeats_the_draw(name):
    one, two = (negatives_of(term_of(name), BATCH, seed=4)[0] for _ in range(2))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.source, two.source)


def test_a_slot_without_a_hard_negative_costs_and_moves_nothing(name):
    term = term_of(name)
    hard, vectors = negatives_of(term, BATCH)
    nothing = hard._replace(source=torch.arange(4).unsqueeze(1).expand_as(hard.source))
    vectors = vectors.requires_grad_()
    cost = term.loss(BATCH, vectors[:, 0], vectors[:, 1], nothing, vectors, torch.zeros(4))
    cost.sum().backward()
    assert not cost.any()
    assert not vectors.grad.any()


def test_it_is_refused_as_the_only_sampler_with_the_reason(name):
    assert name not in SAMPLERS
    for refuse in (check_sampler, lambda n: build_sampler(n, torch.tensor([0, 1]))):
        with pytest.raises(ModelError) as refused:
            refuse(name)
        assert HARD[name].alone in str(refused.value)
        assert f"hard = '{name}'" in str(refused.value)


def test_an_option_it_refuses_is_refused_and_any_other_acts(name):
    values = {"ranks": (3, 5), "margin": 0.1, "ceiling": 0.5}
    world = HardWorld(torch.arange(1, 601), "dot", {"exposed": LISTS, "dropped": LISTS}, KNOWN)
    for option, value in values.items():
        if option in HARD[name].refuses:
            with pytest.raises(ModelError, match=f"does not use hard_{option}"):
                build_hard(name, world, **{option: value})
        else:
            assert getattr(build_hard(name, world, **{option: value}), option) == value


def test_a_name_that_is_almost_it_is_refused_with_a_hint(name):
    with pytest.raises(ModelError, match=f"Did you mean '{name}'"):
        check_hard(name + "x")
