"""Listwise: the cross-entropy of the positive among all of its negatives."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class SoftmaxLoss:
    """Sampled softmax on bias-corrected scores (Yi et al. 2019); InfoNCE on uncorrected ones.

    It optimises log P(item | query): the cross-entropy of the positive against the pool. Unlike the
    listwise losses of a ranker it asks for no order among the negatives.

    Requires: on a cosine, a small temperature. With N negatives a row cannot cost less than
    log(1 + N·e^(-2/τ)), which is 6.3 for N = 4095 at τ = 1: the gradient is then almost zero.
    Recommended: as many negatives as memory allows, in-batch or mixed, with the sampling
    correction. It is the default loss.
    Relations: with one negative it equals BPRLoss; with the whole catalogue as its pool it is the
    full softmax cross-entropy.
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
