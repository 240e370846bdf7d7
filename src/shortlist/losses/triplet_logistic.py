"""Pairwise: the logistic loss of each difference, with a scale."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from shortlist.errors import ModelError
from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class TripletLogisticLoss:
    """Triplet logistic loss: mean of log(1 + e^(scale·(n - p))).

    It optimises the order of each pair. `scale` (σ on lecture slides: a factor, not the sigmoid)
    sets how fast the gradient of a correctly ordered pair vanishes.

    Requires: scale > 0; about 10 for a cosine.
    Relations: equals BPRLoss with τ = 1/scale; it is a smooth HingeLoss. The scale would multiply
    log Q as well, so the sampling correction is allowed at scale = 1 only; otherwise use BPRLoss.
    """

    scale: Annotated[
        float,
        Field(
            gt=0, description="Factor of the score difference: larger is steeper.", examples=[1.0]
        ),
    ] = 10.0

    shift_invariant: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ModelError(f"scale must be > 0 and finite, got {self.scale}")

    @property
    def correction(self) -> Correction:
        """The correction is on at scale = 1, where this is BPR, and refused otherwise."""
        if self.scale == 1:
            return Correction(default=True)
        return Correction(
            default=False,
            fixed=f"scale = {self.scale:g} would multiply log Q too, which is right only at "
            f"scale = 1; use loss = 'bpr' with temperature = {1 / self.scale:g}",
        )

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a valid negative costs 0."""
        return scores.mean_of(softplus(self.scale * scores.gaps()))
