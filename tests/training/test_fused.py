"""The softmax in blocks: the loss and every gradient of the one that holds all scores."""

import pytest
import torch

from shortlist.data.ragged import Ragged
from shortlist.losses import SoftmaxLoss
from shortlist.sampling.base import Negatives, matches
from shortlist.training import fused
from shortlist.training.objective import Objective, Rows

ROWS, POOL, WIDTH = 30, 41, 6


def drawn(*shape, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64, requires_grad=True)


def case(pool, *, groups=False, interests=None):
    """Vectors, and a pool: drawn at random, that of a batch, or the catalogue."""
    random = torch.Generator().manual_seed(7)
    positive_ids = torch.randint(1, 20, (ROWS,), generator=random)
    if pool == "in_batch":
        ids, source = positive_ids, torch.arange(ROWS)
    elif pool == "catalogue":
        ids, source = torch.arange(1, POOL + 1), torch.full((POOL,), -1)
    else:
        ids = torch.randint(1, 20, (POOL,), generator=random)
        source = torch.full((POOL,), -1)
    log_q = torch.rand(len(ids), generator=random, dtype=torch.float64)
    several = () if interests is None else (interests,)
    vectors = [drawn(ROWS, *several, WIDTH, seed=1), drawn(ROWS, WIDTH, seed=2)]
    vectors.append(drawn(len(ids), WIDTH, seed=3))
    return vectors, {
        "positive_ids": positive_ids,
        "negatives": Negatives(ids, log_q, source, distinct=pool == "catalogue"),
        "positive_log_q": torch.rand(ROWS, generator=random, dtype=torch.float64),
        "known": Ragged(
            torch.randint(1, 20, (3 * ROWS,), generator=random), torch.arange(0, 3 * ROWS + 1, 3)
        ),
        "groups": torch.arange(ROWS) // 4 if groups else None,
    }


@pytest.mark.parametrize("interests", [None, 1, 3])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("pool", ["drawn", "in_batch", "catalogue"])
@pytest.mark.parametrize("options", [{}, {"correct_sampling": False}, {"mask_known": True}])
def test_blocks_give_the_loss_and_gradients_of_the_whole(
    interests, similarity, pool, options, monkeypatch
):
    monkeypatch.setattr(fused, "LEAST_ROWS", 7)
    monkeypatch.setattr(fused, "BLOCK_SCORES", 1)
    objective = Objective(
        SoftmaxLoss(), similarity, temperature=0.3, learn_temperature=True, **options
    ).double()
    vectors, wanted = case(pool, groups=pool == "in_batch", interests=interests)
    weight = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    learned = [*vectors, objective.log_scale]
    blocked = objective.mean(*vectors, weight=weight, **wanted)
    found = torch.autograd.grad(blocked, learned)
    whole = (objective(*vectors, **wanted) * weight).sum() / weight.sum()
    torch.testing.assert_close(blocked, whole)
    for mine, theirs in zip(found, torch.autograd.grad(whole, learned), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_row_of_which_nothing_is_left_costs_and_moves_nothing():
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=False)
    vectors = [drawn(1, 4, seed=seed) for seed in range(3)]
    alone = {
        "positive_ids": torch.tensor([3]),
        "negatives": Negatives(
            torch.tensor([3]), torch.zeros(1), torch.tensor([0]), distinct=False
        ),
    }
    loss = objective.mean(*vectors, weight=torch.ones(1, dtype=torch.float64), **alone)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, vectors):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("masks", [{"mask_known": True}, {"mask_hits": True}])
def test_an_item_that_is_masked_for_every_row_gets_no_gradient_at_all(masks):
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=False, **masks)
    vectors = [drawn(2, 4, seed=1), drawn(2, 4, seed=2), drawn(3, 4, seed=3)]
    loss = objective.mean(
        *vectors,
        weight=torch.ones(2, dtype=torch.float64),
        positive_ids=torch.tensor([9, 9] if "mask_known" in masks else [5, 5]),
        negatives=Negatives.drawn(torch.tensor([4, 5, 4]), torch.zeros(3)),
        known=Ragged(torch.tensor([5, 5]), torch.tensor([0, 1, 2])),
    )
    moved = (torch.autograd.grad(loss, vectors[2])[0] != 0).any(dim=1)
    assert moved.tolist() == [True, False, True]


def test_scores_far_apart_stay_finite():
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=False)
    query = torch.full((1, 1), 200.0, requires_grad=True)
    items = torch.tensor([[-1.0], [1.0]], requires_grad=True)
    pool = Negatives.drawn(torch.tensor([4, 5]), torch.zeros(2))
    loss = objective.mean(
        query,
        -torch.ones(1, 1),
        items,
        weight=torch.ones(1),
        positive_ids=torch.tensor([3]),
        negatives=pool,
    )
    assert loss.item() == pytest.approx(400.0)
    gradients = torch.autograd.grad(loss, [query, items])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert gradients[0].item() == pytest.approx(2.0)


def test_the_scores_of_several_interests_are_never_all_held(monkeypatch):
    """No tensor of the step is larger than a block: 4 interests x 7 rows x 41 items."""
    monkeypatch.setattr(fused, "LEAST_ROWS", 7)
    monkeypatch.setattr(fused, "BLOCK_SCORES", 1)
    largest = 0
    best = fused._best

    def watched(block, items):
        nonlocal largest
        largest = max(largest, len(block) * block.shape[1] * len(items))
        return best(block, items)

    monkeypatch.setattr(fused, "_best", watched)
    vectors, wanted = case("catalogue", interests=4)
    Objective(SoftmaxLoss(), "dot").mean(*vectors, weight=torch.ones(ROWS), **wanted)
    assert largest == 4 * 7 * POOL


def test_copies_of_an_interest_share_nothing_twice():
    """MIND fills up with copies: the first gets the gradient, and the loss is that of one."""
    objective = Objective(SoftmaxLoss(), "cosine", temperature=0.3)
    vectors, wanted = case("catalogue", interests=1)
    weight = torch.ones(ROWS, dtype=torch.float64)
    one = objective.mean(*vectors, weight=weight, **wanted)
    copied = vectors[0].expand(-1, 3, -1)
    three = objective.mean(copied, *vectors[1:], weight=weight, **wanted)
    torch.testing.assert_close(one, three)
    for mine, theirs in zip(
        torch.autograd.grad(one, vectors), torch.autograd.grad(three, vectors), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("interests", [None, 3])
def test_half_the_bits_come_near(interests):
    vectors, wanted = case("catalogue", interests=interests)
    vectors = [v.detach().float().requires_grad_() for v in vectors]
    wanted = wanted | {"negatives": wanted["negatives"]._replace(log_q=torch.zeros(POOL))}
    wanted["positive_log_q"] = torch.zeros(ROWS)
    objective = Objective(SoftmaxLoss(), "cosine", temperature=0.1)
    weight = torch.ones(ROWS)
    full = objective.mean(*vectors, weight=weight, **wanted)
    half = objective.mean(*vectors, weight=weight, bfloat16=True, **wanted)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.01)
    assert half.item() != full.item()
    for a, b in zip(
        torch.autograd.grad(full, vectors), torch.autograd.grad(half, vectors), strict=True
    ):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_positives_of_ones_own_history_are_no_negatives():
    """Three rows, two of one user: each of these meets the third row's slot alone."""
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=False, mask_hits=False)
    ids = torch.tensor([4, 5, 6])
    pool = Negatives(ids, torch.zeros(3), torch.arange(3), distinct=False)
    dropped = objective._dropped(Rows(ids, pool, groups=torch.tensor([8, 8, 9])))
    assert dropped.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_matches_are_all_pairs_in_order_of_rows():
    columns = torch.tensor([7, 5, 7, -1])
    wanted = Ragged(torch.tensor([5, 7, 9, 7]), torch.tensor([0, 2, 3, 3, 4]))
    found = matches(columns, wanted)
    assert found.rows.tolist() == [0, 0, 0, 3, 3]
    assert sorted(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (3, 0),
        (3, 2),
    ]
