"""In which order do the events of a log stand? By user, then time, then a rule for equal times."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.kinds import Kinds
from shortlist.data.vocabulary import hash_ids, mix

Order = NDArray[np.uint32]

Tie = Callable[[Order], Sequence[NDArray[Any]]]
"""Returns the columns that order the events at these positions, the most important one first."""


def ordered(
    user: NDArray[np.int32], time: NDArray[Any] | None, tie: Tie | None
) -> tuple[Order, NDArray[np.int32], NDArray[Any] | None]:
    """Return the positions of the events in the order of user, time and tie rule, [n].

    Events that are equal in all of these stay in the order given. Returns also `user` and `time`
    in that order.

    user: [n], numbers from 0 on.
    time: [n]; None: all times are equal.
    tie: orders the events of a user at one time; None: they stay in the order given.
    """
    order = by_user_and_time(user, time)
    sorted_user, sorted_time = user[order], None if time is None else time[order]
    if tie is None or not len(order):
        return order, sorted_user, sorted_time
    same = sorted_user[1:] == sorted_user[:-1]
    if sorted_time is not None:
        same &= sorted_time[1:] == sorted_time[:-1]
    if same.any():
        begins = np.append(True, ~same)
        tied = np.flatnonzero(~begins | np.append(same, False))
        rows = order[tied]
        group = np.cumsum(begins, dtype=np.int32)[tied]
        order[tied] = rows[by_number(group, np.lexsort([*reversed(tie(rows))]))]
    return order, sorted_user, sorted_time  # The tie rule moves only what is equal in these.


def by_user_and_time(user: NDArray[np.int32], time: NDArray[Any] | None) -> Order:
    """Return the positions of the events by user, then time; equal ones stay in order, [n].

    It costs little where the events stand by user or by time already.
    """
    later = np.ones(len(user[1:]), dtype=np.bool_) if time is None else time[1:] >= time[:-1]
    if ((user[1:] > user[:-1]) | (later & (user[1:] == user[:-1]))).all():
        return np.arange(len(user), dtype=np.uint32)
    by_time = None if time is None or later.all() else np.argsort(time, kind="stable")
    return by_number(user, by_time).astype(np.uint32)


def by_number(numbers: NDArray[np.int32], order: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Return an order of positions sorted stably by numbers from 0 on, [n].

    order: the order before; None: as they are. The lower half of the numbers is sorted first and
    then the upper half, because numpy sorts 16-bit integers by counting.
    """
    for shift in (0, 16) if numbers.max(initial=0) >= 2**16 else (0,):
        half = (numbers >> shift).astype(np.uint16)
        if order is None:
            order = np.argsort(half, kind="stable")
        else:
            order = order[np.argsort(half[order], kind="stable")]
    assert order is not None
    return order


def pair_hash(
    user_ids: pl.Series,
    item_ids: pl.Series,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    seed: int = 0,
) -> NDArray[np.uint64]:
    """Return a seeded hash of (user id, item id) for each event, [n], to order equal times."""
    with np.errstate(over="ignore"):
        keys = (hash_ids(user_ids) * np.uint64(3))[user]
        keys += hash_ids(item_ids, 1)[item]
        return mix(keys, seed)


def keys_at(
    user_ids: pl.Series,
    item_ids: pl.Series,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    rows: Order | None = None,
) -> NDArray[np.uint64]:
    """Return `pair_hash` of the events at these positions; None: of all."""
    if rows is not None:
        user, item = user[rows], item[rows]
    return pair_hash(user_ids, item_ids, user, item)


def tie_rule(
    hashes: Callable[[Order], NDArray[np.uint64]],
    kind: NDArray[np.int8] | None = None,
    kinds: Kinds | None = None,
) -> Tie:
    """Return the rule that orders the events of a user at one time by a hash.

    hashes: returns the hashes of the events at these positions.

    Targets come before other events: nobody knows which came first, and the history of a target
    must not contain an event that may have come after it.
    """

    def columns_of(rows: NDArray[np.uint32]) -> list[NDArray[Any]]:
        columns: list[NDArray[Any]] = [hashes(rows)]
        if kind is None:
            return columns
        target = None if kinds is None else kinds.target(kind[rows])
        first = [] if target is None else [~target]
        return [*first, *columns, kind[rows]]

    return columns_of
