"""Pointwise: binary cross-entropy that compensates for the negatives that were not sampled."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from shortlist.errors import ModelError
from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class GeneralizedBinaryCrossEntropyLoss:
    """gBCE (gSASRec, Petrov & Macdonald 2023): β·log(1 + e^-p) + Σ log(1 + e^n).

    It optimises the probability that a pair is a positive, as BCE over the whole catalogue would.
    With few negatives BCE is overconfident: σ(s) is close to 1 for many items, and their order is
    lost. The factor β = 1 - t·(1 - α) compensates. t is `calibration`; α is the expected count of
    the positive's item in the pool, M/(N-1) for the uniform draws of the paper. Samplers report α,
    so any sampler can be used. At t = 1, σ(s) is the probability itself; t = 0 is BCE.

    Requires: the rate α of each positive, which the objective passes on; 0 <= calibration <= 1.
    Recommended: 256 uniform negatives per row, calibration 0.75. With a very large catalogue and
    t = 1, β is almost 0 and the positive hardly contributes, so training starts very slowly.
    Relations: the paper divides by M + 1, which only rescales the loss. With t = 0 it is
    BinaryCrossEntropyLoss without correction; that loss with correction has the same aim.
    """

    calibration: Annotated[
        float,
        Field(
            ge=0, le=1, description="How much of BCE's overconfidence is removed, t in the paper."
        ),
    ] = 0.75

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="gbce corrects for the sampling by its calibration, so a second correction is wrong; "
        "leave correct_sampling out, or use loss = 'bce'",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.calibration <= 1:
            raise ModelError(f"calibration must be from 0 to 1, got {self.calibration}")

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        if scores.rate is None:
            raise ModelError("gbce needs the sampler's log_q of the positives (positive_log_q)")
        beta = 1 - self.calibration * (1 - scores.rate)  # [B]
        negatives = softplus(scores.masked_negative()).sum(dim=1)
        return beta * softplus(-scores.positive) + negatives
