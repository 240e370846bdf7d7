"""How similar are two items under the options of item-cf? Steps for whole users, then whole items.

One machine runs the steps in sequence; a job runs each step on the groups of users or items.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shortlist.data.interactions import Interactions
from shortlist.durations import TimeUnit, in_units
from shortlist.errors import ModelError
from shortlist.linear.neighbours import Formula, Neighbours, Pairs, counted_pairs, nearest
from shortlist.linear.swing import swing
from shortlist.linear.weighting import bm25, inverse_frequency, tf_idf

if TYPE_CHECKING:
    from shortlist.channels.counting.item_cf import ItemCFOptions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weighed:
    """Distinct pairs of users and items with their weights; None where all weights are 1.

    value: weight of each pair, [pairs].
    time: time of each pair, [pairs].
    user_weight: weight of each user, [users].
    """

    pairs: Pairs
    value: Floats | None = None
    time: Floats | None = None
    user_weight: Floats | None = None


def weighed(
    options: "ItemCFOptions", log: Interactions, items: int, lengths: Floats | None = None
) -> Weighed:
    """Return the distinct pairs that count and their weights; each needs its user's events only.

    lengths: [items + 1], `lengths_of` the pairs of all users, which bm25 needs; None: this log
    has all users.
    Errors: ModelError for a missing column.
    """
    for name in ("recency", "latest_items", "most_items", "time_decay"):
        if getattr(options, name) is not None and log.time is None:
            raise ModelError(f"{name} needs data.time: without it a history has no order")
    pairs = counted_pairs(log, items, options.values, options.most_items)
    value, time, weight = None, None, None
    # Weights of kinds of events apply to cosine and dot; the other similarities compare sets.
    worth = pairs.worth if options.similarity in ("cosine", "dot") else None
    if options.values == "explicit" or options.item_weighting != "none" or worth is not None:
        value = np.ones(len(pairs.item))
        if options.values == "explicit":
            assert log.weight is not None
            value = log.weight[pairs.event].astype(np.float64)
        if worth is not None:
            value = value * worth
    counts = pairs.items_of_users()
    if value is not None and options.item_weighting == "tf-idf":
        value = tf_idf(value, pairs.user, counts, items)
    elif value is not None and options.item_weighting == "bm25":
        if lengths is None:
            lengths = lengths_of(pairs.item, value, items)
        value = bm25(
            value,
            pairs.user,
            pairs.item,
            counts,
            lengths,
            k1=options.bm25_k1 or 1.2,
            b=0.75 if options.bm25_b is None else options.bm25_b,
        )
    if options.time_decay is not None:
        assert log.time is not None
        time = log.time[pairs.event].astype(np.float64)
    if options.user_weighting == "iuf":
        weight = inverse_frequency(counts)
    elif options.user_weighting == "inverse":
        weight = _power(counts, -1.0)
    return Weighed(pairs, value, time, weight)


def lengths_of(item: NDArray[Any], value: Floats | None, items: int) -> Floats:
    """Return each item's document length for BM25, [items + 1]: the sum of its pairs' values.

    item, value: [pairs], the pairs of an item in the order of its users; value None: all 1.
    """
    return np.bincount(item, value, items + 1).astype(np.float64)


def sums_values(options: "ItemCFOptions") -> bool:
    """Tell whether norms are sums of values; otherwise they are functions of user counts."""
    weighs = options.values == "explicit" or options.item_weighting != "none"
    return (options.similarity == "cosine" and weighs) or (
        options.similarity == "jaccard" and options.user_weighting != "none"
    )


def sums_of_items(
    options: "ItemCFOptions",
    item: NDArray[Any],
    value: Floats | None,
    weight: Floats | None,
    items: int,
) -> NDArray[Any]:
    """Return the sums that the norm of each item needs, [items + 1]; each needs its own pairs only.

    item, value, weight: [pairs], an item's pairs in the order of its users; weight is the user's.
    """
    if options.similarity == "jaccard" and weight is not None:
        return np.bincount(item, weight, items + 1)
    if options.similarity == "cosine" and value is not None:
        return np.bincount(item, value**2, items + 1)
    return np.bincount(item, minlength=items + 1)


def sides(options: "ItemCFOptions", sums: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the left and right norms of `Formula`, [items + 1] each, from `sums_of_items`."""
    if options.similarity == "cosine":
        norm = _power(sums, -0.5)
        return norm, norm
    if options.similarity == "conditional":
        alpha = 0.5 if options.alpha is None else options.alpha
        return _power(sums, -1.0), _power(sums, -alpha)
    same = sums.astype(np.float64) if options.similarity == "jaccard" else np.ones(len(sums))
    return same, same


def found_neighbours(
    options: "ItemCFOptions",
    given: Weighed,
    norms: tuple[Floats, Floats],
    tie_keys: NDArray[np.int64],
    user_keys: NDArray[np.int64],
    unit: TimeUnit | None,
    rows: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Return the nearest items of these rows (None: all), from all pairs of their users.

    tie_keys: [items + 1].
    user_keys: [users], a fixed hash of each user, for the sample of swing.
    unit: unit of the times.
    """
    if options.similarity == "swing":
        return swing(
            given.pairs,
            tie_keys,
            user_keys,
            len(norms[0]) - 1,
            options.neighbours,
            alpha=1.0 if options.alpha is None else options.alpha,
            users=options.swing_users or 200,
            seed=options.seed or 0,
            rows=rows,
        )
    half_life = 1.0
    if options.time_decay is not None:
        half_life = in_units(options.time_decay, unit, "time_decay")
    union = options.similarity == "jaccard"
    weights = given.value, given.time, given.user_weight
    formula = Formula(*norms, union, *weights, options.shrinkage, half_life)
    return nearest(given.pairs, formula, tie_keys, options.neighbours, rows)


def _power(counts: NDArray[Any], exponent: float) -> Floats:
    """Return counts ** exponent, and 0 where the count is 0: such an item has no neighbours."""
    powers = np.zeros(len(counts))
    np.power(counts, exponent, out=powers, where=counts > 0, dtype=np.float64)
    return powers
