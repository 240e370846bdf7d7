"""Which candidates are best? Each has one integer key of score and tie-break, to compare once."""

from typing import Any

import numpy as np

from shortlist.compiled import compiled

NOTHING = -(2**63)
"""The key of an empty slot, below all others."""


@compiled
def key_of(score: Any, rank: Any) -> Any:
    """Return an int64 key of a float32 score (not NaN) and a rank from 0 to 2^32 - 1.

    The larger score has the larger key; among equal scores the larger rank has.
    """
    order = np.int64(np.float32(score + np.float32(0)).view(np.int32))  # -0 is 0
    if order < 0:
        order ^= 0x7FFFFFFF  # the bits of negative floats sort in reverse order
    return (order << 32) | np.int64(rank)


@compiled
def score_of(key: Any) -> Any:
    """Return the float32 score of a key."""
    order = key >> 32
    if order < 0:
        order ^= 0x7FFFFFFF
    return np.int32(order).view(np.float32)


@compiled
def best_to_front(keys: Any, count: int, best: int) -> None:
    """Move the `best` largest of the first `count` keys to the front, in any order (Hoare 1961).

    The smallest of them is then keys[best - 1]. best must be at least 1; with count <= best nothing
    is done.
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
    """Allocate the int64 buffer in which `hold` collects the `best` largest keys."""
    return np.empty(2 * best + 64, dtype=np.int64)


@compiled
def hold(held: Any, count: int, floor: Any, best: int, key: Any) -> Any:
    """Add a key to the buffer if it can be among the `best` largest; return new count and floor.

    When the buffer is full, only the `best` largest stay and the floor rises.

    held: the buffer from `empty_held(best)`; its first `count` keys are in use.
    floor: keys up to it are not among the best; NOTHING at first.
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
    """Write the largest of the `count` held keys to keys [N], in any order, padded with NOTHING."""
    kept = min(count, len(keys))
    if kept > 0:
        best_to_front(held, count, kept)
    keys[:kept] = held[:kept]
    keys[kept:] = NOTHING
