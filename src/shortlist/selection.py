"""Which candidates of many are best? One integer each, so that one comparison decides."""

from typing import Any

import numpy as np

from shortlist.compiled import compiled

NOTHING = -(2**63)
"""The key of no candidate, behind all others."""


@compiled
def key_of(score: Any, rank: Any) -> Any:
    """One int64 for a float32 score, not NaN, and a rank from 0 to 2^32 - 1.

    The better score has the greater key, among equal scores the greater rank.
    """
    order = np.int64(np.float32(score + np.float32(0)).view(np.int32))  # -0 is 0
    if order < 0:
        order ^= 0x7FFFFFFF  # negative floats grow downward as integers
    return (order << 32) | np.int64(rank)


@compiled
def score_of(key: Any) -> Any:
    """The float32 score in a key."""
    order = key >> 32
    if order < 0:
        order ^= 0x7FFFFFFF
    return np.int32(order).view(np.float32)


@compiled
def best_to_front(keys: Any, count: int, best: int) -> None:
    """Move the `best` greatest of the first `count` keys to the front, in any order (Hoare 1961).

    The smallest of them is then at keys[best - 1]. Needs 1 <= best; count <= best does nothing.
    """
    low, high = 0, count - 1
    while low < high and best < count:
        pivot = keys[(low + high) // 2]
        up, down = low, high
        while up <= down:
            while keys[up] > pivot:
                up += 1
            while keys[down] < pivot:
                down -= 1
            if up <= down:
                keys[up], keys[down] = keys[down], keys[up]
                up += 1
                down -= 1
        if best - 1 <= down:
            high = down
        elif best - 1 >= up:
            low = up
        else:
            break


@compiled
def empty_held(best: int) -> Any:
    """Make the room, int64, in which `hold` keeps the greatest `best` keys of any number."""
    return np.empty(2 * best + 64, dtype=np.int64)


@compiled
def hold(held: Any, count: int, floor: Any, best: int, key: Any) -> Any:
    """Hold a key if it may be among the `best` greatest; return the new count and floor.

    held: `room_for(best)`, of which the first `count` are in use. floor: no key up to it is among
    the best; NOTHING at first. When the room is full, the best are kept and the floor rises.
    """
    if key <= floor:
        return count, floor
    held[count] = key
    count += 1
    if count < len(held):
        return count, floor
    best_to_front(held, count, best)
    return best, held[best - 1]


@compiled
def write_best(held: Any, count: int, keys: Any) -> None:
    """Write the greatest of the `count` held keys into keys [N], in any order, then NOTHING."""
    kept = min(count, len(keys))
    if kept > 0:
        best_to_front(held, count, kept)
    keys[:kept] = held[:kept]
    keys[kept:] = NOTHING
