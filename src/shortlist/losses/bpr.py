"""Pairwise: the logistic loss of each (positive, negative) difference."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from shortlist.losses.base import Correction, Scores


@dataclass(frozen=True)
class BPRLoss:
    """Bayesian personalised ranking (Rendle et al. 2009): mean of log(1 + e^(n - p)).

    It optimises the probability that a positive outscores a negative drawn by the sampler (a
    smoothed AUC). Easy negatives have small gradients, so popularity sampling often helps.

    Requires: on a cosine, a temperature of about 0.1; at 1 every pair stays near log 2.
    Relations: equals SoftmaxLoss with one negative, and TripletLogisticLoss with scale = 1/τ.
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
