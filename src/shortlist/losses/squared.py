"""Matrix completion: least squares of the scores on 1 and 0, or on the values of events."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from shortlist.losses.base import Correction, Scores, masked

Fitted = Annotated[
    Literal["implicit", "explicit"],
    Field(
        description='squared: the targets of the scores. "implicit": 1 for a positive and 0 for a '
        'negative. "explicit": data.weight of each event (a rating), without negatives.'
    ),
]


@dataclass(frozen=True)
class SquaredLoss:
    """Least squares of matrix completion: P = UVᵀ is fitted to A (Koren, Bell and Volinsky 2009).

    values = "implicit": (1 - p)² + Σ n², where the sampler draws the zeros. The score converges to
    P / (P + M·Q): 1 for an item that is always a positive and 0 for one that never is.
    values = "explicit": (r - p)², where r is the value of the event (data.weight). No negatives are
    drawn, because an item without a rating is unknown and not zero.

    Requires: the raw dot product (τ = 1, no correction), because only it can reach any number.
    Explicit values need model.biases: most of the variance of ratings lies in users and items
    alone. Weights are pulled to zero by training.weight_decay.
    Relations: ALS minimises the implicit form over all zeros by closed-form steps.
    SquaredCosineLoss has the targets 1 and -1 of a cosine.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "dot"
    usual_negatives: ClassVar[int | None] = 4
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="log Q would shift the targets; leave correct_sampling out, or use loss = 'bce'",
    )

    values: Fitted = "implicit"

    @property
    def reads_values(self) -> bool:
        """True if the targets are the values of events (values = "explicit")."""
        return self.values == "explicit"

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]. Without `scores.value` the explicit targets are 1."""
        if self.reads_values:
            value = torch.ones_like(scores.positive) if scores.value is None else scores.value
            return (value - scores.positive).square()
        off = masked(scores.negative, scores.valid, 0.0)  # [B, M]
        return (1 - scores.positive).square() + off.square().sum(dim=1)
