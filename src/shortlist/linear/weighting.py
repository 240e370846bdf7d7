"""How much information does a user or an event give about an item? IUF, TF-IDF, BM25."""

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ModelError

Floats = NDArray[np.float64]


def inverse_frequency(counts: NDArray[np.int64]) -> Floats:
    """Return 1 / log(1 + n) of each count, and 0 for 0: very active users are less informative.

    Applied to the item counts of users it is the IUF of ItemCF; applied to the user counts of items
    it is that of UserCF. The idea is from Breese et al. (1998); this form is the common one.

    >>> inverse_frequency(np.array([0, 1, 3])).round(4)
    array([0.    , 1.4427, 0.7213])
    """
    weights = np.zeros(len(counts))
    np.divide(1.0, np.log1p(counts), out=weights, where=counts > 0)
    return weights


def tf_idf(
    value: Floats, user: NDArray[np.int64], item_counts: NDArray[np.int64], items: int
) -> Floats:
    """Return the tf-idf weight of each pair, with items as documents and users as their words.

    The weight is sqrt(value) · log((1 + items) / (1 + n)).
    value: [pairs], >= 0.
    user: [pairs], the user of each pair.
    item_counts: [users], n, the number of items of each user.
    """
    _refuse_negative(value, "tf-idf")
    return np.sqrt(value) * _idf(item_counts, items)[user]


def bm25(
    value: Floats,
    user: NDArray[np.int64],
    item: NDArray[np.uint32],
    item_counts: NDArray[np.int64],
    lengths: Floats,
    *,
    k1: float = 1.2,
    b: float = 0.75,
) -> Floats:
    """Return the Okapi BM25 weight of each pair, with items as documents and users as words.

    The weight is value (k1 + 1) / (k1 (1 - b + b · length / mean length) + value) · idf, where the
    length of an item is the sum of its values.
    value, user, item_counts: as for `tf_idf`.
    item: [pairs], the item of each pair.
    lengths: [items + 1].
    """
    _refuse_negative(value, "bm25")
    items = len(lengths) - 1
    mean = max(float(lengths.sum()) / max(items, 1), np.finfo(np.float64).tiny)
    shortness = k1 * (1 - b + b * lengths / mean)
    total = shortness[item] + value
    saturated = np.zeros(len(value))
    np.divide(value * (k1 + 1), total, out=saturated, where=total > 0)
    return saturated * _idf(item_counts, items)[user]


def _idf(counts: NDArray[np.int64], items: int) -> Floats:
    return np.log((1 + items) / (1.0 + counts))


def _refuse_negative(value: Floats, name: str) -> None:
    if len(value) and value.min() < 0:
        raise ModelError(
            f"item_weighting = '{name}' needs values >= 0, and data.weight holds {value.min():g}"
        )
