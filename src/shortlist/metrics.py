"""How good are lists? Accuracy metrics for each user, and figures of all lists together.

The lists are the top of the whole catalogue. Metrics on a sample of it can rank models differently
(Krichene & Rendle 2020). Relevance is binary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError, ModelError

Ints: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def hits(top: Ints, values: Ints, offsets: Ints) -> Bools:
    """Return which slots hold a relevant item, bool [U, K].

    top: items, best first, [U, K]; -1 for an empty slot.
    values: the relevant items of all users; user u has values[offsets[u]:offsets[u + 1]].
    offsets: [U + 1].
    Errors: DataError if an item is repeated in a list or among a user's relevant items.

    >>> hits(np.array([[7, 3], [3, -1]]), values=np.array([3, 9]), offsets=np.array([0, 1, 2]))
    array([[False,  True],
           [False, False]])
    """
    users = top.shape[0]
    if len(offsets) != users + 1 or offsets[0] != 0 or offsets[-1] != len(values):
        raise DataError(
            f"offsets must run from 0 to {len(values)} in {users + 1} steps, "
            f"got {len(offsets)} from {offsets[:1]} to {offsets[-1:]}"
        )
    if len(values) and values.min() < 0:
        raise DataError(f"relevant items must be >= 0, got {values.min()}")
    _refuse_repeats(top)
    items = 1 + max(int(top.max(initial=0)), int(values.max(initial=0)))
    if users * items >= 2**63:
        raise DataError(f"{users} users x items up to {items} overflow int64: use row numbers")
    owners = np.repeat(np.arange(users, dtype=np.int64), np.diff(offsets))
    relevant = np.sort(owners * items + values)
    repeated = relevant[1:][relevant[1:] == relevant[:-1]]
    if len(repeated):
        user, item = divmod(int(repeated[0]), items)
        raise DataError(f"item {item} is listed as relevant twice for user {user}")
    if not len(relevant):
        return np.zeros(top.shape, dtype=np.bool_)
    keys = np.arange(users, dtype=np.int64)[:, None] * items + top
    nearest = np.searchsorted(relevant, keys).clip(max=len(relevant) - 1)
    found: Bools = (relevant[nearest] == keys) & (top >= 0)
    return found


def recall(found: Bools, relevant: Ints) -> Floats:
    """Return hits / relevant items, [U]."""
    share: Floats = found.sum(1) / relevant
    return share


def hit_rate(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """Return 1 if there is a hit, else 0, [U]."""
    return np.asarray(found.any(1), dtype=np.float64)


def ndcg(found: Bools, relevant: Ints) -> Floats:
    """Return the sum of 1 / log2(1 + rank) over hits, divided by the largest possible one, [U].

    The largest has hits at the first min(k, relevant) ranks (Järvelin & Kekäläinen 2002).
    """
    discount = 1 / np.log2(1 + np.arange(1, found.shape[1] + 1))
    ideal: Floats = np.cumsum(discount)[np.minimum(relevant, found.shape[1]) - 1]
    gain = np.cumsum(found * discount, axis=1)[:, -1]
    share: Floats = np.asarray(gain / ideal)
    return share


def mrr(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """Return 1 / rank of the first hit, and 0 without a hit, [U] (Voorhees 1999)."""
    inverse: Floats = found.any(1) / (1 + found.argmax(1))
    return inverse


def precision(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """Return hits / k, also for a list shorter than k, [U]."""
    share: Floats = found.sum(1) / found.shape[1]
    return share


def average_precision(found: Bools, relevant: Ints) -> Floats:
    """Return the sum of the precision at each hit's rank, divided by min(k, relevant), [U].

    Its largest value is 1. trec_eval divides by the number of relevant items instead.
    """
    at_hits = found * (np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1))
    total = np.cumsum(at_hits, axis=1)[:, -1]
    mean: Floats = total / np.minimum(relevant, found.shape[1])
    return mean


Metric: TypeAlias = Callable[[Bools, Ints], Floats]

PER_USER: dict[str, Metric] = {
    "recall": recall,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "precision": precision,
    "map": average_precision,
}
"""Accuracy metrics by name; larger is better. `training.monitor` can name any of them.

A metric takes the hits among the first k, bool [U, k], and the number of relevant items of each
user, [U], at least 1. It returns one figure per user, [U].
"""


def per_user(
    found: Bools, relevant: Ints, ks: Iterable[int], metrics: Mapping[str, Metric] | None = None
) -> dict[str, Floats]:
    """Return each metric at each k for each user, {"recall@10": [U], ...}.

    A user without relevant items has NaN in every metric, so that a caller who does not leave such
    users out notices it.

    found: from `hits`, [U, K], with K at least the largest k.
    relevant: number of each user's relevant items, in the list or not, [U].
    ks: depths of the lists.
    metrics: by name; None for PER_USER.
    Errors: ModelError for a k beyond the lists, DataError for fewer relevant items than hits.

    >>> figures = per_user(np.array([[False, True, True]]), np.array([4]), ks=[3])
    >>> {name: round(float(value[0]), 4) for name, value in figures.items()}
    {'recall@3': 0.5, 'hit_rate@3': 1.0, 'ndcg@3': 0.5307, 'mrr@3': 0.5, \
'precision@3': 0.6667, 'map@3': 0.3889}
    """
    users, width = found.shape
    ks = list(ks)
    for k in ks:
        if not 1 <= k <= width:
            raise ModelError(f"k must be between 1 and the length of the lists ({width}), got {k}")
    if relevant.shape != (users,) or (found.sum(1) > relevant).any():
        raise DataError("relevant must count each user's relevant items, no fewer than the hits")
    some, at_least_one = relevant > 0, np.maximum(relevant, 1)
    return {
        f"{name}@{k}": np.where(some, _figures(name, metric, found[:, :k], at_least_one), np.nan)
        for k in ks
        for name, metric in (PER_USER if metrics is None else metrics).items()
    }


def with_metrics(more: Sequence[Metric]) -> dict[str, Metric]:
    """Return PER_USER and further metrics, each under its function's name. Errors: ModelError.

    >>> def first(found, relevant):
    ...     return found[:, 0].astype(float)
    >>> list(with_metrics([first]))[-2:]
    ['map', 'first']
    """
    metrics = dict(PER_USER)
    if not isinstance(more, Iterable) or isinstance(more, str):
        raise ModelError(f"metrics must be a list of functions, got {more!r:.80}")
    for metric in more:
        name = getattr(metric, "__name__", "")
        if not callable(metric) or not name.isidentifier():
            raise ModelError(
                f"a metric must be a function with a name, which names its figures, got "
                f"{metric!r:.80}"
            )
        if metrics.setdefault(name, metric) is not metric:
            raise ModelError(f"there is a metric {name!r} already: give yours another name")
    return metrics


def _figures(name: str, metric: Metric, found: Bools, relevant: Ints) -> Floats:
    """Return a metric's figures, [U]. Errors: ModelError for another shape or infinite values."""
    figures: Floats = np.asarray(metric(found, relevant))
    if figures.shape != relevant.shape or figures.dtype.kind not in "fiub":
        raise ModelError(
            f"the metric {name} must give one number a user, [{len(relevant)}], "
            f"got {figures.dtype} {list(figures.shape)}"
        )
    if not np.isfinite(figures).all():
        raise ModelError(f"the metric {name} gave a figure that is not finite")
    return figures


def exposure(top: Ints, items: int) -> NDArray[np.int64]:
    """Return the number of lists that hold each item 0 .. items - 1, int64 [items].

    The exposures of blocks of users can be added. The figures below are computed from them.

    top: items, [U, K]; -1 for an empty slot.
    """
    return np.bincount(top[top >= 0], minlength=items).astype(np.int64)


def coverage(shown: Ints) -> float:
    """Return the share of candidate items that are in at least one list.

    This is the catalogue coverage of Herlocker et al. (2004).

    shown: exposure of each candidate item, [M].

    >>> coverage(np.array([5, 0, 1, 0]))
    0.5
    """
    return float((shown > 0).mean()) if len(shown) else float("nan")


def average_popularity(shown: Ints, popularity: Ints) -> float:
    """Return the average recommendation popularity (ARP, Yin et al. 2012), in training events.

    It is the mean training count of the items in all slots; NaN if nothing is recommended. Compare
    it on the same data only.

    shown: exposure of each candidate item, [M].
    popularity: training count of each candidate item, [M].
    """
    slots = int(shown.sum())
    return float(shown @ popularity.astype(np.float64)) / slots if slots else float("nan")


def popularity_percentile(shown: Ints, popularity: Ints) -> float:
    """Return the mean popularity percentile of the items in all slots, between 0 and 1.

    The percentile of an item is the share of candidates with fewer training events, where those
    with equally many count half. Random lists have 0.5 and lists of the most popular items nearly
    1. Unlike `average_popularity`, which has the same arguments, it is comparable across data sets.

    >>> popularity_percentile(np.array([1, 1, 1]), popularity=np.array([10, 0, 0]))
    0.5
    """
    slots = int(shown.sum())
    if not slots:
        return float("nan")
    ordered = np.sort(popularity)
    below = np.searchsorted(ordered, popularity, side="left")
    up_to = np.searchsorted(ordered, popularity, side="right")
    return float(shown @ ((below + up_to) / 2)) / (slots * len(popularity))


def novelty(shown: Ints, popularity: Ints, events: int | None = None) -> float:
    """Return the mean self-information of the items in all slots, in bits.

    It is -log2 of an item's share of all training events (Zhou et al. 2010; Vargas & Castells
    2011), where an item without events counts as having one. Half the share is one bit more. NaN if
    nothing is recommended or there are no training events.

    shown: exposure of each candidate item, [M].
    popularity: training count of each candidate item, [M].
    events: number of all training events, including those of items that are not candidates. None:
        the sum of popularity.

    >>> novelty(np.array([1, 0, 1]), popularity=np.array([4, 3, 1]))  # 1 bit and 3 bits
    2.0
    """
    slots = int(shown.sum())
    events = int(popularity.sum()) if events is None else events
    if not slots or not events:
        return float("nan")
    bits = np.log2(events / np.maximum(popularity, 1).astype(np.float64))
    return float(shown @ bits) / slots


def gini(shown: Ints) -> float:
    """Return the Gini coefficient of the exposure: 0 if all equal, near 1 if one item has all.

    shown: exposure of each candidate item, [M]. NaN if nothing is recommended.

    >>> gini(np.array([3, 3, 3])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    slots, n = int(shown.sum()), len(shown)
    if not slots:
        return float("nan")
    weight = 2 * np.arange(1, n + 1) - n - 1
    return float(np.sort(shown) @ weight.astype(np.float64)) / (n * slots)


def _refuse_repeats(top: Ints) -> None:
    """Raise DataError if an item is repeated in one list."""
    ordered = np.sort(top, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeats.any():
        user, slot = (int(where[0]) for where in repeats.nonzero())
        raise DataError(f"the list of user {user} holds item {ordered[user, slot]} twice")
