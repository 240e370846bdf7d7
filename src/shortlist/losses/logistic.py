"""Pointwise: is this (query, item) pair a positive? Binary classification of each, alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


def logistic(scores: Scores) -> Tensor:
    """softplus(-positive) + the sum of softplus(negative) over the valid negatives, [B].

    A row without a valid negative still pays for its positive.
    """
    return softplus(-scores.positive) + softplus(scores.masked_negative()).sum(dim=1)


@dataclass(frozen=True)
class BinaryCrossEntropyLoss:
    """Binary cross-entropy of each pair: log(1 + e^-p) + Σ log(1 + e^n).

    Optimises the probability that a pair is a positive rather than a draw of the sampler: with
    correction the scores learn log P(item | query) up to a constant, without it log P/Q.

    Requires: scores on a logit scale. A raw cosine lies in [-1, 1], where a pair costs at least
    0.313 however well it is learned: use a temperature of about 0.1. It sums over negatives, so
    more negatives weigh more against the one positive.
    Recommended: 1 to 4 negatives a row; over an in-batch pool the objective's learned bias and a
    temperature are what keep it from collapsing (sigmoid contrastive loss, Zhai et al. 2023).
    Relations: NegativeSamplingLoss is this without correction, NoiseContrastiveLoss with it.
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

    Optimises the same as BinaryCrossEntropyLoss and learns log P/Q - log M: how much more often
    the item comes up for this query than the sampler draws it. Popular items are held down when
    the sampler draws by popularity, which is at times what is wanted, and never a probability.

    Relations: the correction that NEG leaves out makes it NoiseContrastiveLoss.
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
    """NCE (Gutmann & Hyvärinen 2010): tell the positive from M draws of known frequency.

    Optimises log P(item | query) itself, on scores s/τ - log(M·Q), M draws a row from Q. Its
    gradient tends to the full softmax's with many negatives, but only where the scores normalise
    themselves (Σ e^s = 1 over the catalogue); a cosine cannot, so the objective learns a bias.

    Requires: correction, with the log of the *expected count* M·Q, as samplers give it. With
    log Q alone it ranks alike but learns log P - log M.
    Relations: NegativeSamplingLoss is this without correction; SoftmaxLoss needs no bias and is
    the better choice wherever one positive stands against many negatives.
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
