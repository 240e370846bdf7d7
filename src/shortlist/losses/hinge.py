"""Pairwise: the positive above each negative by a margin, and then no further."""

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

    Optimises a gap of `margin` between positive and negative; a pair that has it costs and moves
    nothing, so hard negatives matter more than for any other loss here.

    Requires: margin > 0 (with 0, equal scores everywhere cost nothing), in units of s/τ: 0.1 to
    0.3 for a cosine at τ = 1, where no gap can exceed 2.
    Relations: TripletLogisticLoss is its smooth form and needs no margin.
    """

    margin: Margin = 0.2

    shift_invariant: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="a margin has no reading as a probability, so hinge has no sampling bias to take "
        "out; leave correct_sampling out, or use loss = 'bpr' or 'softmax'",
    )

    def __post_init__(self) -> None:
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise ModelError(f"margin must be > 0 and finite, got {self.margin}")

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a valid negative costs 0."""
        # In the formula's order: where cosines are exact, a gap of just the margin costs nothing.
        needed = scores.masked_negative() + self.margin
        return scores.mean_of(relu(needed - scores.positive.unsqueeze(1)))
