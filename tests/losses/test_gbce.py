import math

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import BinaryCrossEntropyLoss, GeneralizedBinaryCrossEntropyLoss


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("calibration", "rate", "beta"), [(0.75, 0.2, 0.4), (1.0, 0.2, 0.2), (0.5, 0.0, 0.5)]
)
def test_the_positive_weighs_beta_and_the_negatives_1(one_row, calibration, rate, beta):
    scores = one_row(0.7, [0.3, -1.0])._replace(rate=torch.tensor([rate], dtype=torch.float64))
    by_hand = beta * softplus(-0.7) + softplus(0.3) + softplus(-1.0)
    found = GeneralizedBinaryCrossEntropyLoss(calibration)(scores)
    assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_without_calibration_or_over_the_whole_catalogue_it_is_bce(one_row):
    scores = one_row(0.7, [0.3, -1.0])
    bce = BinaryCrossEntropyLoss()(scores)
    sampled = scores._replace(rate=torch.tensor([0.2], dtype=torch.float64))
    whole = scores._replace(rate=torch.tensor([1.0], dtype=torch.float64))
    torch.testing.assert_close(GeneralizedBinaryCrossEntropyLoss(0.0)(sampled), bce)
    torch.testing.assert_close(GeneralizedBinaryCrossEntropyLoss(0.75)(whole), bce)


def test_without_the_rate_of_its_sampler_it_is_refused(one_row):
    with pytest.raises(ModelError, match="needs the sampler's log_q"):
        GeneralizedBinaryCrossEntropyLoss()(one_row(0.7, [0.3]))


@pytest.mark.parametrize("calibration", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_calibration_that_cannot_be_is_refused(calibration):
    with pytest.raises(ModelError, match="calibration must be from 0 to 1"):
        GeneralizedBinaryCrossEntropyLoss(calibration)


def test_correction_is_refused_with_the_cure():
    with pytest.raises(ModelError, match="loss = 'bce'"):
        GeneralizedBinaryCrossEntropyLoss().correction.resolve(True)
