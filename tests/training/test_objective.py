"""The order of similarity, τ, correction, masks and loss; and what is refused."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.losses import (
    LOSSES,
    BinaryCrossEntropyLoss,
    BPRLoss,
    SoftmaxLoss,
    TripletLogisticLoss,
)
from shortlist.sampling import Negatives
from shortlist.similarity import SIMILARITIES, score
from shortlist.training.objective import LEARNED_TEMPERATURES, Objective, build_objective


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def no_correction(rows):
    return torch.zeros(rows, dtype=torch.float64)


def in_batch(ids, log_q=None):
    log_q = no_correction(len(ids)) if log_q is None else log_q
    return Negatives(ids, log_q, torch.arange(len(ids)), distinct=False)


def numbers(objective, positive, negative, *, pool, ids, log_q=None, known=None):
    """The objective on plain numbers: with the query 1, an item's number is its dot product."""
    return objective(
        torch.ones(len(positive), 1, dtype=torch.float64),
        torch.tensor(positive, dtype=torch.float64).unsqueeze(1),
        torch.tensor(negative, dtype=torch.float64).unsqueeze(-1),
        positive_ids=torch.tensor(ids),
        positive_log_q=log_q,
        negatives=pool,
        known=known,
    )


def test_a_logit_is_score_over_temperature_less_log_q():
    q = torch.tensor([[0.5, 0.01]], dtype=torch.float64)
    pool = Negatives.drawn(torch.tensor([[2, 3]]), q.log())
    objective = Objective(SoftmaxLoss(), "dot", temperature=0.1)
    positive_log_q = torch.tensor([0.2], dtype=torch.float64).log()
    found = numbers(objective, [0.4], [[0.3, 0.1]], pool=pool, ids=[1], log_q=positive_log_q)
    p, a, b = 4 - math.log(0.2), 3 - math.log(0.5), 1 - math.log(0.01)
    by_hand = math.log(math.exp(p) + math.exp(a) + math.exp(b)) - p
    assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_a_positive_that_is_not_corrected_counts_once_and_its_hits_not_at_all():
    q = torch.tensor([[0.5, 0.01, 0.2]], dtype=torch.float64)
    pool = Negatives.drawn(torch.tensor([[2, 3, 1]]), q.log())
    objective = Objective(SoftmaxLoss(), "dot", temperature=0.1, correct_positives=False)
    positive_log_q = torch.tensor([0.2], dtype=torch.float64).log()
    found = numbers(objective, [0.4], [[0.3, 0.1, 0.4]], pool=pool, ids=[1], log_q=positive_log_q)
    by_hand = math.log(math.exp(4) + math.exp(3) / 0.5 + math.exp(1) / 0.01) - 4
    assert found.item() == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(ModelError, match="changes the sampling correction, which is off"):
        Objective(SoftmaxLoss(), correct_sampling=False, correct_positives=False)


def test_doubling_temperature_and_scores_changes_nothing():
    pool = Negatives.drawn(torch.tensor([[2, 3]]), no_correction(2).view(1, 2) - 1)
    same = {"pool": pool, "ids": [1], "log_q": no_correction(1)}
    cool = numbers(Objective(SoftmaxLoss(), "dot", temperature=0.5), [0.4], [[0.3, 0.1]], **same)
    hot = numbers(Objective(SoftmaxLoss(), "dot", temperature=1.0), [0.8], [[0.6, 0.2]], **same)
    torch.testing.assert_close(cool, hot)


@pytest.mark.parametrize(
    ("correct", "distinct", "mask_hits", "hits_count"),
    [
        (True, False, None, True),  # independent draws, corrected: exact with their hits
        (True, True, None, False),
        (False, False, None, False),
        (False, True, None, False),
        (True, False, True, False),
        (True, True, False, True),
        (False, False, False, True),
    ],
)
def test_hits_count_where_that_is_right_or_as_told(correct, distinct, mask_hits, hits_count):
    pool = Negatives(torch.tensor([1, 2]), no_correction(2), torch.tensor([-1, -1]), distinct)
    objective = Objective(SoftmaxLoss(), "dot", correct_sampling=correct, mask_hits=mask_hits)
    found = numbers(objective, [0.0], [0.0, 0.0], pool=pool, ids=[1], log_q=no_correction(1))
    assert found.item() == pytest.approx(math.log(3 if hits_count else 2))


@pytest.mark.parametrize("mask_hits", [None, False, True])
def test_the_rows_own_slot_never_counts(mask_hits):
    objective = Objective(SoftmaxLoss(), "dot", mask_hits=mask_hits)
    pool = in_batch(torch.tensor([1, 2, 3]))
    found = numbers(
        objective, [0.0] * 3, [0.0] * 3, pool=pool, ids=[1, 2, 3], log_q=no_correction(3)
    )
    torch.testing.assert_close(found, torch.full((3,), math.log(3), dtype=torch.float64))


@pytest.mark.parametrize(("mask_hits", "cost"), [(True, 0.0), (False, math.log(4))])
def test_a_batch_of_one_item_only_is_finite(mask_hits, cost):
    vectors = draw(1, 3).expand(4, 3).clone().requires_grad_()
    objective = Objective(SoftmaxLoss(), correct_sampling=False, mask_hits=mask_hits)
    ids = torch.tensor([5, 5, 5, 5])
    found = objective(draw(4, 3), vectors, vectors, positive_ids=ids, negatives=in_batch(ids))
    torch.testing.assert_close(found, torch.full((4,), cost, dtype=torch.float64))
    found.sum().backward()
    torch.testing.assert_close(vectors.grad.sum(0), torch.zeros(3, dtype=torch.float64))
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("own", [False, True], ids=["shared pool", "own pools"])
def test_known_items_of_the_user_are_masked_when_asked_and_their_hits_left_to_the_rule(own):
    known = Ragged(torch.tensor([1, 2, 3, 3]), torch.tensor([0, 3, 4]))  # users like 1, 2, 3 and 3
    ids = torch.tensor([1, 2, 4, 5])
    ids = ids.expand(2, 4) if own else ids
    pool = Negatives.drawn(ids, torch.zeros(ids.shape))
    args = ([0.0, 0.0], [[0.0] * 4] * 2 if own else [0.0] * 4)
    given = {"pool": pool, "ids": [1, 3], "log_q": no_correction(2), "known": known}
    masked = numbers(Objective(SoftmaxLoss(), "dot", mask_known=True), *args, **given)
    both = numbers(Objective(SoftmaxLoss(), "dot", mask_known=True, mask_hits=True), *args, **given)
    plain = numbers(Objective(SoftmaxLoss(), "dot"), *args, **given)
    torch.testing.assert_close(masked.exp(), torch.tensor([4.0, 5.0]).double())  # 2 masked in row 0
    torch.testing.assert_close(both.exp(), torch.tensor([3.0, 5.0]).double())  # 1, the hit, too
    torch.testing.assert_close(plain.exp(), torch.tensor([5.0, 5.0]).double())


def test_what_the_objective_needs_and_does_not_get_is_named():
    pool = Negatives.drawn(torch.tensor([2]), no_correction(1))
    with pytest.raises(ModelError, match="positive_log_q"):
        numbers(Objective(SoftmaxLoss(), "dot"), [0.0], [0.0], pool=pool, ids=[1])
    masking = Objective(SoftmaxLoss(), "dot", correct_sampling=False, mask_known=True)
    with pytest.raises(ModelError, match="known positives"):
        numbers(masking, [0.0], [0.0], pool=pool, ids=[1])
    calibrated = build_objective("gbce", similarity="dot")
    with pytest.raises(ModelError, match="gbce needs the sampler's log_q"):
        numbers(calibrated, [0.0], [0.0], pool=pool, ids=[1])


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_an_in_batch_pool_is_the_explicit_pool_of_the_other_rows(loss, similarity):
    rows, built = 5, LOSSES[loss]()
    if built.needs_raw not in (None, similarity):
        with pytest.raises(ModelError, match="defined on the raw"):
            Objective(built, similarity)
        return
    temperature = 0.5 if built.needs_raw is None else 1.0
    ids = torch.tensor([3, 1, 3, 2, 5])
    q = torch.tensor([0.1, 0.3, 0.1, 0.05, 0.2], dtype=torch.float64).log()
    others = torch.tensor([[j for j in range(rows) if j != i] for i in range(rows)])
    results = []
    for explicit in (False, True):
        queries, items = draw(rows, 3).requires_grad_(), draw(rows, 3, seed=1).requires_grad_()
        if explicit:
            pool, negatives = items[others], Negatives.drawn(ids[others], q[others])
        else:
            pool, negatives = items, in_batch(ids, q)
        objective = Objective(built, similarity, temperature=temperature)
        found = objective(
            queries, items, pool, positive_ids=ids, positive_log_q=q, negatives=negatives
        )
        gradients = torch.autograd.grad(found.sum(), [queries, items])
        results.append([found.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_softmax_over_the_full_catalogue_is_cross_entropy():
    queries, items, target = draw(4, 3), draw(9, 3, seed=1), torch.tensor([0, 3, 3, 8])
    pool = Negatives(torch.arange(9), no_correction(9), torch.full((9,), -1), distinct=True)
    objective = Objective(SoftmaxLoss(), "cosine", temperature=0.2)
    found = objective(
        queries,
        items[target],
        items,
        positive_ids=target,
        positive_log_q=no_correction(4),
        negatives=pool,
    )
    reference = cross_entropy(score(queries, items, "cosine") / 0.2, target, reduction="none")
    torch.testing.assert_close(found, reference)


def test_a_triplet_scale_is_bpr_at_its_inverse_temperature():
    pool = Negatives.drawn(torch.tensor([[2, 3]]), no_correction(2).view(1, 2))
    given = {"pool": pool, "ids": [1], "log_q": no_correction(1)}
    scaled = Objective(TripletLogisticLoss(scale=5.0), "dot")
    cooled = Objective(BPRLoss(), "dot", temperature=0.2, correct_sampling=False)
    found, wanted = (
        numbers(objective, [0.4], [[0.3, 0.7]], **given) for objective in (scaled, cooled)
    )
    torch.testing.assert_close(found, wanted)


def test_the_best_interest_of_a_query_meets_the_item():
    one, other, items = draw(4, 3), draw(4, 3, seed=1), draw(4, 3, seed=2)
    ids = torch.arange(1, 5)
    objective = Objective(SoftmaxLoss(), correct_sampling=False)
    arguments = {"positive_ids": ids, "negatives": in_batch(ids)}
    both = torch.stack([one, other], dim=1)  # [B, K, D]
    found = objective(both, items, items, **arguments)
    logits = torch.maximum(score(one, items, "cosine"), score(other, items, "cosine"))
    torch.testing.assert_close(found, cross_entropy(logits, torch.arange(4), reduction="none"))


def train(objective, steps, rate=0.1, seed=0):
    """Plain descent of the objective's own parameters, on a fixed batch of three rows."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=rate)
    ids = torch.tensor([1, 2, 3])
    items = draw(3, 4, seed=seed)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        found = objective(
            items + 0.1 * draw(3, 4, seed=1), items, items, positive_ids=ids,
            positive_log_q=no_correction(3), negatives=in_batch(ids),
        ).mean()  # fmt: skip
        found.backward()
        optimizer.step()
        losses.append(found.item())
    return losses


def test_a_learned_temperature_falls_where_that_lowers_the_loss_and_is_held_in_its_bounds():
    objective = Objective(SoftmaxLoss(), temperature=0.5, learn_temperature=True)
    assert objective.temperature == pytest.approx(0.5)
    losses = train(objective, 20)
    assert losses[-1] < losses[0]
    assert objective.temperature < 0.5
    coldest, _ = LEARNED_TEMPERATURES
    with torch.no_grad():
        objective.log_scale.fill_(50.0)
    train(objective, 1, rate=0.0)
    assert objective.temperature == pytest.approx(coldest)
    assert objective.log_scale.grad is not None


def test_a_fixed_temperature_has_no_parameter():
    assert list(Objective(SoftmaxLoss(), temperature=0.5).parameters()) == []


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(ModelError, match=f"temperature must be > 0 and finite, got {temperature}"):
        Objective(SoftmaxLoss(), temperature=temperature)
    with pytest.raises(ModelError, match="temperature must be > 0"):
        build_objective("softmax", temperature=temperature)


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_in_batch_bce_with_thousands_of_negatives_starts_sanely(similarity, correct):
    rows, width = 2048, 16
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(2, rows, width, generator=generator) / math.sqrt(width)
    ids = torch.arange(1, rows + 1)
    log_q = torch.full((rows,), math.log((rows - 1) / 100_000)) if correct else torch.zeros(rows)
    objective = build_objective("bce", similarity=similarity, correct_sampling=correct)
    arguments = {
        "positive_ids": ids,
        "positive_log_q": log_q,
        "negatives": Negatives(ids, log_q, torch.arange(rows), distinct=False),
    }
    without_bias = objective.eval()(queries, items, items, **arguments).mean().item()
    assert objective.bias.item() == 0  # only training moves it
    start = objective.train()(queries, items, items, **arguments).mean().item()
    # About log(2048) for the positive, and about 1 for the whole pool.
    assert start < 15
    assert start < without_bias / 10
    started = objective.bias.item()
    objective(queries, -items, -items, **arguments)
    assert objective.bias.item() == started  # it starts once; from there on it is learned


def test_the_bias_is_learned_and_its_start_is_remembered():
    objective = Objective(BinaryCrossEntropyLoss(), temperature=0.5)
    losses = train(objective, 20)
    assert losses[-1] < losses[0]
    resumed = Objective(BinaryCrossEntropyLoss(), temperature=0.5)
    resumed.load_state_dict(objective.state_dict())
    train(resumed, 1, rate=0.0, seed=9)
    assert resumed.bias.item() == objective.bias.item()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_only_a_loss_that_a_shift_would_change_has_a_bias(loss):
    built = LOSSES[loss]()
    has_none = built.shift_invariant or built.needs_raw is not None
    assert (Objective(built, built.needs_raw or "cosine").bias is None) == has_none


def test_names_and_options_become_an_objective():
    built = build_objective(
        "triplet_logistic", similarity="dot", temperature=2.0, scale=1.0, correct_sampling=False,
        mask_hits=False, mask_known=True, sampler="uniform",
    )  # fmt: skip
    assert built.loss == TripletLogisticLoss(1.0)
    assert (built.similarity, built.temperature) == ("dot", 2.0)
    assert (built.correct_sampling, built.mask_hits, built.mask_known) == (False, False, True)


@pytest.mark.parametrize(
    ("loss", "similarity", "temperature"),
    [
        ("softmax", "cosine", 0.1),
        ("softmax", "dot", 1.0),
        ("bce", "euclidean", 1.0),
        ("hinge", "cosine", 1.0),
        ("triplet_logistic", "cosine", 1.0),
        ("cosine_contrastive", "cosine", 1.0),
        ("squared_cosine", "cosine", 1.0),
        ("gbce", "cosine", 0.1),
    ],
)
def test_the_default_temperature_suits_the_similarity_and_the_loss(loss, similarity, temperature):
    assert build_objective(loss, similarity=similarity).temperature == temperature


@pytest.mark.parametrize(
    ("loss", "options", "reason"),
    [
        ("softmx", {}, "Did you mean 'softmax'"),
        ("softmax", {"similarity": "cos"}, "unknown similarity 'cos'"),
        ("softmax", {"sampler": "inbatch"}, "Did you mean 'in_batch'"),
        ("softmax", {"margin": 0.1}, "does not use margin"),
        ("bpr", {"scale": 2.0}, "does not use scale"),
        ("hinge", {"margin": -0.1}, "margin must be > 0"),
        ("hinge", {"correct_sampling": True}, "does not estimate a probability"),
        ("hinge", {"learn_temperature": True}, "change those units"),
        ("triplet_logistic", {"scale": 3.0, "correct_sampling": True}, "only at scale = 1"),
        ("nce", {"correct_sampling": False}, "loss = 'neg'"),
        ("neg", {"correct_sampling": True}, "loss = 'nce'"),
        ("softmax", {"learn_temperature": True, "temperature": 1e-4}, "must start between 0.01"),
        ("squared_cosine", {"temperature": 0.2}, "out of the range from -1 to 1"),
        ("squared_cosine", {"similarity": "dot"}, "use similarity = 'cosine'"),
        ("squared_cosine", {"correct_sampling": True}, "beyond what a cosine"),
        ("squared_cosine", {"learn_temperature": True}, "change those units"),
        ("squared_cosine", {"margin": 0.5}, "does not use margin"),
        ("cosine_contrastive", {"similarity": "euclidean"}, "defined on the raw cosine"),
        ("cosine_contrastive", {"temperature": 0.1}, "out of the range from -1 to 1"),
        ("cosine_contrastive", {"correct_sampling": True}, "does not estimate a probability"),
        ("cosine_contrastive", {"margin": 1.0}, "below 1"),
        ("cosine_contrastive", {"negative_weight": 0.0}, "negative_weight must be > 0"),
        ("gbce", {"calibration": 1.5}, "calibration must be from 0 to 1"),
        ("gbce", {"correct_sampling": True}, "a second correction is wrong"),
        ("bce", {"calibration": 0.5}, "does not use calibration.*loss = 'gbce'"),
        ("hinge", {"negative_weight": 2.0}, "does not use negative_weight.*'cosine_contrastive'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(loss, options, reason):
    with pytest.raises(ModelError, match=reason):
        build_objective(loss, **options)
