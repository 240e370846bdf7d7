"""Pairwise: the positive must score above each negative by a margin."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import relu

from shortlist.errors import ModelError
from shortlist.losses.base import Correction, Margin, Scores


@dataclass(frozen=True)
class HingeLoss:
    """Triplet hinge loss (Schroff et al. 2015; Huang et al. 2020): mean of max(0, n + margin - p).

    It asks for a difference of at least `margin` between positive and negative. A pair that has it
    costs nothing and has no gradient, so this loss depends on hard negatives more than others do.

    Requires: margin > 0, in units of s/τ: 0.1 to 0.3 for a cosine at τ = 1, where no difference
    exceeds 2. With margin 0, equal scores for all items would cost nothing.
    Relations: TripletLogisticLoss is its smooth form and needs no margin.
    """

    margin: Margin = 0.2

    shift_invariant: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="hinge does not estimate a probability, so there is no sampling bias to correct; "
        "leave correct_sampling out, or use loss = 'bpr' or 'softmax'",
    )

    def __post_init__(self) -> None:
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise ModelError(f"margin must be > 0 and finite, got {self.margin}")

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a valid negative costs 0."""
        # Added in this order, a difference of exactly the margin costs exactly 0.
        needed = scores.masked_negative() + self.margin
        return scores.mean_of(relu(needed - scores.positive.unsqueeze(1)))
