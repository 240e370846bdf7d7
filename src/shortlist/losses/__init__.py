"""Which loss is trained? Each file has one loss; LOSSES finds them by name."""

import inspect

from shortlist.errors import ModelError, suggest_part
from shortlist.losses.base import Correction, Loss, Scores
from shortlist.losses.bpr import BPRLoss
from shortlist.losses.cosine_contrastive import CosineContrastiveLoss
from shortlist.losses.gbce import GeneralizedBinaryCrossEntropyLoss
from shortlist.losses.hinge import HingeLoss
from shortlist.losses.logistic import (
    BinaryCrossEntropyLoss,
    NegativeSamplingLoss,
    NoiseContrastiveLoss,
)
from shortlist.losses.softmax import SoftmaxLoss
from shortlist.losses.squared import SquaredLoss
from shortlist.losses.squared_cosine import SquaredCosineLoss
from shortlist.losses.triplet_logistic import TripletLogisticLoss

LOSSES: dict[str, type[Loss]] = {
    "bce": BinaryCrossEntropyLoss,
    "neg": NegativeSamplingLoss,
    "nce": NoiseContrastiveLoss,
    "gbce": GeneralizedBinaryCrossEntropyLoss,
    "squared": SquaredLoss,
    "squared_cosine": SquaredCosineLoss,
    "bpr": BPRLoss,
    "hinge": HingeLoss,
    "cosine_contrastive": CosineContrastiveLoss,
    "triplet_logistic": TripletLogisticLoss,
    "softmax": SoftmaxLoss,
    "sampled_softmax": SoftmaxLoss,
}


def build_loss(name: str, **options: float | None) -> Loss:
    """Return the loss of that name.

    options: parameters of the loss, such as margin; None keeps its default.
    Errors: ModelError for an unknown name, and for an option that the loss does not have.

    >>> build_loss("hinge", margin=0.5, scale=None)
    HingeLoss(margin=0.5)
    """
    if name not in LOSSES:
        raise ModelError(f"unknown loss '{name}'.{suggest_part(name, LOSSES)}")
    given = {option: value for option, value in options.items() if value is not None}
    for option in sorted(given.keys() - _options_of(name)):
        users = [other for other in LOSSES if option in _options_of(other)]
        whose = f"it belongs to loss = '{users[0]}'" if users else "no loss has it"
        raise ModelError(f"loss '{name}' does not use {option}: leave it out, {whose}")
    return LOSSES[name](**given)


def _options_of(name: str) -> set[str]:
    return set(inspect.signature(LOSSES[name]).parameters)


__all__ = [
    "LOSSES",
    "BPRLoss",
    "BinaryCrossEntropyLoss",
    "Correction",
    "CosineContrastiveLoss",
    "GeneralizedBinaryCrossEntropyLoss",
    "HingeLoss",
    "Loss",
    "NegativeSamplingLoss",
    "NoiseContrastiveLoss",
    "Scores",
    "SoftmaxLoss",
    "SquaredCosineLoss",
    "SquaredLoss",
    "TripletLogisticLoss",
    "build_loss",
]
