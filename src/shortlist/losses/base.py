"""What a loss sees, what it returns, and the facts about it that the objective needs."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from shortlist.errors import ModelError

Margin = Annotated[
    float,
    Field(
        ge=0,
        description="How far below the positive a negative costs nothing more; of a cosine "
        "contrastive loss, the cosine below which it costs nothing.",
        examples=[0.5],
    ),
]
"""The option `margin`, wherever a loss has it."""


class Scores(NamedTuple):
    """One row a training example, after similarity, temperature, correction and masks.

    positive: [B]; negative: [B, M]; valid: [B, M] bool, False where a negative is masked.
    rate: how often the pool is expected to hold the positive's item, [B], where the sampler says.
    value: the value of each row's event, [B], where the loss reads values.
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor
    rate: Tensor | None = None
    value: Tensor | None = None

    def masked_negative(self) -> Tensor:
        """The negatives with -inf in the masked places, [B, M]: they cost and move nothing."""
        return self.negative.masked_fill(~self.valid, float("-inf"))

    def gaps(self) -> Tensor:
        """How far each negative stands above its positive, [B, M]; -inf where masked."""
        return self.masked_negative() - self.positive.unsqueeze(1)

    def mean_of(self, costs: Tensor) -> Tensor:
        """The mean of costs [B, M] over the valid negatives of each row, [B]; 0 without any.

        costs must be 0 in the masked places.
        """
        return costs.sum(dim=1) / self.valid.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class Correction:
    """Whether a loss takes scores from which the sampler's log Q was subtracted.

    default: on or off unless the caller says otherwise; fixed: why the caller may not, if so.
    """

    default: bool
    fixed: str = ""

    def resolve(self, wanted: bool | None) -> bool:
        """Return on or off for what the caller wanted (None: the default), or refuse it."""
        if wanted is None or wanted == self.default:
            return self.default
        if self.fixed:
            raise ModelError(f"correct_sampling = {str(wanted).lower()}: {self.fixed}")
        return wanted


@runtime_checkable
class ReadsValues(Protocol):
    """What a loss has besides that can be fitted to the values of events (data.weight)."""

    @property
    def reads_values(self) -> bool:
        """Whether it is: then data.weight is what scores shall be, and nothing is drawn."""
        ...


def reads_values(loss: object) -> bool:
    """Whether a loss is fitted to the values of events."""
    return isinstance(loss, ReadsValues) and loss.reads_values


class Loss(Protocol):
    """A training objective over rows of scores.

    shift_invariant: adding one constant to all scores of a row changes nothing. Where it is
    False the objective learns such a constant beside the towers (a scalar bias).
    own_scale: it is measured in the similarity's own units (a margin, a scale, a target), so that
    the temperature is 1 by default and never learned.
    needs_raw: the similarity whose plain value it is defined on, "cosine" (from -1 to 1) or "dot":
    any other, and any temperature but 1, is refused, and no bias is learned. None: any will do.
    usual_negatives: how many it is meant for, where draws for each row are not counted by hand.
    correction: what the sampling-bias correction means for it.
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
