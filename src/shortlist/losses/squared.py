"""Matrix completion: is the score the number itself? Least squares on 1 and 0, or on values."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from shortlist.losses.base import Correction, Scores

Fitted = Annotated[
    Literal["implicit", "explicit"],
    Field(
        description='squared: what scores are fitted to: "implicit", 1 for a positive and 0 for a '
        'negative; "explicit", data.weight of each event (a rating), without negatives.'
    ),
]


@dataclass(frozen=True)
class SquaredLoss:
    """Least squares of matrix completion: P = UVᵀ is fitted to A (Koren, Bell and Volinsky 2009).

    values = "implicit": (1 - p)² + Σ n², zeros drawn by the sampler. It settles at P / (P + M·Q) of
    a draw, which is 1 where the item is always a positive and 0 where it never is.
    values = "explicit": (r - p)², r the value of the event (data.weight). Nothing is drawn: what
    was not rated is unknown, and no zero.

    Requires: the raw dot product (τ = 1, no correction), which alone reaches any number. With
    values the model wants biases (model.biases), since most of a rating is no matter of taste. L2
    is training.weight_decay.
    Relations: ALS solves the implicit one over all zeros, in closed form; SquaredCosineLoss has
    the targets 1 and -1 of a cosine.
    """

    shift_invariant: ClassVar[bool] = False
    own_scale: ClassVar[bool] = True
    needs_raw: ClassVar[str | None] = "dot"
    usual_negatives: ClassVar[int | None] = 4
    correction: ClassVar[Correction] = Correction(
        default=False,
        fixed="log Q would move its targets; leave correct_sampling out, or use loss = 'bce'",
    )

    values: Fitted = "implicit"

    @property
    def reads_values(self) -> bool:
        """Whether it is fitted to the values of the events."""
        return self.values == "explicit"

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]; a row without a value of its own has the value 1."""
        if self.reads_values:
            value = torch.ones_like(scores.positive) if scores.value is None else scores.value
            return (value - scores.positive).square()
        off = scores.negative.masked_fill(~scores.valid, 0.0)  # [B, M]
        return (1 - scores.positive).square() + off.square().sum(dim=1)
