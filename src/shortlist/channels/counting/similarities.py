"""How near are two items, by the options of item-cf? In steps of whole users, and of whole items.

One machine takes them one after the other; a job takes each on the groups it needs.
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
    """Pairs of users, and what each weighs; None where all weigh alike.

    value, time: [pairs]; user_weight: [users].
    """

    pairs: Pairs
    value: Floats | None = None
    time: Floats | None = None
    user_weight: Floats | None = None


def weighed(
    options: "ItemCFOptions", log: Interactions, items: int, lengths: Floats | None = None
) -> Weighed:
    """Return the distinct pairs that count and their weights; each needs its user's events only.

    lengths: [items + 1], those of `lengths_of` all users, which bm25 reads; None: these are all.
    Errors: ModelError where a column is missing.
    """
    for name in ("recency", "latest_items", "most_items", "time_decay"):
        if getattr(options, name) is not None and log.time is None:
            raise ModelError(f"{name} needs data.time: without it a history has no order")
    pairs = counted_pairs(log, items, options.values, options.most_items)
    value, time, weight = None, None, None
    # What a kind of event counts adds up under cosine and dot; the other similarities are of sets.
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
    """Return the length of each item as a text, [items + 1]: the values of its pairs, added up.

    item, value: [pairs], an item's in the order of its users; value is None where all are 1.
    """
    return np.bincount(item, value, items + 1).astype(np.float64)


def sums_values(options: "ItemCFOptions") -> bool:
    """Tell whether norms are sums of values: where not, they are made of counts of users."""
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
    """Return what the norm of each item is made of, [items + 1]; each needs its own pairs only.

    item, value: [pairs], and weight [pairs], of the pair's user; an item's in the order of users.
    """
    if options.similarity == "jaccard" and weight is not None:
        return np.bincount(item, weight, items + 1)
    if options.similarity == "cosine" and value is not None:
        return np.bincount(item, value**2, items + 1)
    return np.bincount(item, minlength=items + 1)


def sides(options: "ItemCFOptions", sums: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return left and right of `Formula`, [items + 1] each, from what `sums_of_items` gives."""
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
    """Return the nearest items of these rows (all), from all pairs of the users who met them.

    tie_keys: [items + 1]; user_keys: [users], a fixed hash of each; unit: of the times.
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
    """counts ** exponent, 0 where the count is 0: an item without users is near to nothing."""
    powers = np.zeros(len(counts))
    np.power(counts, exponent, out=powers, where=counts > 0, dtype=np.float64)
    return powers
