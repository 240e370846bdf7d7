"""Pointwise on the raw cosine: least squares to 1 for positives and -1 for negatives."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shortlist.losses.base import Correction, Scores, masked


@dataclass(frozen=True)
class SquaredCosineLoss:
    """Least squares on the cosine, a form common in lecture slides: (1 - p)² + Σ (1 + n)².

    The targets are a cosine of 1 for positives and -1 for draws of the sampler. The cosine
    converges to (P - M·Q) / (P + M·Q), an order by P/Q, so popularity sampling lowers the scores of
    popular items.

    Requires: the raw cosine (τ = 1, no correction), whose bounds 1 and -1 are the targets.
    Recommended: two or three uniform negatives per row. Costs are summed over the negatives: with
    many of them all cosines approach -1 and the positives hardly count.
    Relations: BinaryCrossEntropyLoss has the same aim on a logit scale, which has no bounds.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "cosine"
    usual_negatives: ClassVar[int | None] = 3
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="log Q would shift the targets 1 and -1 beyond what a cosine can reach; "
        "leave correct_sampling out, or use loss = 'bce'",
    )

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; without a valid negative the positive still costs."""
        off = masked(1 + scores.negative, scores.valid, 0.0)  # [B, M]
        return (1 - scores.positive).square() + off.square().sum(dim=1)
