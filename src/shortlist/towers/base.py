"""How to vectors: what a tower and a summary of a history look like from outside."""

from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from shortlist.data.ragged import Ragged
from shortlist.sections.base import Count
from shortlist.sections.model import CommonModel

Layers = Annotated[Count, Field(description="Blocks or layers on top of each other.")]
"""The option `history_layers`, wherever a tower has it."""

Heads = Annotated[Count, Field(description="Heads of each block.")]
"""The option `history_heads`, wherever a tower has it."""

ReadsTime = Annotated[
    bool,
    Field(
        description="Whether it also sees how much time lies between two events, in powers "
        "of two of the unit of data.time."
    ),
]
"""The option `history_time`, wherever a tower has it."""


class HistoryPooling(Protocol):
    """Turns the items a user met, oldest first, into K sums of them: K recency segments, say."""

    causal: ClassVar[Literal[False]]
    segments: int

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor, place: Tensor | None = None) -> Tensor:
        """Return [B, K, D]; an empty history gives zeros.

        table: item embeddings [N + 1, D], row 0 unknown and zero. place: after which events it is
        asked, [B], positions in history.values; without it after the last of each list.
        """
        ...


class SequenceTower(Protocol):
    """Gives the vector of a user after each event, so that one pass trains on all of a history."""

    causal: ClassVar[Literal[True]]

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor) -> Tensor:
        """Return [total, D], a vector for each value of `history`, which has seen no later one.

        table: item embeddings [N + 1, D], row 0 unknown and zero.
        """
        ...


@runtime_checkable
class TimedTower(Protocol):
    """A sequence tower that can see how much time lies between two events."""

    causal: ClassVar[Literal[True]]
    timed: bool

    def __call__(
        self,
        history: Ragged,
        table: Tensor,
        time: Tensor | None = None,
        anchor: Tensor | None = None,
    ) -> Tensor:
        """Return [total, D], as SequenceTower.

        time: of each value of `history`, [total], any unit; None where it is not known. anchor:
        with model.request_time, the moment each value looks back from, [total]; else its own.
        """
        ...


@runtime_checkable
class InterestTower(Protocol):
    """Gives K vectors of a user, one an interest; the nearest of them counts for an item."""

    causal: ClassVar[Literal[False]]
    interests: int

    def __init__(self, shape: CommonModel) -> None: ...

    def __call__(self, history: Ragged, table: Tensor) -> Tensor:
        """Return [B, K, D]; an empty history gives zeros.

        table: item embeddings [N + 1, D], row 0 unknown and zero.
        """
        ...
