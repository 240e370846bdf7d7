"""Pointwise on the raw cosine: positives to 1, negatives to -1, by least squares."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class SquaredCosineLoss:
    """Least squares on the cosine, as lecture slides put it: (1 - p)² + Σ (1 + n)².

    Optimises a cosine of 1 for positives and -1 for draws of the sampler. It settles where
    (P - M·Q) / (P + M·Q): an order by P/Q, so popular negatives push popular items down.

    Requires: the raw cosine (τ = 1, no correction): 1 and -1 are its bounds, and the targets.
    Recommended: positives : negatives of 1:2 or 1:3, uniform draws for each row. It sums over the
    negatives: with many, all cosines near -1 and the positives hardly count.
    Relations: BinaryCrossEntropyLoss asks the same on a logit scale, where no bound is in the way.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "cosine"
    usual_negatives: ClassVar[int | None] = 3
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="log Q on a cosine would move its targets 1 and -1 out of reach; "
        "leave correct_sampling out, or use loss = 'bce'",
    )

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; without a valid negative the positive still costs."""
        off = (1 + scores.negative).masked_fill(~scores.valid, 0.0)  # [B, M]
        return (1 - scores.positive).square() + off.square().sum(dim=1)
