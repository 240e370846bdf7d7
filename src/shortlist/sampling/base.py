"""What does a sampler return, and which of its slots are masked for which row?"""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import ChosenLists, Ragged, windows
from shortlist.devices import free_to_read
from shortlist.errors import ModelError
from shortlist.sampling.known import KnownSlots, known_in_own_pools


class Negatives(NamedTuple):
    """A pool of negatives: one for all rows, [M], or one for each row, [B, M].

    ids: item rows, int64, [M] or [B, M].
    log_q: log of the expected count of each id in the pool, shaped like ids; 0 where certain.
    source: batch row whose positive the slot is, or -1 for a drawn slot; shaped like ids.
    distinct: True if the pool holds each id at most once. Objective treats accidental hits in
    such a pool differently.
    """

    ids: Tensor
    log_q: Tensor
    source: Tensor
    distinct: bool

    @classmethod
    def drawn(cls, ids: Tensor, log_q: Tensor) -> "Negatives":
        """Return a pool of independent draws; no slot is a positive of the batch."""
        return cls(ids, log_q, torch.full_like(ids, -1), distinct=False)


class Exactness(NamedTuple):
    """How good a softmax with the log_q correction of a sampler is, and why.

    label: "exact": it learns the true probabilities with a pool of any size. "consistent": there
    is a bias, which vanishes as the pool grows. "not corrected": no log_q is known.
    reason: the explanation, one sentence.
    """

    label: Literal["exact", "consistent", "not corrected"]
    reason: str


class NegativeSampler(Protocol):
    """Draws negatives and knows the expected count of each item in its pools.

    The trainer calls `sample` for a batch first, and `log_q` for the same batch afterwards.

    refuses: options of `build_sampler` that it does not take, each with the reason.
    exactness: quality of its correction (docs/guide/losses.md, Negatives).
    """

    refuses: ClassVar[dict[str, str]]
    exactness: ClassVar[Exactness]

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Draw a pool for the batch, on the batch's device."""
        ...

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return the log of the expected count of item rows in this batch's pool, like ids."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A sampler or source of hard negatives that has a state; checkpoints include the state."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return its state."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        ...


@runtime_checkable
class GoesOn(Protocol):
    """A sampler that a refresh starts from the positives of the earlier training."""

    def go_on(self, counts: Tensor, earlier: Tensor, generator: torch.Generator) -> None:
        """Prepare for a training that follows an earlier one.

        counts: how often each item row is a positive in this training, [N + 1].
        earlier: the same for the earlier training, [N + 1].
        generator: source of random numbers.
        """
        ...


class Dropped(NamedTuple):
    """Masked slots of a shared pool, as n pairs of row and column; rows ascend."""

    rows: Tensor
    columns: Tensor


def matches(columns: Tensor, wanted: Ragged | ChosenLists) -> Dropped:
    """Return every pair (i, j) for which columns[j] is in list i of `wanted`.

    It sorts the columns [M] once and searches each wanted value twice: no B x M table is made.

    >>> matches(torch.tensor([7, 5, 7]), Ragged(torch.tensor([7, 9]), torch.tensor([0, 1, 2])))
    Dropped(rows=tensor([0, 0]), columns=tensor([0, 2]))
    """
    ordered, order = columns.sort(stable=True)
    first = torch.searchsorted(ordered, wanted.values)
    past = torch.searchsorted(ordered, wanted.values, right=True)
    found = windows(order, first, past - first)
    return Dropped(wanted.owners()[found.owners()], found.values)


def one_each(values: Tensor) -> Ragged:
    """Return B lists of one value each; values: [B]."""
    return Ragged(values, torch.arange(len(values) + 1, device=values.device))


def own_slots(negatives: Negatives, rows: int) -> Tensor:
    """Return True where a slot is the row's own positive (in-batch: the diagonal), [B, M]."""
    row = torch.arange(rows, device=negatives.source.device).unsqueeze(1)  # [B, 1]
    return negatives.source == row


def accidental_hits(negatives: Negatives, positive_ids: Tensor) -> Tensor:
    """Return True where a slot holds the same item as the row's positive, [B, M]."""
    return negatives.ids == positive_ids.unsqueeze(1)


def known_items(negatives: Negatives, known: Ragged | ChosenLists, positive_ids: Tensor) -> Tensor:
    """Return True where a slot holds another known positive of the row's user, [B, M].

    The row's own positive is not included: `accidental_hits` finds it. On a CPU the cost is one
    look-up for each known item, and in a shared pool for those of each different user. On a GPU it
    is one search for each known item, or for each slot if each row has its own pool.

    known: item rows of the known positives of each row's user, B lists.
    """
    if free_to_read(negatives.ids):
        if negatives.ids.dim() == 2:
            return known_in_own_pools(negatives.ids, known, positive_ids)
        masked = torch.zeros(len(positive_ids), len(negatives.ids), dtype=torch.bool)
        KnownSlots.of(negatives.ids, known, positive_ids).fill(masked, 0, True)
        return masked
    listed = _known_shared if negatives.ids.dim() == 1 else _known_own
    return listed(negatives.ids, known) & ~accidental_hits(negatives, positive_ids)


def _known_shared(ids: Tensor, known: Ragged | ChosenLists) -> Tensor:
    """Return which ids of a shared pool [M] are in each row's list, [B, M]."""
    distinct, column = torch.unique(ids, return_inverse=True)
    place = torch.searchsorted(distinct, known.values).clamp(max=len(distinct) - 1)
    found = distinct[place] == known.values
    rows = len(known.offsets) - 1
    table = torch.zeros(rows, len(distinct), dtype=torch.bool, device=ids.device)
    table[known.owners()[found], place[found]] = True
    return table[:, column]


def _known_own(ids: Tensor, known: Ragged | ChosenLists) -> Tensor:
    """Return which ids of each row's own pool [B, M] are in that row's list, [B, M]."""
    if known.values.numel() == 0:
        return torch.zeros_like(ids, dtype=torch.bool)
    stride = torch.maximum(ids.max(), known.values.max()) + 1
    keys = (known.owners() * stride + known.values).sort().values  # (row, item) as one number
    wanted = torch.arange(len(ids), device=ids.device).unsqueeze(1) * stride + ids
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return keys[place] == wanted


def frequencies(counts: Tensor) -> Tensor:
    """Return the share of the training positives of each item row, float64 [N + 1].

    counts: training positives of each item row, [N + 1], counts[0] = 0. Errors: ModelError for
    another shape, for negative or non-finite counts, and if all are 0.
    """
    if counts.dim() != 1 or len(counts) < 2 or counts[0] != 0:
        raise ModelError(
            "counts must hold one number an item row, [N + 1], with counts[0] = 0 for the "
            f"unknown item, got shape {list(counts.shape)}"
        )
    weights = counts.double()
    if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise ModelError("counts must be finite and >= 0, and not all 0")
    return weights / weights.sum()


def log_expected(frequency: Tensor, ids: Tensor, draws: int) -> Tensor:
    """Return the log of the expected count of item rows among `draws` draws, float32, like ids.

    It is computed in float64 and without a lower bound on Q, which would distort the correction of
    rare items.

    frequency: probability of each row at one draw, [N + 1].
    """
    chance = frequency.to(ids.device)[ids]
    # On a GPU this is not checked: the loss becomes infinite, which also ends the training.
    if free_to_read(chance) and (chance == 0).any():
        rows = torch.unique(ids[chance == 0])[:5].tolist()
        raise ModelError(
            f"item rows {rows} have no training count, so the sampler cannot tell how often it "
            "draws them: build it from the counts of the data it is used on"
        )
    return (chance * draws).log().float()


def check_negatives(negatives: int) -> None:
    """Refuse a number of negatives below 1."""
    if negatives < 1:
        raise ModelError(f"negatives must be >= 1, got {negatives}")


def pool_shape(batch: Batch, negatives: int, shared: bool) -> tuple[int, ...]:
    """Return the shape of a pool: [M] if shared, else [B, M]."""
    return (negatives,) if shared else (len(batch.positive), negatives)
