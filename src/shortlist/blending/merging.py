"""How are several lists merged? By slots per channel, or by the sum of a term per list."""

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def slot_order(quotas: Ints, k: int) -> Ints:
    """Return the channel of each of k slots, [k], every channel evenly spread over the list.

    Slot j of a channel with q slots is at position (j + 1/2) / q of the list. At equal positions
    the channel with the larger quota comes first.

    quotas: slots of each channel in a list as long as their sum, [C]. Other lengths k are shared in
        proportion; the largest remainders are rounded up, in the order of the channels if equal.

    >>> slot_order(np.array([2, 1]), 3), slot_order(np.array([2, 1]), 6)
    (array([0, 1, 0]), array([0, 1, 0, 0, 1, 0]))
    """
    share = quotas * (k / quotas.sum())
    slots = np.floor(share + 1e-9).astype(np.int64)
    rest = np.argsort(-(share - slots), kind="stable")[: k - slots.sum()]
    slots[rest] += 1
    owner = np.repeat(np.arange(len(quotas)), slots)
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in slots if n])
    return owner[np.lexsort((-quotas[owner], place))]


@compiled
def fill_slots(  # noqa: PLR0912 - one compiled loop
    lists: Ints, lengths: Ints, slots: Ints, chosen: Ints, by: Ints, ranks: NDArray[np.int32]
) -> None:
    """Fill B lists of k slots from the lists of C channels, each item once.

    In its slot a channel gives its best item that is not in the list yet. Slots that a channel
    cannot fill go, at the end of the list, to the other channels in turn.

    Read:
    lists: item rows, best first, [C, B, n].
    lengths: number of items in each list, [C, B].
    slots: the channel of each slot, [k].

    Written:
    chosen: item rows, [B, k]; -1 past the end.
    by: the channel that gave each slot, [B, k].
    ranks: rank of the item in each channel, from 1, [B, k, C]; 0 if it is not listed.
    """
    channels, queries, width = lists.shape
    k = len(slots)
    size = 16
    while size < 2 * channels * width:
        size *= 2
    keys = np.empty(size, dtype=np.int64)
    place = np.empty(size, dtype=np.int64)
    following = np.empty(channels, dtype=np.int64)
    for query in range(queries):
        keys[:] = -1
        following[:] = 0
        filled = 0
        turn = 0
        while filled < k:
            if turn < k:
                channel = slots[turn]
            else:
                channel = (turn - k) % channels
                if channel == 0:
                    left = False
                    for other in range(channels):
                        left = left or following[other] < lengths[other, query]
                    if not left:
                        break
            turn += 1
            while following[channel] < lengths[channel, query]:
                item = lists[channel, query, following[channel]]
                following[channel] += 1
                at = (item * 0x9E3779B97F4A7C1) % size
                while keys[at] != -1 and keys[at] != item:
                    at = (at + 1) % size
                if keys[at] == item:
                    continue
                keys[at] = item
                place[at] = filled
                chosen[query, filled] = item
                by[query, filled] = channel
                filled += 1
                break
        for channel in range(channels):
            for rank in range(lengths[channel, query]):
                item = lists[channel, query, rank]
                at = (item * 0x9E3779B97F4A7C1) % size
                while keys[at] != -1 and keys[at] != item:
                    at = (at + 1) % size
                if keys[at] == item:
                    ranks[query, place[at], channel] = rank + 1


@compiled
def fuse(
    lists: Ints,
    lengths: Ints,
    gains: Floats,
    tie_keys: Ints,
    chosen: Ints,
    scores: Floats,
    by: Ints,
    ranks: NDArray[np.int32],
) -> None:
    """Merge the lists of C channels by the sum of their gains, each item once.

    Read:
    lists: item rows, best first, [C, B, n].
    lengths: number of items in each list, [C, B].
    gains: the term that each place adds to its item, [C, B, n].
    tie_keys: the smaller key comes first among equal sums, [items + 1].

    Written:
    chosen: item rows, [B, k]; -1 past the end.
    scores: the sums, [B, k].
    by: the channel with the largest term, the first of equal ones, [B, k].
    ranks: rank of the item in each channel, from 1, [B, k, C]; 0 if it is not listed.
    """
    channels, queries, width = lists.shape
    k = chosen.shape[1]
    most = channels * width
    size = 16
    while size < 2 * most:
        size *= 2
    keys = np.empty(size, dtype=np.int64)
    place = np.empty(size, dtype=np.int64)
    items = np.empty(most, dtype=np.int64)
    sums = np.empty(most, dtype=np.float64)
    largest = np.empty(most, dtype=np.float64)
    giver = np.empty(most, dtype=np.int64)
    at_rank = np.empty((most, channels), dtype=np.int32)
    for query in range(queries):
        keys[:] = -1
        count = 0
        for channel in range(channels):
            for rank in range(lengths[channel, query]):
                item = lists[channel, query, rank]
                gain = gains[channel, query, rank]
                at = (item * 0x9E3779B97F4A7C1) % size
                while keys[at] != -1 and keys[at] != item:
                    at = (at + 1) % size
                if keys[at] == -1:
                    keys[at] = item
                    place[at] = count
                    items[count] = item
                    sums[count] = 0.0
                    largest[count] = -np.inf
                    at_rank[count, :] = 0
                    count += 1
                where = place[at]
                sums[where] += gain
                at_rank[where, channel] = rank + 1
                if gain > largest[where]:
                    largest[where] = gain
                    giver[where] = channel
        kept = min(k, count)
        if kept < count:
            bound = np.partition(sums[:count], count - kept)[count - kept]
            among = np.flatnonzero(sums[:count] >= bound)
        else:
            among = np.arange(count)
        among = among[np.argsort(tie_keys[items[among]])]
        order = among[np.argsort(-sums[among], kind="mergesort")][:kept]
        for slot in range(kept):
            where = order[slot]
            chosen[query, slot] = items[where]
            scores[query, slot] = sums[where]
            by[query, slot] = giver[where]
            ranks[query, slot, :] = at_rank[where, :]
