"""Pairwise: the positive above each negative, pair by pair, on a logistic slope."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class BPRLoss:
    """Bayesian personalised ranking (Rendle et al. 2009): mean of log(1 + e^(n - p)).

    Optimises the chance that a positive outscores a draw of the sampler (a smoothed AUC): many
    easy negatives teach little, so it profits from popular ones.

    Requires: nothing; on a cosine, a temperature of about 0.1, or every pair stays undecided.
    Relations: SoftmaxLoss with one negative; TripletLogisticLoss with scale = 1/τ.
    """

    shift_invariant: ClassVar[bool] = True
    own_scale: ClassVar[bool] = False
    needs_raw: ClassVar[str | None] = None
    usual_negatives: ClassVar[int | None] = None
    correction: ClassVar[Correction] = Correction(default=True)

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a valid negative costs 0."""
        # softplus, not -log(sigmoid): the latter is inf in float32 beyond 88.
        return scores.mean_of(softplus(scores.gaps()))
