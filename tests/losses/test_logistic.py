import math

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import (
    BinaryCrossEntropyLoss,
    NegativeSamplingLoss,
    NoiseContrastiveLoss,
    Scores,
)

P = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
Q = torch.tensor([0.6, 0.05, 0.2, 0.05, 0.1], dtype=torch.float64)


def test_it_sums_over_the_valid_negatives(one_row):
    scores = one_row(1.0, [0.0, 2.0, 50.0], valid=[True, True, False])
    by_hand = math.log1p(math.exp(-1)) + math.log(2) + math.log1p(math.exp(2))
    assert BinaryCrossEntropyLoss()(scores).item() == pytest.approx(by_hand, rel=1e-9)


def test_a_row_without_negatives_pays_for_its_positive(one_row):
    alone = one_row(1.0, [9.0], valid=[False])
    assert BinaryCrossEntropyLoss()(alone).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_it_agrees_with_torch(one_row):
    scores = one_row(0.7, [-0.2, 1.4])
    logits, labels = torch.tensor([0.7, -0.2, 1.4]), torch.tensor([1.0, 0.0, 0.0])
    reference = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.double(), labels.double(), reduction="sum"
    )
    torch.testing.assert_close(BinaryCrossEntropyLoss()(scores)[0], reference)


def test_the_two_refuse_to_be_each_other():
    with pytest.raises(ModelError, match="loss = 'nce'"):
        NegativeSamplingLoss().correction.resolve(True)
    with pytest.raises(ModelError, match="loss = 'neg'"):
        NoiseContrastiveLoss().correction.resolve(False)


@pytest.mark.parametrize(
    ("normaliser", "draws", "wanted"),
    [  # worked out elsewhere: loss_vectors.json, claims
        (1.0, 1, 0.14285714285714293),
        (1.0, 100, 0.004878048780487948),
        (1.0, 1_000_000, 4.999987501530523e-07),
        (4.2, 1, 0.311764705882353),
        (4.2, 100, 0.8942144873000945),
        (4.2, 1_000_000, 0.9599930070440558),
    ],
)
def test_the_gradient_of_nce_tends_to_softmax_only_where_scores_normalise(
    normaliser, draws, wanted
):
    """The exact expected gradient at scores away from the truth, with sum e^s = normaliser."""
    believed = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    s = (believed * normaliser).log().requires_grad_()
    logits = s - (draws * Q).log()
    none = torch.ones(5, 0, dtype=torch.bool)
    of_positives = _nce(logits, torch.empty(5, 0, dtype=torch.float64), none)
    certain = torch.full((5,), math.inf, dtype=torch.float64)
    of_a_draw = _nce(certain, logits.unsqueeze(1), torch.ones(5, 1, dtype=torch.bool))
    (P @ of_positives + draws * (Q @ of_a_draw)).backward()
    softmax_gradient = s.detach().softmax(0) - P
    assert (s.grad - softmax_gradient).abs().max().item() == pytest.approx(wanted, rel=1e-6)


def _nce(positive, negative, valid):
    return NoiseContrastiveLoss()(Scores(positive, negative, valid))
