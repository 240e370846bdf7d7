"""What does a source of hard negatives return? There are two protocols for sources."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.sampling.base import Negatives


class HardWorld(NamedTuple):
    """What sources are built from; all of it is training data.

    candidates: item rows that can be recommended, ascending, [N] int64.
    similarity: the similarity of the model.
    logged: for each log ("exposed", "dropped"), the lists of item rows by user row.
    known: each user's training positives by user row; None if they may be hard negatives.
    """

    candidates: Tensor
    similarity: str
    logged: Mapping[str, Ragged]
    known: Ragged | None


@runtime_checkable
class PoolChoice(Protocol):
    """Picks hard negatives from the easy pool by score, so that no further item is encoded.

    refuses: options of `build_hard` that it does not take, each with the reason.
    alone: why it must not be the only source of negatives.
    """

    refuses: ClassVar[dict[str, str]]
    alone: ClassVar[str]

    def choose(self, gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the chosen columns of the pool, [B, h], and which of them are valid, [B, h] bool.

        gap: score of each slot minus the positive's, [B, M]; -inf where it must not be chosen.
        count: number of hard negatives per row, h.
        """
        ...


class HardSource(Protocol):
    """Draws hard negatives from outside the pool: from the catalogue or from a log.

    refuses, alone: as for PoolChoice.
    """

    refuses: ClassVar[dict[str, str]]
    alone: ClassVar[str]

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Prepare for an epoch; encode: maps item rows [N] to their current vectors, [N, D]."""
        ...

    def draw(
        self, batch: Batch, queries: Tensor, count: int, generator: torch.Generator
    ) -> Negatives:
        """Return at most `count` negatives for each row, [B, count]; see `hard_slots`.

        batch: the rows; items in batch.known, if given, are not drawn.
        queries: query vectors, [B, D] or [B, K, D], without gradient.
        count: number of hard negatives per row, h.
        generator: source of random numbers.
        """
        ...


def hard_slots(ids: Tensor, filled: Tensor, positive: Tensor) -> Negatives:
    """Return hard negatives of each row as a pool [B, h], with log_q = 0 as Q is unknown.

    A slot without a hard negative gets the row's own positive, and `source` marks it, so that it
    is masked in every loss.

    ids: item rows, [B, h].
    filled: True where ids holds a hard negative, bool [B, h].
    positive: item row of each row's positive, [B].

    >>> hard_slots(torch.tensor([[7, 8]]), torch.tensor([[True, False]]), torch.tensor([5])).ids
    tensor([[7, 5]])
    """
    row = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    ids = torch.where(filled, ids, positive.unsqueeze(1))
    source = torch.where(filled, -1, row)
    return Negatives(ids, torch.zeros(ids.shape, device=ids.device), source, distinct=True)


def repeats(ids: Tensor) -> Tensor:
    """Return True where the same id occurs earlier in its row; ids: [M] or [B, M].

    >>> repeats(torch.tensor([4, 2, 4, 4])).tolist()
    [False, False, True, True]
    """
    ordered, order = ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return torch.zeros_like(again).scatter(-1, order, again)


def best_slots(gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the columns of the `count` highest gaps, [B, h], and which are above -inf."""
    values, columns = gap.topk(min(count, gap.shape[1]), dim=1)
    return columns, values > float("-inf")


def random_slots(allowed: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` random allowed columns of each row, [B, h], and which are valid.

    allowed: bool [B, M].
    """
    keys = torch.rand(allowed.shape, generator=generator).to(allowed.device)
    return best_slots(keys.masked_fill(~allowed, float("-inf")), count)
