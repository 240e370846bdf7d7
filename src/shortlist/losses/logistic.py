"""Pointwise: each (query, item) pair is classified as positive or negative on its own."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


def logistic(scores: Scores) -> Tensor:
    """Return softplus(-positive) + Σ softplus(negative) over the valid negatives, [B].

    A row without a valid negative still has the cost of its positive.
    """
    return softplus(-scores.positive) + softplus(scores.masked_negative()).sum(dim=1)


@dataclass(frozen=True)
class BinaryCrossEntropyLoss:
    """Binary cross-entropy of each pair: log(1 + e^-p) + Σ log(1 + e^n).

    It optimises the probability that a pair is a positive and not a draw of the sampler. With the
    sampling correction the scores learn log P(item | query) up to a constant, without it log P/Q.

    Requires: scores on a logit scale. A raw cosine lies in [-1, 1], where a pair costs at least
    0.313 even when it is learned perfectly: use a temperature of about 0.1. Costs are summed over
    the negatives, so more negatives have more weight against the one positive.
    Recommended: 1 to 4 negatives per row. With an in-batch pool the learned bias and a temperature
    keep it from collapsing (sigmoid contrastive loss, Zhai et al. 2023).
    Relations: NegativeSamplingLoss is the same without correction, NoiseContrastiveLoss with it.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(default=True)

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        return logistic(scores)


@dataclass(frozen=True)
class NegativeSamplingLoss:
    """NEG, the negative sampling of word2vec (Mikolov et al. 2013): uncorrected logistic loss.

    It has the formula of BinaryCrossEntropyLoss, and its scores learn log P/Q - log M: how much
    more often the item occurs for this query than the sampler draws it. With popularity sampling,
    popular items get lower scores. That can be wanted, but the scores are not probabilities.

    Relations: with the sampling correction it is NoiseContrastiveLoss.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="neg is the logistic loss without correction; with it, it is loss = 'nce'",
    )

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        return logistic(scores)


@dataclass(frozen=True)
class NoiseContrastiveLoss:
    """NCE (Gutmann & Hyvärinen 2010): tells the positive from M draws of known frequency.

    It optimises log P(item | query) itself, on scores s/τ - log(M·Q) with M draws per row from Q.
    With many negatives its gradient approaches that of the full softmax, provided the scores are
    self-normalised (Σ e^s = 1 over the catalogue). A cosine cannot be, so a bias is learned.

    Requires: the sampling correction by the log of the *expected count* M·Q, which samplers give.
    With log Q alone the ranking is the same and the scores learn log P - log M.
    Relations: NegativeSamplingLoss is the same without correction. SoftmaxLoss needs no bias and is
    the better choice when a row has many negatives.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(
        default=True,
        fixed="nce is defined on corrected scores; without correction it is loss = 'neg'",
    )

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        return logistic(scores)
