"""Draws from one list of items per user, taken from a log of shown or dropped items."""

from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard.base import HardWorld, hard_slots

UNSCORED = {
    "margin": "the log says which items these are, whatever they score",
    "ranks": "the log says which items these are, whatever they rank",
    "ceiling": "the log says which items these are, whatever they score",
}
"""Options that a log of items refuses, with the reason: it draws without regard to scores."""


class UserLists(NamedTuple):
    """One list of item rows for each user row, without duplicates."""

    lists: Ragged

    @classmethod
    def build(cls, world: HardWorld, log: str, source: str) -> "UserLists":
        """Keep the logged items that can be recommended and are not known positives.

        log: its name in world.logged.
        source: key of the recipe that names the log, for errors.
        Errors: ModelError if there is no such log, or if nothing is left of it.
        """
        if log not in world.logged:
            raise ModelError(f"hard = '{log}' needs {source}: the log it draws from")
        lists = only(world.logged[log], world.candidates)
        if world.known is not None:
            lists = without(lists, world.known)
        if len(lists.values) == 0:
            raise ModelError(
                f"hard = '{log}': {source} holds no usable row: none before the cut is of a user "
                "in training and of an item that can be recommended and is not a known positive"
            )
        return cls(lists)

    def draw(self, batch: Batch, count: int, generator: torch.Generator) -> Negatives:
        """Return up to `count` different items of each user's list, [B, count].

        Each list is read from a random position and continued at its start, so that each item of a
        list is equally likely. A shorter list is drawn whole.
        """
        start = self.lists.offsets[batch.users]
        size = self.lists.offsets[batch.users + 1] - start
        chance = torch.rand(len(size), generator=generator, dtype=torch.float64).to(size.device)
        entry = (chance * size).long().unsqueeze(1)
        step = torch.arange(count, device=size.device)
        size, start = size.unsqueeze(1), start.unsqueeze(1)
        filled = step < size  # [B, count]
        place = start + (entry + step) % size.clamp(min=1)
        ids = self.lists.values[place.clamp(max=len(self.lists.values) - 1)]
        return hard_slots(ids, filled & (ids != batch.positive.unsqueeze(1)), batch.positive)


def only(lists: Ragged, items: Tensor) -> Ragged:
    """Return the lists with only the values that are in `items`, [N]."""
    return _kept(lists, torch.isin(lists.values, items))


def without(lists: Ragged, others: Ragged) -> Ragged:
    """Return each list without the values of the list at the same position in `others`.

    >>> a = Ragged(torch.tensor([1, 2, 1]), torch.tensor([0, 2, 3]))
    >>> without(a, Ragged(torch.tensor([2]), torch.tensor([0, 1, 1]))).values
    tensor([1, 1])
    """
    values = torch.cat([lists.values, others.values])
    stride = int(values.max()) + 1 if len(values) else 1
    keys = lists.owners() * stride + lists.values  # (list, item) as one number
    return _kept(lists, ~torch.isin(keys, others.owners() * stride + others.values))


def _kept(lists: Ragged, mask: Tensor) -> Ragged:
    sizes = torch.zeros_like(lists.lengths).index_add_(0, lists.owners(), mask.long())
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return Ragged(lists.values[mask], offsets)
