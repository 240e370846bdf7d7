"""How good are these lists: accuracy for each user, and what the lists do to the catalogue?

Full ranking only: a list is the top of the whole catalogue, never of a sample of it, which would
rank models in another order (Krichene & Rendle 2020). Relevance is binary. Pure numpy.
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
    """Which slots hold a relevant item, [U, K].

    top: [U, K] items, best first, -1 for none. The relevant items of user u are
    values[offsets[u]:offsets[u + 1]]. Raises DataError if an item stands twice in a list or
    among a user's relevant items: both would be counted twice.

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
    """Hits / relevant."""
    share: Floats = found.sum(1) / relevant
    return share


def hit_rate(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """1 if there is a hit, else 0."""
    return np.asarray(found.any(1), dtype=np.float64)


def ndcg(found: Bools, relevant: Ints) -> Floats:
    """The sum of 1 / log2(1 + rank) over hits, divided by the best possible.

    Best is where the first min(k, relevant) ranks are hits (Järvelin & Kekäläinen 2002).
    """
    discount = 1 / np.log2(1 + np.arange(1, found.shape[1] + 1))
    ideal: Floats = np.cumsum(discount)[np.minimum(relevant, found.shape[1]) - 1]
    gain = np.cumsum(found * discount, axis=1)[:, -1]
    share: Floats = np.asarray(gain / ideal)
    return share


def mrr(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """1 / rank of the first hit, 0 without one (Voorhees 1999)."""
    inverse: Floats = found.any(1) / (1 + found.argmax(1))
    return inverse


def precision(found: Bools, relevant: Ints) -> Floats:  # noqa: ARG001
    """Hits / k, also where a list is shorter than k."""
    share: Floats = found.sum(1) / found.shape[1]
    return share


def average_precision(found: Bools, relevant: Ints) -> Floats:
    """The precision at each hit's rank, summed, divided by min(k, relevant).

    So 1 can be reached (trec_eval divides by relevant).
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
"""Accuracy metrics by name, of which more is better; training.monitor may name any of them.

From the hits among the first k, [U, k], and how many items are relevant to each user, [U], at least
1, to a figure a user, [U].
"""


def per_user(
    found: Bools, relevant: Ints, ks: Iterable[int], metrics: Mapping[str, Metric] | None = None
) -> dict[str, Floats]:
    """Each metric at each k, for each user: {"recall@10": [U], ...}; None: those of PER_USER.

    found: [U, K] from `hits`, K at least the largest k; relevant: [U], how many items are
    relevant (wherever they rank). A user without any has no figure: NaN in every metric, so that
    forgetting to leave such users out is seen.

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
    """Return PER_USER and more metrics, each under the name of its function. Errors: ModelError.

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
                f"a metric is a function with a name, which its figures carry, got {metric!r:.80}"
            )
        if metrics.setdefault(name, metric) is not metric:
            raise ModelError(f"there is a metric {name!r} already: give yours another name")
    return metrics


def _figures(name: str, metric: Metric, found: Bools, relevant: Ints) -> Floats:
    """A metric's figure for each user. Errors: ModelError for what is none, [U] and finite."""
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
    """How often each item 0 .. items - 1 stands in the lists, [items].

    top: [U, K], -1 for none. Sums over blocks of users; the figures below are made from it.
    """
    return np.bincount(top[top >= 0], minlength=items).astype(np.int64)


def coverage(shown: Ints) -> float:
    """The share of candidate items that stand in at least one list.

    shown: [M], the exposure of each candidate item (Herlocker et al. 2004: catalogue coverage).

    >>> coverage(np.array([5, 0, 1, 0]))
    0.5
    """
    return float((shown > 0).mean()) if len(shown) else float("nan")


def average_popularity(shown: Ints, popularity: Ints) -> float:
    """Mean training count of a recommended slot (ARP, average recommendation popularity).

    shown, popularity: [M], the exposure and the training count of each candidate item. Yin et al.
    2012. In events: compare models on one data set only. NaN if nothing is recommended.
    """
    slots = int(shown.sum())
    return float(shown @ popularity.astype(np.float64)) / slots if slots else float("nan")


def popularity_percentile(shown: Ints, popularity: Ints) -> float:
    """Mean popularity percentile of a recommended slot, between 0 and 1.

    An item's percentile is the share of candidates with fewer training events, those with as many
    counted half, so that random lists give 0.5 and lists of the most popular items nearly 1.
    Arguments as in `average_popularity`, to which it is the figure that compares across data sets.

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
    """Mean self-information of a recommended slot, in bits: how little known its item is.

    -log2 of the item's share of all training events (Zhou et al. 2010; Vargas & Castells 2011); an
    item without one counts as if it had one. shown, popularity: as in `average_popularity`. events:
    all training events, those of items that are no candidates (removed ones, say) with them; None
    where popularity holds all. Twice as rare is one bit more. NaN if nothing is recommended or
    nothing was trained on.

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
    """How unequally the lists share their slots among candidates: 0 alike, towards 1 one item.

    shown: [M], the exposure of each candidate item. NaN if nothing is recommended.

    >>> gini(np.array([3, 3, 3])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    slots, n = int(shown.sum()), len(shown)
    if not slots:
        return float("nan")
    weight = 2 * np.arange(1, n + 1) - n - 1
    return float(np.sort(shown) @ weight.astype(np.float64)) / (n * slots)


def _refuse_repeats(top: Ints) -> None:
    """Raise DataError if an item stands twice in one list."""
    ordered = np.sort(top, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeats.any():
        user, slot = (int(where[0]) for where in repeats.nonzero())
        raise DataError(f"the list of user {user} holds item {ordered[user, slot]} twice")
