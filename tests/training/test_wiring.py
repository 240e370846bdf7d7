"""Each accepted key of [training] reaches the code that reads it."""

import pytest
import torch

from shortlist.config import Training
from shortlist.errors import ModelError
from shortlist.losses import (
    CosineContrastiveLoss,
    GeneralizedBinaryCrossEntropyLoss,
    HingeLoss,
    TripletLogisticLoss,
)
from shortlist.training.presets import choose, objective_of, sampler_of

COUNTS = torch.tensor([0, 8, 1, 1])


@pytest.mark.parametrize(
    ("keys", "loss"),
    [
        ({"loss": "hinge", "margin": 0.7}, HingeLoss(0.7)),
        ({"loss": "triplet_logistic", "scale": 3.0}, TripletLogisticLoss(3.0)),
        ({"loss": "gbce", "calibration": 0.3}, GeneralizedBinaryCrossEntropyLoss(0.3)),
        ({"loss": "gbce", "calibration": 0.0}, GeneralizedBinaryCrossEntropyLoss(0.0)),
        (
            {"loss": "cosine_contrastive", "margin": 0.0, "negative_weight": 7.0},
            CosineContrastiveLoss(0.0, 7.0),
        ),
    ],
)
def test_a_hyperparameter_of_the_loss_reaches_it(keys, loss):
    assert objective_of(Training(**keys)).loss == loss


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("similarity", "dot"),
        ("temperature", 0.37),
        ("correct_sampling", False),
        ("mask_hits", True),
        ("mask_hits", False),
        ("mask_known", True),
    ],
)
def test_a_key_of_the_objective_reaches_it(key, value):
    assert getattr(objective_of(Training(**{key: value})), key) == value


def test_a_learned_temperature_is_the_only_parameter_and_begins_at_the_given_one():
    learned = objective_of(Training(learn_temperature=True, temperature=0.2))
    assert float(learned.temperature) == pytest.approx(0.2)
    assert [name for name, _ in learned.named_parameters()] == ["log_scale"]
    fixed = objective_of(Training(learn_temperature=False, temperature=0.2))
    assert list(fixed.named_parameters()) == []


def test_keys_of_the_sampler_reach_it():
    keys = {"sampler": "popularity", "alpha": 2.0, "negatives": 5, "shared": False}
    sampler = sampler_of(Training(**keys), COUNTS)
    torch.testing.assert_close(sampler.frequency, torch.tensor([0, 64, 1, 1]).double() / 66)
    assert (sampler.negatives, sampler.shared) == (5, False)
    shared = sampler_of(Training(**(keys | {"shared": True})), COUNTS)
    assert shared.shared is True


@pytest.mark.parametrize("sampler", ["mixture", "mixed"])
def test_a_mixture_and_its_alpha_reach_the_sampler(sampler):
    keys = {"sampler": sampler, "mixture": {"uniform": 1.0, "popularity": 3.0}, "alpha": 2.0}
    built = sampler_of(Training(**keys, negatives=40), COUNTS)
    drawn = built.draws if sampler == "mixture" else built.parts[1].draws
    law = 0.25 * torch.tensor([0, 1, 1, 1]) / 3 + 0.75 * torch.tensor([0, 64, 1, 1]) / 66
    torch.testing.assert_close(drawn.frequency, law.double())
    assert drawn.negatives == 40


@pytest.mark.parametrize(
    ("keys", "negatives", "shared"),
    [
        ({"mode": "pointwise"}, 4, False),
        ({"mode": "pointwise", "loss": "squared_cosine"}, 3, False),  # 1:3, what it is meant for
        ({"mode": "pointwise", "loss": "squared_cosine", "negatives": 2}, 2, False),
        ({"mode": "pointwise", "sampler": "uniform"}, 4, False),
        ({"mode": "pairwise", "shared": True}, 4, True),
        ({"mode": "pointwise", "sampler": "popularity"}, None, None),
        ({"mode": "listwise", "sampler": "uniform", "shared": False}, None, False),
    ],
)
def test_a_mode_fills_what_is_open_and_only_that(keys, negatives, shared):
    choice = choose(Training(**keys))
    assert (choice.negatives, choice.shared) == (negatives, shared)


@pytest.mark.parametrize("sampler", ["in_batch", "in_batch_streaming"])
def test_a_batch_of_one_has_no_in_batch_negatives(sampler):
    with pytest.raises(ModelError, match="batch_size of at least 2"):
        sampler_of(Training(sampler=sampler, batch_size=1), COUNTS)
