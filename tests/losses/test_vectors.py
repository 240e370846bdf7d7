"""All 24 reference cases, worked out to 60 digits elsewhere: values, gradients, known mistakes."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shortlist.losses import (
    BinaryCrossEntropyLoss,
    BPRLoss,
    HingeLoss,
    NegativeSamplingLoss,
    NoiseContrastiveLoss,
    Scores,
    SoftmaxLoss,
    TripletLogisticLoss,
)
from shortlist.sampling import Negatives
from shortlist.similarity import pair_score
from shortlist.training.objective import Objective

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "loss_vectors.json").read_text())
CASES = [
    pytest.param(family, case, id=f"{family}-{case['name']}")
    for family, content in VECTORS["losses"].items()
    for case in content["cases"]
]
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-15},
    torch.float32: {"rtol": 1e-4, "atol": 1e-6},
}

# What a case computes: the loss of each example [B], and the inputs its gradients belong to.
Computed = tuple[Tensor, list[Tensor]]


def leaf(numbers, dtype) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


def all_valid(negative: Tensor) -> Tensor:
    return torch.ones_like(negative, dtype=torch.bool)


def bce(case, dtype) -> Computed:
    user, item = leaf(case["user"], dtype), torch.tensor(case["item"], dtype=dtype)
    z = pair_score(user, item, "cosine") * case["scale"]
    is_positive = torch.tensor(case["y"]) == 1
    # An example is one pair: a positive without negatives, or a negative whose positive is certain.
    positive = torch.where(is_positive, z, torch.full_like(z, math.inf))
    scores = Scores(positive, z.unsqueeze(1), ~is_positive.unsqueeze(1))
    return BinaryCrossEntropyLoss()(scores), [user]


def bpr(case, dtype) -> Computed:
    pos, neg = leaf(case["pos"], dtype), leaf(case["neg"], dtype)
    return BPRLoss()(Scores(pos, neg, all_valid(neg))), [pos, neg]


def triplet(loss):
    def compute(case, dtype) -> Computed:
        user, pos, neg = (torch.tensor(case[key], dtype=dtype) for key in ("user", "pos", "neg"))
        cos_pos = pair_score(user, pos, "cosine").requires_grad_()
        cos_neg = pair_score(user, neg, "cosine").unsqueeze(1)
        return loss(case)(Scores(cos_pos, cos_neg, all_valid(cos_neg))), [cos_pos]

    return compute


def softmax(case, dtype) -> Computed:
    scores = leaf(case["scores"], dtype)
    rows, items = scores.shape
    target = torch.tensor(case["target"])
    assert torch.equal(target, torch.arange(rows))  # so the targets are the pool's own slots
    ids = torch.arange(items)
    pool = Negatives(ids, torch.zeros(items, dtype=dtype), source=ids, distinct=True)
    objective = Objective(SoftmaxLoss(), "dot", temperature=case["T"], correct_sampling=False)
    return as_vectors(
        objective, scores[target, target], scores, negatives=pool, positive_ids=target
    ), [scores]


def sampled(loss, log_q=None):
    """A loss on given positive and negative scores, through the objective."""

    def compute(case, dtype) -> Computed:
        pos, neg = leaf(case["pos"], dtype), leaf(case["neg"], dtype)
        positive_ids = torch.arange(len(pos))
        other = torch.full(neg.shape, -9)
        hit = torch.tensor(case.get("neg_mask_accidental_hits", torch.zeros(neg.shape).tolist()))
        ids = torch.where(hit.bool(), positive_ids.unsqueeze(1), other)
        correct = log_q is not None
        pool_log_q = log_q(case, "q_neg", dtype) if correct else torch.zeros_like(neg)
        objective = Objective(loss, "dot", temperature=case["T"], mask_hits=True).eval()
        assert objective.correct_sampling == correct
        rows = as_vectors(
            objective,
            pos,
            neg,
            negatives=Negatives.drawn(ids, pool_log_q),
            positive_ids=positive_ids,
            positive_log_q=log_q(case, "q_pos", dtype) if correct else None,
        )
        return rows, [pos, neg]

    return compute


def as_vectors(objective, pos, neg, *, negatives, positive_ids, positive_log_q=None) -> Tensor:
    """Scores as vectors of width 1, so that the query 1 has exactly these dot products."""
    return objective(
        torch.ones(len(pos), 1, dtype=pos.dtype),
        pos.unsqueeze(1),
        neg.unsqueeze(2),
        positive_ids=positive_ids,
        positive_log_q=positive_log_q,
        negatives=negatives,
    )


def log_q(case, key, dtype) -> Tensor:
    return torch.tensor(case[key], dtype=dtype).log()


def log_k_q(case, key, dtype) -> Tensor:
    return log_q(case, key, dtype) + math.log(case["k"])


COMPUTE = {
    "pointwise_bce_cosine": bce,
    "bpr": bpr,
    "triplet_hinge": triplet(lambda case: HingeLoss(case["margin"])),
    "triplet_logistic": triplet(lambda case: TripletLogisticLoss(case["sigma"])),
    "softmax_ce_temperature": softmax,
    "sampled_softmax_logq": sampled(SoftmaxLoss(), log_q),
    "nce_logq": sampled(NoiseContrastiveLoss(), log_k_q),
    "neg": sampled(NegativeSamplingLoss()),
}


def expected_gradients(case) -> list:
    if "grad_pos" in case:
        return [case["grad_pos"], case["grad_neg"]]
    return [case["grad"]] + ([case["grad_neg"]] if "grad_neg" in case else [])


def test_every_case_of_the_file_is_run():
    assert len(CASES) == VECTORS["meta"]["checked"]["cases"] == 24


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("family", "case"), CASES)
def test_loss_and_gradients_are_the_reference_values(family, case, dtype):
    rows, inputs = COMPUTE[family](case, dtype)
    loss = rows.mean()
    gradients = torch.autograd.grad(loss, inputs)

    standard = case.get("loss", case.get("loss_standard"))
    torch.testing.assert_close(loss, torch.tensor(standard, dtype=dtype), **TOLERANCE[dtype])
    per_example = case.get("per_example", case.get("per_example_standard"))
    if per_example is not None:
        wanted = torch.tensor(per_example, dtype=dtype)
        torch.testing.assert_close(rows, wanted, **TOLERANCE[dtype])
    for gradient, numbers in zip(gradients, expected_gradients(case), strict=True):
        wanted = torch.tensor(numbers, dtype=dtype)
        torch.testing.assert_close(gradient, wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize(("family", "case"), CASES)
def test_no_known_mistake_comes_out(family, case):
    loss = COMPUTE[family](case, torch.float64)[0].mean().item()
    assert case["wrong"]
    for mistake, value in case["wrong"].items():
        assert not math.isclose(loss, float(value), rel_tol=1e-3, abs_tol=1e-5), mistake


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", VECTORS["losses"]["nce_logq"]["cases"], ids=lambda c: c["name"])
def test_nce_without_the_count_of_negatives_is_the_other_published_form(case, dtype):
    rows, _ = sampled(NoiseContrastiveLoss(), log_q)(case, dtype)
    wanted = torch.tensor(case["per_example_seed"], dtype=dtype)
    torch.testing.assert_close(rows, wanted, **TOLERANCE[dtype])


def test_a_perfect_cosine_cannot_cost_less_than_the_floor():
    floors = VECTORS["floors"]["softmax_ce_cosine: log(1+N exp(-2/T))"]
    for setting, floor in floors.items():
        count, temperature = (part.split("=")[1] for part in setting.split(","))
        scale = 1 / float(temperature)
        negative = torch.full((1, int(count)), -scale, dtype=torch.float64)
        perfect = Scores(torch.tensor([scale], dtype=torch.float64), negative, all_valid(negative))
        assert SoftmaxLoss()(perfect).item() == pytest.approx(floor, rel=1e-9, abs=0)
    none = torch.empty(1, 0, dtype=torch.float64)
    alone = Scores(torch.ones(1, dtype=torch.float64), none, all_valid(none))
    wanted = VECTORS["floors"]["bce_sigmoid_cosine_scale1"]
    assert BinaryCrossEntropyLoss()(alone).item() == pytest.approx(wanted, rel=1e-10)
