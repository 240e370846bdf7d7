import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import CosineContrastiveLoss


def test_by_hand(one_row):
    scores = one_row(0.3, [0.9, 0.5, -0.8, 1.0], valid=[True, True, True, False])
    by_hand = 0.7 + 4.0 * (0.5 + 0.1 + 0) / 3
    found = CosineContrastiveLoss(margin=0.4, negative_weight=4.0)(scores)
    assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_a_negative_below_the_margin_costs_nothing_and_moves_nothing(one_row):
    scores = one_row(0.3, [0.39, 0.41])
    negative = scores.negative.clone().requires_grad_()
    loss = CosineContrastiveLoss(margin=0.4, negative_weight=1.0)
    loss(scores._replace(negative=negative)).sum().backward()
    torch.testing.assert_close(negative.grad, torch.tensor([[0.0, 0.5]], dtype=torch.float64))


def test_a_positive_is_drawn_on_until_its_cosine_is_1(one_row):
    loss = CosineContrastiveLoss()
    assert loss(one_row(0.999, [])).item() == pytest.approx(0.001)
    assert loss(one_row(1.0, [])).item() == 0


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_margin_that_cannot_work_is_refused(margin):
    with pytest.raises(ModelError, match="margin must be from 0 to below 1"):
        CosineContrastiveLoss(margin=margin)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_work_is_refused(weight):
    with pytest.raises(ModelError, match="negative_weight must be > 0"):
        CosineContrastiveLoss(negative_weight=weight)
