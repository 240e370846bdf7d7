"""Which slots of a pool hold items that the row's user knows? Looked up in compiled loops."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.compiled import compiled
from shortlist.data.ragged import ChosenLists, Ragged

SCANNED = 4
"""A pool is scanned for each user with more events than its number of slots divided by this."""

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class KnownSlots:
    """The slots of one pool for all rows that hold other known items of each row's user, on a CPU.

    They are listed once for each user, however many rows the user has in the batch. A row's own
    positive is not one of them.

    columns: the slots of each user, one user after the other, [total] int32.
    bounds: where the slots of each user begin in `columns`, and the end, [U + 1] int64.
    user: the number of each row's user in `bounds`, [B] int64.
    ids: the item of each slot, [M] int64.
    positive: the item of each row's positive, [B] int64.
    """

    columns: Int32s
    bounds: Int64s
    user: Int64s
    ids: Int64s
    positive: Int64s

    @classmethod
    def of(cls, ids: Tensor, known: Ragged | ChosenLists, positive: Tensor) -> Self:
        """List the slots; the cost is one look-up for each known item of each different user.

        ids: [M] int64.
        known: item rows of the known positives of each row's user, B lists.
        positive: [B] int64.
        """
        values, offsets, which = _read(known)
        items, met = ids.numpy(), np.zeros(len(offsets), np.int32)
        columns, bounds, user = _listed(items, _table(ids), values, offsets, which, met)
        return cls(columns, bounds, user, items, positive.numpy())

    def fill(self, block: Tensor, begin: int, value: float) -> None:
        """Set these slots of some rows to a value, in place.

        block: the rows from `begin` on, [r, M] contiguous without gradient.
        """
        rows = slice(begin, begin + len(block))
        own = self.positive[rows]
        _fill(block.numpy(), self.columns, self.bounds, self.user[rows], self.ids, own, value)


def known_in_own_pools(ids: Tensor, known: Ragged | ChosenLists, positive: Tensor) -> Tensor:
    """Return True where a slot of a row's own pool holds another known item of its user, [B, M].

    ids: [B, M] int64 on the CPU. known and positive are as in `KnownSlots.of`.
    """
    values, offsets, which = _read(known)
    found = torch.zeros(ids.shape, dtype=torch.bool)
    own = positive.numpy()
    _mark(ids.contiguous().numpy(), _table(ids), values, offsets, which, own, found.numpy())
    return found


def _table(ids: Tensor) -> Int32s:
    """Return an empty table from item to group. Only the pages that are used cost time."""
    return np.zeros(int(ids.max()) + 2 if ids.numel() else 1, np.int32)


def _read(known: Ragged | ChosenLists) -> tuple[NDArray[Any], Int64s, Int64s]:
    """Return the values and offsets of the lists that are known, and the number of each row's."""
    if isinstance(known, ChosenLists):
        return known.lists.values.numpy(), known.lists.offsets.numpy(), known.which.numpy()
    offsets = known.offsets.numpy()
    return known.values.numpy(), offsets, np.arange(len(offsets) - 1)


@compiled
def _grouped(ids: Int64s, table: Int32s) -> tuple[Int32s, Int32s, Int32s]:
    """Group the slots of a pool by item.

    Returns the group of each slot, [M]; the slots by group, [M]; and where each group begins in
    them. Groups are numbered from 1. Group 0 has no slot: it stands for all items outside the pool.

    table: the group of each item, written; 0 before. It is longer than the largest id by a cell,
    which stays 0.
    """
    group, order = np.empty(len(ids), np.int32), np.empty(len(ids), np.int32)
    begin = np.zeros(len(ids) + 3, np.int32)
    groups = 0
    for slot in range(len(ids)):
        if table[ids[slot]] == 0:
            groups += 1
            table[ids[slot]] = groups
        group[slot] = table[ids[slot]]
        begin[group[slot] + 2] += 1
    for number in range(groups + 2):
        begin[number + 1] += begin[number]
    for slot in range(len(ids)):
        order[begin[group[slot] + 1]] = slot
        begin[group[slot] + 1] += 1
    return group, order, begin[: groups + 2]


@compiled
def _listed(
    ids: Int64s,
    table: Int32s,
    values: NDArray[Any],
    offsets: Int64s,
    which: Int64s,
    met: Int32s,
) -> tuple[Int32s, Int64s, Int64s]:
    """Return the slots that hold an item of each different list, as in `KnownSlots`.

    Returns the slots, where those of each list begin, and the number of each row's list in these.

    table: as for `_grouped`.
    which: the list of each row, [B].
    met: 0 for each list, [lists + 1]; written.
    """
    lists, user = np.empty(len(which), np.int64), np.empty(len(which), np.int64)
    different = events = 0
    for row in range(len(which)):
        if met[which[row]] == 0:
            lists[different] = which[row]
            events += offsets[which[row] + 1] - offsets[which[row]]
            different += 1
            met[which[row]] = different
        user[row] = met[which[row]] - 1
    group, order, begin = _grouped(ids, table)
    last, slots = len(table) - 1, len(ids)
    found = np.empty(len(begin) + 1, np.int32)  # the groups of one list
    latest = np.full(len(begin), -1, np.int32)  # the last list in which a group was found
    there = np.empty(len(begin), np.bool_)  # whether a group is in the list
    bounds = np.zeros(different + 1, np.int64)
    columns = np.empty(2 * slots + events, np.int32)
    total = 0
    for number in range(different):
        if total + slots >= len(columns):  # a scan writes one slot too many
            longer = np.empty(2 * len(columns), np.int32)
            longer[:total] = columns[:total]
            columns = longer
        first, end = offsets[lists[number]], offsets[lists[number] + 1]
        # Which items are in the pool cannot be predicted, so the loops over them have no branch.
        if SCANNED * (end - first) > slots:
            there[:] = False
            for place in range(first, end):
                there[table[min(values[place], last)]] = True
            for slot in range(slots):
                columns[total] = slot
                total += there[group[slot]]
        else:
            count = 0
            latest[0] = number
            for place in range(first, end):
                item_group = table[min(values[place], last)]
                found[count] = item_group
                count += latest[item_group] != number  # a log can repeat an item
                latest[item_group] = number
            for item_group in found[:count]:
                for place in range(begin[item_group], begin[item_group + 1]):
                    columns[total] = order[place]
                    total += 1
        bounds[number + 1] = total
    return columns[:total], bounds, user


@compiled
def _fill(
    block: NDArray[Any],
    columns: Int32s,
    bounds: Int64s,
    user: Int64s,
    ids: Int64s,
    own: Int64s,
    value: float,
) -> None:
    """Set the slots of each row's user to a value, apart from those with the row's own item."""
    for row in range(len(block)):
        for place in range(bounds[user[row]], bounds[user[row] + 1]):
            slot = columns[place]
            if ids[slot] != own[row]:
                block[row, slot] = value


@compiled
def _mark(
    ids: Int64s,
    table: Int32s,
    values: NDArray[Any],
    offsets: Int64s,
    which: Int64s,
    own: Int64s,
    known: NDArray[np.bool_],
) -> None:
    """Set `known` where a slot of a row's own pool [B, M] holds an item of the row's list."""
    last = len(table) - 1
    for row in range(len(ids)):
        _, order, begin = _grouped(ids[row], table)
        for place in range(offsets[which[row]], offsets[which[row] + 1]):
            group = table[min(values[place], last)]
            if group and values[place] != own[row]:
                known[row, order[begin[group] : begin[group + 1]]] = True
        for slot in range(ids.shape[1]):
            table[ids[row, slot]] = 0
