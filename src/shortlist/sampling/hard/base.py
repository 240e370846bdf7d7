"""What a source of hard negatives returns, and the two ways to be one."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.sampling.base import Negatives


class HardWorld(NamedTuple):
    """What sources are built from. Nothing of it comes from after the cut.

    candidates: the item rows that can be recommended, ascending, [N] int64.
    logged: lists of item rows by user row, by the name of the log.
    known: each user's training positives by user row; None where hard negatives may be among them.
    """

    candidates: Tensor
    similarity: str
    logged: Mapping[str, Ragged]
    known: Ragged | None


@runtime_checkable
class PoolChoice(Protocol):
    """Picks hard negatives out of the easy pool, by score: nothing more is encoded.

    refuses: options of `build_hard` that it cannot use, each with the reason.
    alone: why it must not be the only source of negatives.
    """

    refuses: ClassVar[dict[str, str]]
    alone: ClassVar[str]

    def choose(self, gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return columns of the pool, [B, h], and which of them hold a choice, [B, h] bool.

        gap: score of each slot less the positive's, [B, M]; -inf where it must not be chosen.
        """
        ...


class HardSource(Protocol):
    """Brings hard negatives from outside the pool: the catalogue, or a log.

    refuses, alone: as for PoolChoice.
    """

    refuses: ClassVar[dict[str, str]]
    alone: ClassVar[str]

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """An epoch begins. encode: item rows [N] -> their vectors as they are now, [N, D]."""
        ...

    def draw(
        self, batch: Batch, queries: Tensor, count: int, generator: torch.Generator
    ) -> Negatives:
        """Return at most `count` negatives for each row, [B, count]; see `hard_slots`.

        queries: [B, D] or [B, K, D], without gradient. batch.known: what to keep out, if given.
        """
        ...


def hard_slots(ids: Tensor, filled: Tensor, positive: Tensor) -> Negatives:
    """Return each row's own hard negatives, [B, h]. They have no known Q: log_q is 0.

    ids: item rows [B, h]; filled: bool [B, h]. A slot for which there is no hard negative holds
    the row's own positive and says so in `source`: such a slot counts for no loss.

    >>> hard_slots(torch.tensor([[7, 8]]), torch.tensor([[True, False]]), torch.tensor([5])).ids
    tensor([[7, 5]])
    """
    row = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    ids = torch.where(filled, ids, positive.unsqueeze(1))
    source = torch.where(filled, -1, row)
    return Negatives(ids, torch.zeros(ids.shape, device=ids.device), source, distinct=True)


def repeats(ids: Tensor) -> Tensor:
    """True where the same id stands at an earlier place of its row, like ids: [M] or [B, M].

    >>> repeats(torch.tensor([4, 2, 4, 4])).tolist()
    [False, False, True, True]
    """
    ordered, order = ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return torch.zeros_like(again).scatter(-1, order, again)


def best_slots(gap: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the columns of the `count` highest gaps of each row, and which are above -inf."""
    values, columns = gap.topk(min(count, gap.shape[1]), dim=1)
    return columns, values > float("-inf")


def random_slots(allowed: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` random columns of each row among the allowed, [B, h], and which are such."""
    keys = torch.rand(allowed.shape, generator=generator).to(allowed.device)
    return best_slots(keys.masked_fill(~allowed, float("-inf")), count)
