"""Which items do pairs of users share who share few other items? Swing (Yang et al. 2020)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.data.vocabulary import mix
from shortlist.linear.neighbours import Found, Neighbours, Pairs
from shortlist.linear.ranking import TieRanks, best_first, best_of_lists

ROOM = 1 << 22
"""Similarities held before the nearest neighbours of each item are selected from them."""


def swing(
    pairs: Pairs,
    tie_keys: NDArray[np.int64],
    user_keys: NDArray[np.int64],
    items: int,
    neighbours: int,
    *,
    alpha: float = 1.0,
    users: int = 200,
    seed: int = 0,
    rows: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Return the nearest items of each item, as `neighbours.nearest` does.

    s_ij = Σ over pairs {u, v} of users of both items of w_u w_v / (alpha + |I_u & I_v|), with
    w_u = 1 / sqrt(|I_u|). With kinds of events I_u has all items of u, and j must be a target of
    both users.

    user_keys: [users], a fixed hash of each user row.
    users: at most so many users of i are compared, those with the smallest seeded hash of (user
    key, tie key of the item), whatever the order of the log. Where users are left out, s is not
    quite symmetric.
    Time: for each item its compared users squared, times the length of their lists.
    """
    start, user = _sample(pairs, tie_keys, user_keys, items, users, seed)
    weight = 1 / np.sqrt(np.maximum(pairs.items_of_users(), 1))
    ties = TieRanks.of(tie_keys[: items + 1])
    neighbours = min(neighbours, max(items, 1))
    found = Found(items + 1 if rows is None else len(rows))
    wanted = np.arange(1, items + 1) if rows is None else np.asarray(rows, dtype=np.int64)
    number = wanted if rows is None else np.arange(len(rows))
    room = max(ROOM, items + 1)
    near, value = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    while len(wanted):
        ends = np.zeros(len(wanted) + 1, dtype=np.int64)
        done = _swing(
            *(wanted, start, user, pairs.start, pairs.item),
            np.empty(0, dtype=np.bool_) if pairs.target is None else pairs.target,
            *(weight, float(alpha), near, value, ends),
        )
        block, number, wanted = number[:done], number[done:], wanted[done:]
        keys = best_of_lists(ends[: done + 1], near, value, None, ties, neighbours)
        best = np.zeros(keys.shape, dtype=np.int32), np.zeros(keys.shape, dtype=np.float32)
        best_first(keys, ties, *best)
        found.add(block, *best)
    return found.neighbours()


def _sample(
    pairs: Pairs,
    tie_keys: NDArray[np.int64],
    user_keys: NDArray[np.int64],
    items: int,
    users: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the users to compare for each item, ascending: starts [items + 2], users [total]."""
    user, item = pairs.user, pairs.item
    several = pairs.items_of_users()[user] > 1  # a user with one item connects it to nothing
    user, item = user[several], item[several].astype(np.int64)
    many = np.bincount(item, minlength=items + 1) > users
    with np.errstate(over="ignore"):
        draw = mix(user_keys[user].view(np.uint64) + mix(tie_keys[item].view(np.uint64)), seed)
    order = np.lexsort((draw, item))
    counts = np.bincount(item, minlength=items + 1)
    begin = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(len(order)) - begin[item[order]]
    kept = np.sort(order[~many[item[order]] | (place < users)])
    kept = kept[np.argsort(item[kept], kind="stable")]
    start = np.concatenate([[0], np.cumsum(np.bincount(item[kept], minlength=items + 1))])
    return start, user[kept]


@compiled
def _swing(  # noqa: PLR0912
    wanted: Any,
    start: Any,
    user: Any,
    user_start: Any,
    user_item: Any,
    target: Any,
    weight: Any,
    alpha: float,
    near: Any,
    value: Any,
    ends: Any,
) -> int:
    """Write the similarities of as many wanted items as surely fit; return how many."""
    items = len(start) - 2
    total = np.zeros(items + 1, dtype=np.float64)
    mark = np.full(items + 1, -1, dtype=np.int64)
    some = len(target) > 0
    aimed = np.full(items + 1 if some else 1, -1, dtype=np.int64)
    touched = np.zeros(items + 1, dtype=np.bool_)
    used, step = 0, 0
    for at in range(len(wanted)):
        if used + items + 1 > len(near):
            return at
        i = wanted[at]
        first = used
        for a in range(start[i], start[i + 1]):
            u = user[a]
            step += 1
            for e in range(user_start[u], user_start[u + 1]):
                mark[user_item[e]] = step
                if some and target[e]:
                    aimed[user_item[e]] = step
            for b in range(a + 1, start[i + 1]):
                v = user[b]
                common = 0
                for e in range(user_start[v], user_start[v + 1]):
                    common += mark[user_item[e]] == step
                if common < 2:
                    continue
                gain = weight[u] * weight[v] / (alpha + common)
                for e in range(user_start[v], user_start[v + 1]):
                    j = user_item[e]
                    if some and not (target[e] and aimed[j] == step):
                        continue
                    if mark[j] == step and j != i:
                        total[j] += gain
                        if not touched[j]:
                            touched[j] = True
                            near[used] = j
                            used += 1
        for place in range(first, used):
            j = near[place]
            value[place] = total[j]
            total[j] = 0
            touched[j] = False
        ends[at + 1] = used
    return len(wanted)
