import pytest
import torch

from shortlist.losses import SquaredCosineLoss


def test_by_hand(one_row):
    scores = one_row(0.3, [0.5, -0.8, 1.0], valid=[True, True, False])
    by_hand = 0.7**2 + 1.5**2 + 0.2**2
    assert SquaredCosineLoss()(scores).item() == pytest.approx(by_hand, rel=1e-12)


def test_a_perfect_row_costs_nothing_and_moves_nothing(one_row):
    scores = one_row(1.0, [-1.0, -1.0])
    positive = scores.positive.clone().requires_grad_()
    negative = scores.negative.clone().requires_grad_()
    loss = SquaredCosineLoss()(scores._replace(positive=positive, negative=negative))
    loss.sum().backward()
    assert loss.item() == 0
    assert positive.grad.abs().sum() + negative.grad.abs().sum() == 0


@pytest.mark.parametrize(("positive", "slope"), [(0.0, -2.0), (0.5, -1.0), (0.9, -0.2)])
def test_the_further_from_its_target_the_stronger_the_pull(one_row, positive, slope):
    scores = one_row(positive, [])
    leaf = scores.positive.clone().requires_grad_()
    SquaredCosineLoss()(scores._replace(positive=leaf)).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([slope], dtype=torch.float64))
