"""At most so many items of each genre in an answer: which is the best list that keeps to it?

Of one column with one value an item, the best list is the greedy one: from the best item on, each
whose value still has room (the values make a partition matroid: Edmonds 1971). So what remains is
to see far enough down the ranking, and to know when that is far enough.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.data.predicates import value_codes
from shortlist.errors import QueryError
from shortlist.retrievers.base import BLOCK, Candidates, Queries, as_queries, checked_count

Recommend = TypeVar("Recommend", bound=Callable[..., Candidates])
Ask = Callable[[Queries, int], Candidates]

AHEAD = 4
"""How many times k are asked for at first; where this is enough, it is the only question."""

ROUNDS = 4
"""How often a query is asked again without the values that are full, before for the whole list."""


def keeping_quota(recommend: Recommend) -> Recommend:
    """Decorate `recommend` of a retriever: it then keeps to the quota of its queries.

    The decorated method never sees a quota. What it ranks first is taken first, so the answer is
    the best that keeps to the quota by the retriever's own order and scores.
    """

    @wraps(recommend)
    def kept(self: Any, queries: Any, k: int = 10) -> Candidates:
        wanted, k = as_queries(queries), checked_count("k", k)
        if wanted.quota is None or not len(wanted):
            return recommend(self, replace(wanted, quota=None) if wanted.quota else wanted, k)
        (column, most), plain = _checked(wanted.quota), replace(wanted, quota=None)
        codes, everything = value_codes(self.data, column), len(self.candidate_rows())

        def ask(some: Queries, count: int) -> Candidates:
            return recommend(self, some, min(count, everything))

        parts = [
            _of_block(ask, _sliced(plain, at, at + BLOCK), k, codes, most, everything)
            for at in range(0, len(wanted), BLOCK)
        ]
        return _joined(parts)

    return cast(Recommend, kept)


def _checked(quota: Any) -> tuple[str, int]:
    """The column and the number. Errors: QueryError."""
    if not isinstance(quota, Mapping):
        raise QueryError(f"a quota is a table such as {{'genre': 3}}, got {quota!r:.60}")
    if len(quota) != 1:
        raise QueryError(
            f"a quota is of one column, such as {{'genre': 3}}, got {len(quota)}: "
            "under several at once the best list cannot be found item by item"
        )
    ((column, most),) = quota.items()
    if not isinstance(column, str):
        raise QueryError(f"a quota is of a column of the items table, got {column!r:.60}")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise QueryError(f"quota.{column} must be a whole number >= 1, got {most!r:.60}")
    return column, most


def _of_block(
    ask: Ask,
    queries: Queries,
    k: int,
    codes: NDArray[np.int64],
    most: int,
    everything: int,
) -> Candidates:
    """Answer some queries: all at once, then again, one by one, those that saw too little."""
    k = min(k, everything)
    depth = min(AHEAD * k, everything)
    found = ask(queries, depth)
    answer, missing = _taken(found, codes, most, k)
    # A list that ends before `depth`, or names all there is, holds everything that matches.
    whole = (found.rows[:, -1] < 0) | (depth == everything)
    for query in np.flatnonzero((missing > 0) & ~whole).tolist():
        one = _sliced(queries, query, query + 1)
        rows = answer.rows[query]
        for _ in range(ROUNDS):
            room = _with_room(codes, rows[rows >= 0], most)
            further = ask(replace(one, rows=torch.from_numpy(room)), 2 * k)
            mine, still = _taken(further, codes, most, k)
            rows = mine.rows[0]
            if not still[0] or further.rows[0, -1] < 0 or further.rows.shape[1] < 2 * k:
                break
        else:
            mine, _ = _taken(ask(one, everything), codes, most, k)
        for name in _columns(answer):
            getattr(answer, name)[query] = getattr(mine, name)[0]
    return answer


def _with_room(codes: NDArray[np.int64], chosen: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Which items can be in the answer, bool [items + 1]: the chosen, and those of other values
    than are full. What a full value has in the answer is its best, and final.
    """
    values, counts = np.unique(codes[chosen], return_counts=True)
    full = values[(counts >= most) & (values >= 0)]
    room: NDArray[np.bool_] = ~np.isin(codes, full)
    room[chosen] = True
    return room


def _taken(
    found: Candidates, codes: NDArray[np.int64], most: int, k: int
) -> tuple[Candidates, NDArray[np.int64]]:
    """The first k of each list that keep to the quota, and how many are missing, [B]."""
    places = np.full((len(found), k), -1, dtype=np.int64)
    missing = np.zeros(len(found), dtype=np.int64)
    _choose(found.rows, codes, most, places, missing)
    changed: dict[str, Any] = {}
    for name, nothing in _columns(found).items():
        column = getattr(found, name)
        at = places if column.ndim == 2 else places[:, :, None]
        picked = np.take_along_axis(column, np.maximum(at, 0), axis=1)
        picked[places < 0] = nothing
        changed[name] = picked
    return replace(found, **changed), missing


def _columns(found: Candidates) -> dict[str, Any]:
    """The names of what is kept of each place of a list, and what stands past its end."""
    names = [each.name for each in fields(found)]
    arrays = {name: getattr(found, name) for name in names}
    listed = {n: a for n, a in arrays.items() if isinstance(a, np.ndarray) and a.ndim >= 2}
    past = {"rows": -1, "scores": -np.inf, "by": -1}
    return {name: past.get(name, 0) for name in listed}


def _joined(parts: list[Candidates]) -> Candidates:
    """The answers to blocks of queries as one."""
    if len(parts) == 1:
        return parts[0]
    names = [*_columns(parts[0]), "fallback"]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    return replace(parts[0], **joined)


def _sliced(queries: Queries, start: int, stop: int) -> Queries:
    if queries.users is not None:
        return replace(queries, users=queries.users[start:stop])
    return replace(queries, histories=(queries.histories or ())[start:stop])


@compiled
def _choose(rows: Any, codes: Any, most: Any, places: Any, missing: Any) -> None:
    """Write the places [B, k] of the items taken from rows [B, n], and how many are missing [B]."""
    k = places.shape[1]
    value = np.empty(k, dtype=np.int64)
    for query in range(len(rows)):
        count = 0
        for place in range(rows.shape[1]):
            row = rows[query, place]
            if row < 0 or count == k:
                break
            code = codes[row]
            alike = 0
            if code >= 0:  # An item without a value counts towards none.
                for at in range(count):
                    alike += value[at] == code
            if alike < most:
                value[count] = code
                places[query, count] = place
                count += 1
        missing[query] = k - count
