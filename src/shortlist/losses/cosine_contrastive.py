"""Pointwise on the raw cosine: positives to 1, negatives below a margin and no further."""

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

    Optimises the cosine of each positive, and pushes away only negatives that are closer than the
    margin: easy ones cost nothing, so that a large pool picks its own hard negatives.

    Requires: the raw cosine (τ = 1); 0 <= margin < 1; w > 0, `negative_weight` in a recipe.
    Recommended: uniform negatives, many a row: it cannot be corrected, so that in-batch or popular
    ones push popular items down. Margins from 0.4 to 0.9; weights from 1, and up to hundreds where
    a thousand negatives a row thin out their mean.
    Relations: HingeLoss sets its margin between positive and negative, this one from 0 alone;
    SquaredCosineLoss pushes every negative, on to -1.
    """

    margin: Margin = 0.9
    negative_weight: Annotated[
        float,
        Field(gt=0, description="What its negatives count beside the positive."),
    ] = 10.0

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "cosine"
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="a cosine below a margin has no reading as a probability, so there is no sampling "
        "bias to take out; leave correct_sampling out, or use loss = 'bce' or 'softmax'",
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
