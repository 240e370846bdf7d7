import pytest

from shortlist.errors import ModelError
from shortlist.losses import HingeLoss, TripletLogisticLoss, build_loss


def test_options_reach_the_loss_and_none_is_the_default():
    assert build_loss("hinge", margin=0.5, scale=None) == HingeLoss(0.5)
    assert build_loss("hinge", margin=None) == HingeLoss()
    assert build_loss("triplet_logistic", scale=3.0) == TripletLogisticLoss(3.0)


def test_an_option_the_loss_would_not_use_is_refused():
    with pytest.raises(ModelError, match=r"'softmax' does not use margin.*loss = 'hinge'"):
        build_loss("softmax", margin=0.2)
    with pytest.raises(ModelError, match=r"'hinge' does not use scale.*'triplet_logistic'"):
        build_loss("hinge", scale=2.0)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ModelError, match=r"unknown loss 'sofmax'. Did you mean 'softmax'"):
        build_loss("sofmax")
