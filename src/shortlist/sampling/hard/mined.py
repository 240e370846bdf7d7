"""Hard negatives from the whole catalogue: a band of ranks in the current item vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.index.exact import ExactIndex
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard.base import HardWorld, hard_slots, random_slots
from shortlist.sections.base import Count, as_tuple
from shortlist.similarity import pair_score


def _band(ranks: tuple[int, int]) -> tuple[int, int]:
    if ranks[0] > ranks[1]:
        raise ValueError("must name the first rank, then the last")
    return ranks


Ranks = Annotated[
    tuple[Count, Count],
    BeforeValidator(as_tuple),
    AfterValidator(_band),
    Field(
        description="First and last rank of the user's current list from which items are drawn.",
        examples=[[100, 500]],
    ),
]
Ceiling = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Items that score above this share of the positive's score are not drawn, "
        "because the user may like them.",
    ),
]


@dataclass(eq=False)
class MinedNegatives:
    """h random items from ranks a to b of a search by each query (Huang et al. 2020; ANCE, 2021).

    The searched item vectors are those at the start of the epoch, the query is the current one. The
    first ranks are left out, because they hold many items that the user would like.
    It is positive-aware (Moreira et al. 2024): an item is not drawn if its score is above
    p - (1 - ceiling)·|p|, where p is the positive's score. For positive scores that is `ceiling`
    times p; for negative ones a plain multiple of p would lie above p.

    Ranks are counted without the items that must not be drawn: the row's positive and, by default,
    all known positives of the user. The cost is one exact search per batch, B·N·D.

    candidates: item rows that can be recommended, ascending, [N].
    similarity: the similarity of the model.
    ranks: first and last rank, counted from 1.
    ceiling: share of the positive's score, above 0 and at most 1.
    """

    candidates: Tensor
    similarity: str
    ranks: tuple[int, int] = (100, 500)
    ceiling: float = 0.95
    _index: ExactIndex | None = field(default=None, init=False)
    _vectors: Tensor | None = field(default=None, init=False)

    refuses: ClassVar[dict[str, str]] = {
        "margin": "what it passes over is a share of the positive's score: hard_ceiling",
    }
    alone: ClassVar[str] = (
        "sample selection bias: a model trained on mined items alone never sees the unrelated "
        "items that it has to score at serving, and their sampling probability is not known"
    )

    def __post_init__(self) -> None:
        first, last = self.ranks
        if not 1 <= first <= last:
            raise ModelError(f"hard_ranks must be [a, b] with 1 <= a <= b, got {[first, last]}")
        self._check_reached(len(self.candidates) - 1)
        if not 0 < self.ceiling <= 1:
            raise ModelError(f"hard_ceiling must be above 0 and at most 1, got {self.ceiling}")

    @classmethod
    def build(cls, world: HardWorld, *, ranks: Ranks = (100, 500), ceiling: Ceiling = 0.95) -> Self:
        """Build the source. Errors: ModelError for ranks beyond the number of candidates."""
        source = cls(world.candidates, world.similarity, ranks, ceiling)
        if world.known is not None and ranks[0] > len(world.candidates) - _most(world.known):
            source._check_reached(len(world.candidates) - _fewest(world.known))
        return source

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Encode all candidates; these vectors are searched until the next epoch."""
        parts = [encode(rows).detach() for rows in torch.split(self.candidates, 65536)]
        self.load_state_dict({"vectors": torch.cat(parts)})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the item vectors that are searched in this epoch, [N, D]."""
        return {} if self._vectors is None else {"vectors": self._vectors}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Build the index over these item vectors."""
        if "vectors" in state:
            self._vectors = state["vectors"].to(self.candidates.device)
            self._index = ExactIndex(self.similarity).build(self.candidates, self._vectors)

    def draw(
        self, batch: Batch, queries: Tensor, count: int, generator: torch.Generator
    ) -> Negatives:
        """Return up to `count` different items between the two ranks for each row, [B, count]."""
        if self._index is None or self._vectors is None:
            raise ModelError("mined negatives need refresh before the first draw")
        first, last = self.ranks
        found = self._index.search(queries, last, exclude=self._kept_out(batch))
        ids, scores = found.ids[:, first - 1 :], found.scores[:, first - 1 :]
        place = torch.searchsorted(self.candidates, batch.positive)
        positive = pair_score(queries, self._vectors[place], self.similarity)
        limit = positive - (1 - self.ceiling) * positive.abs()
        allowed = (ids >= 0) & (scores <= limit.unsqueeze(1))
        columns, filled = random_slots(allowed, count, generator)
        return hard_slots(ids.gather(1, columns), filled, batch.positive)

    def _check_reached(self, left: int) -> None:
        """Refuse ranks at which no row has an item; left: largest number of items of any row."""
        if self.ranks[0] > left:
            raise ModelError(
                f"hard_ranks start at {self.ranks[0]}, and only {left} items are left beside what "
                "a user is known to like: give smaller ranks"
            )

    def _kept_out(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the items that each row must not get: item rows and offsets, [B + 1].

        batch.known, if given, includes the positives.
        """
        if batch.known is not None:
            return batch.known.values, batch.known.offsets
        rows = len(batch.positive)
        return batch.positive, torch.arange(rows + 1, device=batch.positive.device)


def _most(known: Ragged) -> int:
    """Return the length of the longest list."""
    return int(known.lengths.max()) if len(known.lengths) else 0


def _fewest(known: Ragged) -> int:
    """Return the smallest number of different items of any list that is not empty."""
    size = int(known.values.max()) + 1 if len(known.values) else 1
    pairs = torch.unique(known.owners() * size + known.values)
    different = torch.bincount(torch.div(pairs, size, rounding_mode="floor"))
    return int(different[different > 0].min()) if len(pairs) else 0
