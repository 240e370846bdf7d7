import math

import pytest
import torch

from shortlist.losses import LOSSES, SoftmaxLoss


@pytest.mark.parametrize(("temperature", "wanted"), [(1.0, 0.34075), (0.2, 0.000136)])
def test_a_perfect_cosine_row_costs_what_the_formula_says(one_row, temperature, wanted):
    scores = one_row(1 / temperature, [-1 / temperature] * 3)
    by_hand = math.log1p(3 * math.exp(-2 / temperature))
    assert SoftmaxLoss()(scores).item() == pytest.approx(by_hand, rel=1e-9)
    assert by_hand == pytest.approx(wanted, rel=2e-3)


def test_over_a_whole_catalogue_it_is_cross_entropy(one_row):
    scores = one_row(0.4, [1.0, -2.0, 0.1])
    logits = torch.tensor([[0.4, 1.0, -2.0, 0.1]], dtype=torch.float64)
    reference = torch.nn.functional.cross_entropy(logits, torch.tensor([0]), reduction="none")
    torch.testing.assert_close(SoftmaxLoss()(scores), reference)


def test_an_invalid_negative_costs_nothing_however_high_it_scores(one_row):
    dirty = one_row(0.3, [0.1, 99.0], valid=[True, False])
    torch.testing.assert_close(SoftmaxLoss()(dirty), SoftmaxLoss()(one_row(0.3, [0.1])))


def test_a_tiny_loss_keeps_its_digits(one_row):
    assert SoftmaxLoss()(one_row(40.0, [0.0])).item() == pytest.approx(
        math.exp(-40), rel=1e-9, abs=0
    )


def test_sampled_softmax_is_another_name_for_it():
    assert LOSSES["sampled_softmax"] is LOSSES["softmax"] is SoftmaxLoss
