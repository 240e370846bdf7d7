"""What a sampler returns, and the masks that say which of its slots count for which row."""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged, windows
from shortlist.devices import free_to_read
from shortlist.errors import ModelError


class Negatives(NamedTuple):
    """A pool of item rows to score against: shared by all rows [M], or each row's own [B, M].

    ids: item rows, int64, [M] or [B, M].
    log_q: log of the expected count of each id in the pool; 0 where it is certain. Like ids.
    source: the batch row whose positive a slot is, -1 if it was drawn. Like ids.
    distinct: the pool holds an id at most once (Objective says what follows for hits).
    """

    ids: Tensor
    log_q: Tensor
    source: Tensor
    distinct: bool

    @classmethod
    def drawn(cls, ids: Tensor, log_q: Tensor) -> "Negatives":
        """A pool of independent draws, none of which is a row of the batch."""
        return cls(ids, log_q, torch.full_like(ids, -1), distinct=False)


class Exactness(NamedTuple):
    """What a softmax corrected by a sampler's log_q learns, and why.

    exact: the true probabilities, from a pool of any size. consistent: them plus a bias that
    vanishes as the pool grows. not corrected: there is no log_q that would do.
    """

    label: Literal["exact", "consistent", "not corrected"]
    reason: str


class NegativeSampler(Protocol):
    """Draws negatives, and knows how often it draws what.

    A trainer asks `log_q` about a batch after `sample` has drawn for it.
    refuses: options of `build_sampler` that it cannot use, each with the reason.
    exactness: what its correction is worth (docs/guide/losses.md, Negatives).
    """

    refuses: ClassVar[dict[str, str]]
    exactness: ClassVar[Exactness]

    def sample(self, batch: Batch, generator: torch.Generator) -> Negatives:
        """Draw a pool for the batch, on the batch's device."""
        ...

    def log_q(self, ids: Tensor, batch: Batch) -> Tensor:
        """Log of the expected count of any item rows (any shape) in the pool for this batch."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A sampler, or source of hard negatives, whose draws depend on what came before.

    What it remembers is part of a checkpoint.
    """

    def state_dict(self) -> dict[str, Tensor]:
        """Return what it remembers."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        ...


@runtime_checkable
class GoesOn(Protocol):
    """A sampler that has learned from the positives it met, and does not begin with nothing."""

    def go_on(self, counts: Tensor, earlier: Tensor, generator: torch.Generator) -> None:
        """Go on in a training on some positives, after one on others.

        counts, earlier: how often each item row is a positive here, and was one before, [N + 1].
        """
        ...


class Dropped(NamedTuple):
    """Slots of a shared pool that do not count: pairs of row and column, rows ascending, [n]."""

    rows: Tensor
    columns: Tensor


def matches(columns: Tensor, wanted: Ragged) -> Dropped:
    """Return every (row i, column j) whose columns[j] stands in list i of `wanted`.

    One sort of the columns [M] and two searches for each wanted value; never rows times columns.

    >>> matches(torch.tensor([7, 5, 7]), Ragged(torch.tensor([7, 9]), torch.tensor([0, 1, 2])))
    Dropped(rows=tensor([0, 0]), columns=tensor([0, 2]))
    """
    ordered, order = columns.sort(stable=True)
    first = torch.searchsorted(ordered, wanted.values)
    past = torch.searchsorted(ordered, wanted.values, right=True)
    found = windows(order, first, past - first)
    return Dropped(wanted.owners()[found.owners()], found.values)


def one_each(values: Tensor) -> Ragged:
    """B lists of one value each, [B]."""
    return Ragged(values, torch.arange(len(values) + 1, device=values.device))


def own_slots(negatives: Negatives, rows: int) -> Tensor:
    """True where a slot is the row's own positive (the diagonal of an in-batch pool), [B, M]."""
    row = torch.arange(rows, device=negatives.source.device).unsqueeze(1)  # [B, 1]
    return negatives.source == row


def accidental_hits(negatives: Negatives, positive_ids: Tensor) -> Tensor:
    """True where a slot holds the same item as the row's positive, [B, M]."""
    return negatives.ids == positive_ids.unsqueeze(1)


def known_items(negatives: Negatives, known: Ragged, positive_ids: Tensor) -> Tensor:
    """True where a slot holds another known positive of the row's user, [B, M].

    known: the item rows each row's user is known to like. The row's own positive is left to
    `hits`. Costs one search for each known item (or slot, where each row has its own pool), never
    pool times history.
    """
    listed = _known_shared if negatives.ids.dim() == 1 else _known_own
    return listed(negatives.ids, known) & ~accidental_hits(negatives, positive_ids)


def _known_shared(ids: Tensor, known: Ragged) -> Tensor:
    """Membership of one pool [M] in each row's list, [B, M]."""
    distinct, column = torch.unique(ids, return_inverse=True)
    place = torch.searchsorted(distinct, known.values).clamp(max=len(distinct) - 1)
    found = distinct[place] == known.values
    rows = len(known.offsets) - 1
    table = torch.zeros(rows, len(distinct), dtype=torch.bool, device=ids.device)
    table[known.owners()[found], place[found]] = True
    return table[:, column]


def _known_own(ids: Tensor, known: Ragged) -> Tensor:
    """Membership of each row's own pool [B, M] in that row's list, [B, M]."""
    if known.values.numel() == 0:
        return torch.zeros_like(ids, dtype=torch.bool)
    stride = torch.maximum(ids.max(), known.values.max()) + 1
    keys = (known.owners() * stride + known.values).sort().values  # (row, item) as one number
    wanted = torch.arange(len(ids), device=ids.device).unsqueeze(1) * stride + ids
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return keys[place] == wanted


def frequencies(counts: Tensor) -> Tensor:
    """Share of the training stream of each item row, float64 [N + 1]; row 0 has none.

    counts: how often each item row is a positive in training, [N + 1], counts[0] = 0.
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
    """Log of the expected count of item rows `ids` among that many draws, float32, like ids.

    frequency: [N + 1], the chance of each row at one draw. Computed in float64, with no floor:
    flooring Q would flatten the correction of rare items.
    """
    chance = frequency.to(ids.device)[ids]
    # Elsewhere the loss is then infinite, which ends the training as well.
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
    """The shape of a pool: [M] shared, [B, M] own."""
    return (negatives,) if shared else (len(batch.positive), negatives)
