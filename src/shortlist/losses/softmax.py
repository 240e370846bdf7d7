"""Listwise: the positive against all of its negatives at once."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class SoftmaxLoss:
    """Sampled softmax on bias-corrected scores (Yi et al. 2019); InfoNCE on uncorrected ones.

    Optimises log P(item | query): cross-entropy of the positive against the pool. No order is
    asked for among the negatives, unlike a ranker's listwise losses.

    Requires: on a cosine, a small temperature. With N negatives its floor is
    log(1 + N·e^(-2/τ)): 6.3 for N = 4095 at τ = 1, and nothing to learn from.
    Recommended: as many negatives as fit; in-batch or mixed ones with correction; the default.
    Relations: with one negative it is BPRLoss; over the whole catalogue it is cross-entropy.
    """

    shift_invariant: ClassVar[bool] = True
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(default=True)

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a valid negative costs 0."""
        # softplus keeps small losses exact; logsumexp(all) - positive would cancel.
        return softplus(scores.masked_negative().logsumexp(dim=1) - scores.positive)
