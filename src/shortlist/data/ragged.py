"""Lists of different lengths as two flat tensors (CSR): histories, seen items, features."""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """B lists in two tensors: list i is `values[offsets[i]:offsets[i + 1]]`.

    values: [total], any dtype.
    offsets: [B + 1] int64, with offsets[0] = 0.
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """The length of each list, [B] int64."""
        return self.offsets.diff()

    def owners(self) -> Tensor:
        """Return the number of the list that each value belongs to, [total] int64."""
        total = self.values.shape[0]
        return torch.repeat_interleave(self.lengths, output_size=total)

    def to(self, device: torch.device | str) -> "Ragged":
        """Return the same lists on another device."""
        return Ragged(self.values.to(device), self.offsets.to(device))


@dataclass(frozen=True, eq=False)
class ChosenLists:
    """B of the lists of a collection, which are not copied before their values are read.

    It is read like the `Ragged` of these lists, `gathered`. Lists that are chosen several times
    can be read once, from `lists`.

    lists: the collection, values of any integer dtype.
    which: the number of each list in the collection, [B] int64.
    """

    lists: Ragged
    which: Tensor

    @cached_property
    def gathered(self) -> Ragged:
        """The chosen lists, with int64 values."""
        lists = taken(self.lists, self.which)
        return Ragged(lists.values.long(), lists.offsets)

    @property
    def values(self) -> Tensor:
        """The values of the chosen lists, [total] int64."""
        return self.gathered.values

    @property
    def offsets(self) -> Tensor:
        """Where each chosen list begins in `values`, and the end of the last one, [B + 1]."""
        return self.gathered.offsets

    @property
    def lengths(self) -> Tensor:
        """The length of each chosen list, [B] int64."""
        return self.gathered.lengths

    def owners(self) -> Tensor:
        """Return the number of the chosen list that each value belongs to, [total] int64."""
        return self.gathered.owners()

    def to(self, device: torch.device | str) -> "Ragged | ChosenLists":
        """Return the lists on a device; only the chosen ones are moved to another device."""
        if self.which.device == torch.device(device):
            return self
        return self.gathered.to(device)


def windows(values: Tensor, start: Tensor, length: Tensor) -> Ragged:
    """Gather the lists `values[start[i]:start[i] + length[i]]`, without a loop.

    values: [N].
    start, length: [B] int64.

    >>> windows(torch.tensor([5, 6, 7, 8]), torch.tensor([1, 0]), torch.tensor([2, 1]))
    Ragged(values=tensor([6, 7, 5]), offsets=tensor([0, 2, 3]))
    """
    offsets = torch.zeros(len(start) + 1, dtype=torch.int64, device=start.device)
    if len(start) == 1:  # a single query of a service: a view is faster than the calls below
        begin, total = int(start), int(length)
        offsets[1] = total
        return Ragged(values[begin : begin + total], offsets)
    torch.cumsum(length, 0, out=offsets[1:])
    total = int(offsets[-1])
    shift = torch.repeat_interleave(start - offsets[:-1], length, output_size=total)
    return Ragged(values[torch.arange(total, device=start.device) + shift], offsets)


def taken(lists: Ragged, which: Tensor) -> Ragged:
    """Return the lists with these numbers, in this order. which: [n] int64."""
    return windows(lists.values, lists.offsets[which], lists.lengths[which])


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Return each list of `first`, followed by the same list of `second`.

    >>> one, two = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])
    >>> joined(Ragged(torch.tensor([5]), one), Ragged(torch.tensor([6, 7]), two)).values
    tensor([5, 6, 7])
    """
    if len(first.offsets) == 2:  # a single query of a service: faster than the calls below
        return Ragged(torch.cat([first.values, second.values]), first.offsets + second.offsets)
    values = first.values.new_empty(len(first.values) + len(second.values))
    for lists, before in ((first, second.offsets[:-1]), (second, first.offsets[1:])):
        places = torch.arange(len(lists.values)) + before[lists.owners()]
        values[places] = lists.values
    return Ragged(values, first.offsets + second.offsets)


def like_lengths(lengths: Tensor, positions: int) -> list[Tensor]:
    """Group lists of similar length; return the numbers of the lists in each group.

    Longer groups come first. A group, padded to its longest list, has at most `positions` positions
    or a single list.

    lengths: [n].

    >>> like_lengths(torch.tensor([2, 9, 3, 8]), positions=18)
    [tensor([1, 3]), tensor([2, 0])]
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].clamp(min=1).tolist()
    bounds = [0]
    while bounds[-1] < len(sizes):
        bounds.append(min(bounds[-1] + max(1, positions // sizes[bounds[-1]]), len(sizes)))
    return [order[begin:end] for begin, end in itertools.pairwise(bounds)]


def keep(lists: Ragged, mask: Tensor) -> Ragged:
    """Return the lists with only the values where `mask` [total] is true."""
    if mask.all():
        return lists
    kept = torch.zeros(len(lists.offsets) - 1, dtype=torch.int64)
    kept.index_add_(0, lists.owners(), mask.long())
    return Ragged(lists.values[mask], torch.cat([kept.new_zeros(1), kept.cumsum(0)]))
