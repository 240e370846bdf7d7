"""What does a loss receive, what does it return, and what does it declare about itself?"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from shortlist.errors import ModelError

Margin = Annotated[
    float,
    Field(
        ge=0,
        description="Hinge loss: a negative costs nothing once it scores this much below the "
        "positive. Cosine contrastive loss: a negative costs nothing below this cosine.",
        examples=[0.5],
    ),
]
"""Type of the option `margin`, shared by the losses that have one."""


class Scores(NamedTuple):
    """The scores of a batch: one row per training example.

    Similarity, temperature, sampling correction and masks have been applied.

    positive: score of each row's positive, [B].
    negative: scores of each row's negatives, [B, M].
    valid: bool [B, M], False where a negative is masked.
    rate: expected count of the positive's item in the pool, [B]; None if the sampler has none.
    value: value of each row's event (data.weight), [B]; None if the loss reads no values.
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor
    rate: Tensor | None = None
    value: Tensor | None = None

    def masked_negative(self) -> Tensor:
        """Return the negatives with -inf where masked, [B, M], so that they have no gradient."""
        return masked(self.negative, self.valid, float("-inf"))

    def gaps(self) -> Tensor:
        """Return negative minus positive, [B, M]; -inf where masked."""
        return self.masked_negative() - self.positive.unsqueeze(1)

    def mean_of(self, costs: Tensor) -> Tensor:
        """Return the mean over each row's valid negatives, [B]; 0 for a row without any.

        costs: [B, M], and 0 where masked.
        """
        return costs.sum(dim=1) / self.valid.sum(dim=1).clamp(min=1)


def masked(scores: Tensor, valid: Tensor, value: float) -> Tensor:
    """Return `scores.masked_fill(~valid, value)`, in a time that does not depend on the mask.

    masked_fill branches at every slot, forward and backward. If many slots are masked and it is not
    predictable which ones, as with mask_known, that takes three times as long.

    scores: floating point, [B, M].
    valid: bool, [B, M].

    >>> masked(torch.tensor([[2.0, float("nan")]]), torch.tensor([[True, False]]), 0.0)
    tensor([[2., 0.]])
    """
    filled: Tensor = _Masked.apply(scores, valid, value)  # type: ignore[no-untyped-call]
    return filled


BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type by its size in bytes."""


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, valid: Tensor, value: float) -> Tensor:
        ctx.save_for_backward(valid)
        kept = _all_bits(valid, scores.dtype)
        filled = scores.view(kept.dtype) & kept
        if value:
            fill = torch.full((), value, dtype=scores.dtype, device=scores.device)
            filled |= kept.bitwise_not_().bitwise_and_(fill.view(kept.dtype))
        return filled.view(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = upstream
        (valid,) = ctx.saved_tensors
        kept = _all_bits(valid, slope.dtype)
        return kept.bitwise_and_(slope.view(kept.dtype)).view(slope.dtype), None, None


def _all_bits(valid: Tensor, like: torch.dtype) -> Tensor:
    """Return integers of the size of `like` with every bit 1 where valid, else 0."""
    return valid.to(BITS[like.itemsize]).neg_()


@dataclass(frozen=True)
class Correction:
    """Whether the sampler's log Q is subtracted from the scores before a loss sees them.

    default: used when the caller does not choose.
    fixed: the reason why the caller cannot choose; empty if they can.
    """

    default: bool
    fixed: str = ""

    def resolve(self, wanted: bool | None) -> bool:
        """Return whether to correct.

        wanted: the caller's choice, None for the default. Errors: ModelError for a choice that the
        loss does not allow.
        """
        if wanted is None or wanted == self.default:
            return self.default
        if self.fixed:
            raise ModelError(f"correct_sampling = {str(wanted).lower()}: {self.fixed}")
        return wanted


@runtime_checkable
class ReadsValues(Protocol):
    """Additional protocol of a loss that can be fitted to event values (data.weight)."""

    @property
    def reads_values(self) -> bool:
        """True if data.weight is the target of each score; no negatives are drawn then."""
        ...


def reads_values(loss: object) -> bool:
    """Tell whether a loss is fitted to event values."""
    return isinstance(loss, ReadsValues) and loss.reads_values


class Loss(Protocol):
    """A training objective over rows of scores.

    shift_invariant: adding one constant to all scores of a row does not change the loss. If False,
    the objective learns such a constant (a scalar bias) together with the towers.
    own_scale: a parameter (margin, scale, target) is in the similarity's units, so that the
    temperature is 1 by default and is never learned.
    needs_raw: the similarity, "cosine" or "dot", on whose raw value the loss is defined. Any other
    similarity and any temperature but 1 are refused, and no bias is learned. None: no restriction.
    usual_negatives: default number of negatives when each row draws its own; None: the sampler's.
    correction: whether the sampling-bias correction applies.
    """

    @property
    def shift_invariant(self) -> bool: ...  # noqa: D102
    @property
    def own_scale(self) -> bool: ...  # noqa: D102
    @property
    def needs_raw(self) -> str | None: ...  # noqa: D102
    @property
    def usual_negatives(self) -> int | None: ...  # noqa: D102
    @property
    def correction(self) -> Correction: ...  # noqa: D102

    def __call__(self, scores: Scores) -> Tensor:
        """Return one loss a row, [B]."""
        ...
