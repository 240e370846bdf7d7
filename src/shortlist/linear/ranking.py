"""How do compiled loops keep the best candidates by score and tie key? As one integer each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.selection import NOTHING, empty_held, hold, key_of, score_of, write_best


@dataclass(frozen=True)
class TieRanks:
    """The order of rows by tie key, with row 0 first.

    rank: [rows + 1] int32, the rank of each row.
    row: [rows + 1] int64, the row at each rank.

    A candidate's key is `selection.key_of` of its float32 score and `rows - rank`. The greater key
    is better, and no two keys are equal.
    """

    rank: NDArray[np.int32]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, tie_keys: NDArray[np.int64]) -> "TieRanks":
        """Rank rows by their tie keys [rows + 1], smaller first; row 0 keeps rank 0."""
        row = np.concatenate([[0], 1 + np.argsort(tie_keys[1:], kind="stable")])
        rank = np.empty(len(row), dtype=np.int32)
        rank[row] = np.arange(len(row))
        return cls(rank, row)


def best_first(
    keys: NDArray[np.int64], ties: TieRanks, rows: NDArray[Any], scores: NDArray[np.float32]
) -> None:
    """Sort keys [B, N] in place, and write their rows and scores [B, N] where there is a key."""
    keys.sort(axis=1)  # numpy sorts integers many times faster than a compiled loop here
    _decode(keys, ties.row, rows, scores)


@compiled
def _decode(keys: Any, row_of_rank: Any, rows: Any, scores: Any) -> None:
    """Write the rows and scores of ascending keys, best first."""
    last, width = len(row_of_rank) - 1, keys.shape[1]
    for at in range(len(keys)):
        for place in range(width):
            key = keys[at, width - 1 - place]
            if key == NOTHING:
                break
            rows[at, place] = row_of_rank[last - (key & 0xFFFFFFFF)]
            scores[at, place] = score_of(key)


def best_of_lists(
    start: NDArray[np.int64],
    row: NDArray[Any],
    score: NDArray[np.float32],
    banned: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    ties: TieRanks,
    k: int,
    allow: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the keys [B, k] of the k best candidates of each list, in any order, then NOTHING.

    List i is row[start[i]:start[i + 1]], distinct rows with their scores.
    banned: (rows, offsets [B + 1]), rows that list i must not return; unknown rows are ignored.
    allow: bool [rows + 1 or more], the rows that any list may return; None: all.
    """
    lists = len(start) - 1
    rows, offsets = banned or (np.empty(0, np.int64), np.zeros(lists + 1, np.int64))
    keys = np.empty((lists, k), dtype=np.int64)
    room = room_for(int(np.diff(offsets).max(initial=0)), len(ties.rank) - 1)
    allowed = np.empty(0, np.bool_) if allow is None else allow
    start = start.astype(np.int64)
    _best_of_lists(start, row, score, rows, offsets, allowed, ties.rank, room, keys)
    return keys


def room_for(rows: int, items: int) -> int:
    """Return the number of slots that `slot_of` needs for `rows` rows: a power of two.

    At least half of the slots stay free; with one slot for each of `items`, no row collides.
    """
    return 1 << max(min(2 * rows, items), 1).bit_length()


@compiled
def slot_of(held: Any, row: Any) -> Any:
    """Return the slot of a row >= 1 in a table of rows, or the free slot for it.

    held: the rows in the table, 0 where free. Its length is a power of two, and it must have a free
    slot (open addressing, Knuth 1973).
    """
    mask = np.int64(len(held) - 1)
    at = np.int64(row) & mask
    while held[at] != 0 and held[at] != row:
        at = (at + 1) & mask
    return at


@compiled
def _best_of_lists(
    start: Any,
    row: Any,
    score: Any,
    banned: Any,
    banned_start: Any,
    allow: Any,
    rank: Any,
    room: int,
    keys: Any,
) -> None:
    """Write the keys of the best candidates of each list."""
    last, best = len(rank) - 1, keys.shape[1]
    out = np.zeros(room, dtype=np.int64)
    held = empty_held(best)
    for at in range(len(keys)):
        for place in range(banned_start[at], banned_start[at + 1]):
            if banned[place] > 0 and banned[place] <= last:
                out[slot_of(out, banned[place])] = banned[place]
        count, floor = 0, np.int64(NOTHING)
        for place in range(start[at], start[at + 1]):
            if len(allow) > 0 and not allow[row[place]]:
                continue
            if banned_start[at] < banned_start[at + 1] and out[slot_of(out, row[place])] != 0:
                continue
            key = key_of(score[place], last - rank[row[place]])
            count, floor = hold(held, count, floor, best, key)
        write_best(held, count, keys[at])
        if banned_start[at] < banned_start[at + 1]:
            out[:] = 0
