"""Pointwise on the raw cosine: positives are pulled to 1, negatives pushed below a margin."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from shortlist.errors import ModelError
from shortlist.losses.base import Correction, Margin, Scores


@dataclass(frozen=True)
class CosineContrastiveLoss:
    """CCL (SimpleX, Mao et al. 2021): 1 - p + w · mean of max(0, n - margin).

    It raises the cosine of each positive, and pushes away only the negatives above the margin. Easy
    negatives cost nothing, so the hard ones of a large pool get all of the gradient.

    Requires: the raw cosine (τ = 1), 0 <= margin < 1, and w > 0 (`negative_weight` in a recipe).
    Recommended: many uniform negatives per row. The sampling correction does not apply, so in-batch
    or popularity sampling would lower the scores of popular items. Margins from 0.4 to 0.9. Weights
    from 1 up to several hundred: the mean over a thousand negatives is small.
    Relations: HingeLoss has its margin between positive and negative; here the margin is a fixed
    cosine. SquaredCosineLoss pushes every negative towards -1.
    """

    margin: Margin = 0.9
    negative_weight: Annotated[
        float,
        Field(gt=0, description="Weight of the negatives' mean cost beside the positive's."),
    ] = 10.0

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "cosine"
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="this loss does not estimate a probability, so there is no sampling bias to correct; "
        "leave correct_sampling out, or use loss = 'bce' or 'softmax'",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ModelError(
                f"margin must be from 0 to below 1, got {self.margin}: no cosine exceeds 1"
            )
        if not (self.negative_weight > 0 and math.isfinite(self.negative_weight)):
            raise ModelError(f"negative_weight must be > 0 and finite, got {self.negative_weight}")

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        too_close = relu(scores.masked_negative() - self.margin)  # [B, M]
        return 1 - scores.positive + self.negative_weight * scores.mean_of(too_close)
