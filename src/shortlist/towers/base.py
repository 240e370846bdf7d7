"""Which interfaces do the towers of histories have, and which options do they share?"""

from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from shortlist.data.ragged import Ragged
from shortlist.sections.base import Count
from shortlist.sections.model import CommonModel

Layers = Annotated[Count, Field(description="Number of stacked blocks or layers.")]
"""Type of the option `history_layers`."""

Heads = Annotated[Count, Field(description="Number of attention heads in each block.")]
"""Type of the option `history_heads`."""

ReadsTime = Annotated[
    bool,
    Field(
        description="Whether the tower also reads the time between two events, in powers of two "
        "of the unit of data.time."
    ),
]
"""Type of the option `history_time`."""


class HistoryPooling(Protocol):
    """Pools a history into K vectors, such as one per recency segment.

    segments: K.
    """

    causal: ClassVar[Literal[False]]
    segments: int

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor, place: Tensor | None = None) -> Tensor:
        """Return the pooled vectors, [B, K, D]; zeros for an empty history.

        history: item rows, oldest first.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        place: positions in history.values up to which each row pools, [B]; None pools whole lists.
        """
        ...


class SequenceTower(Protocol):
    """Gives a user vector after each event, so that one pass trains on a whole history."""

    causal: ClassVar[Literal[True]]

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor) -> Tensor:
        """Return the vector after each event, [total, D]; it does not depend on later events.

        history: item rows, oldest first.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        """
        ...


@runtime_checkable
class TimedTower(Protocol):
    """A sequence tower that can read the time between two events.

    timed: whether it does.
    """

    causal: ClassVar[Literal[True]]
    timed: bool

    def __call__(
        self,
        history: Ragged,
        table: Tensor,
        time: Tensor | None = None,
        anchor: Tensor | None = None,
    ) -> Tensor:
        """Return the vector after each event, [total, D], as SequenceTower does.

        time: time of each event, [total], in the unit of the log; None if no times are known.
        anchor: with model.request_time, the time from which each event measures, [total]; None for
        its own time.
        """
        ...


@runtime_checkable
class InterestTower(Protocol):
    """Gives K vectors per user, one per interest; an item's score is the best of the K scores.

    interests: K.
    """

    causal: ClassVar[Literal[False]]
    interests: int

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor) -> Tensor:
        """Return the interests, [B, K, D]; zeros for an empty history.

        history: item rows, oldest first.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        """
        ...
