"""Pointwise: binary classification that makes up for the negatives it never saw."""

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

    Optimises the probability that a pair is a positive, as BCE over the whole catalogue would.
    With few negatives BCE is overconfident: σ(s) nears 1 for many items, and their order is lost.
    β = 1 - t·(1 - α) takes that out, where t is `calibration` and α the rate at which the pool
    holds the positive's item, its expected count: M/(N-1) for the paper's uniform draws. The
    sampler tells α, so any sampler will do. At t = 1 σ(s) is the probability itself; t = 0 is BCE.

    Requires: the rate of each positive (the objective passes it on), and 0 <= calibration <= 1.
    Recommended: uniform negatives, 256 a row, calibration 0.75. Over a huge catalogue β at t = 1
    all but removes the positive, and training hardly starts.
    Relations: the paper divides by M + 1, which only scales it; BinaryCrossEntropyLoss without
    correction is t = 0, and with it another way to the same end.
    """

    calibration: Annotated[
        float,
        Field(ge=0, le=1, description="How much of BCE's overconfidence is taken out."),
    ] = 0.75

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="gbce takes the sampling out by its calibration, and a second time would be wrong; "
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
