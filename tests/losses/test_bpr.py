import math

import pytest
import torch

from shortlist.losses import BPRLoss, SoftmaxLoss


def test_it_averages_over_the_valid_pairs(one_row):
    scores = one_row(1.0, [0.0, 2.0, 50.0], valid=[True, True, False])
    by_hand = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    assert BPRLoss()(scores).item() == pytest.approx(by_hand, rel=1e-9)


def test_one_negative_makes_it_softmax(one_row):
    scores = one_row(0.3, [-1.2])
    torch.testing.assert_close(BPRLoss()(scores), SoftmaxLoss()(scores))


def test_a_step_widens_the_gap(one_row):
    positive = torch.tensor([0.0], requires_grad=True)
    negative = torch.tensor([[0.0]], requires_grad=True)
    BPRLoss()(one_row(0, [0])._replace(positive=positive, negative=negative)).sum().backward()
    assert positive.grad.item() < 0 < negative.grad.item()
