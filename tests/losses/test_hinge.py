import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import HingeLoss


def test_a_pair_with_the_margin_costs_nothing_and_moves_nothing(one_row):
    scores = one_row(0.9, [0.1, 0.8])
    negative = scores.negative.clone().requires_grad_()
    loss = HingeLoss(margin=0.2)(scores._replace(negative=negative))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.1 / 2)  # only 0.8 + 0.2 - 0.9, over two pairs
    torch.testing.assert_close(negative.grad, torch.tensor([[0.0, 0.5]], dtype=torch.float64))


def test_the_margin_matters(one_row):
    scores = one_row(0.5, [0.0])
    assert HingeLoss(0.4)(scores).item() == 0
    assert HingeLoss(0.7)(scores).item() == pytest.approx(0.2)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_cannot_work_is_refused(margin):
    with pytest.raises(ModelError, match="margin must be > 0"):
        HingeLoss(margin)


def test_correction_is_refused_with_the_reason_and_the_cure():
    with pytest.raises(ModelError, match=r"does not estimate a probability.*'bpr' or 'softmax'"):
        HingeLoss().correction.resolve(True)
    assert HingeLoss().correction.resolve(None) is False
