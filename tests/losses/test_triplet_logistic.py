import math

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import BPRLoss, TripletLogisticLoss


def test_the_scale_multiplies_the_gap(one_row):
    by_hand = (math.log1p(math.exp(5)) + math.log1p(math.exp(-10))) / 2
    scores = one_row(0.5, [1.0, -0.5])
    assert TripletLogisticLoss(10.0)(scores).item() == pytest.approx(by_hand, rel=1e-9)


def test_scale_one_is_bpr(one_row):
    scores = one_row(0.5, [1.0, -0.5])
    torch.testing.assert_close(TripletLogisticLoss(1.0)(scores), BPRLoss()(scores))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_cannot_work_is_refused(scale):
    with pytest.raises(ModelError, match="scale must be > 0"):
        TripletLogisticLoss(scale)


def test_correction_is_right_at_scale_one_only():
    assert TripletLogisticLoss(1.0).correction.resolve(None) is True
    assert TripletLogisticLoss(1.0).correction.resolve(False) is False
    assert TripletLogisticLoss(5.0).correction.resolve(None) is False
    with pytest.raises(ModelError, match=r"scale = 5 would multiply log Q.*temperature = 0.2"):
        TripletLogisticLoss(5.0).correction.resolve(True)
