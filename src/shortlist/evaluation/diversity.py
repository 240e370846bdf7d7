"""How different are the items of a list? Measured by their features, or by the users they share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.channels.counting.attributes import value_lists
from shortlist.data.features import CategoricalEncoder, MultiValuedEncoder
from shortlist.data.training_data import TrainingData
from shortlist.linear.from_scipy import csr_array

LISTS = 500
"""Diversity is measured on at most this many lists, chosen with a fixed seed."""

USERS = 10_000
"""At most this many training users describe items without features, chosen with a fixed seed."""


@dataclass(frozen=True)
class Vectors:
    """Item vectors for the diversity of lists.

    by: the features, or the users, that the vectors are made of.
    rows: sparse [items + 1, D], of length 1 or 0 each.
    """

    by: str
    rows: Any


def item_vectors(data: TrainingData) -> Vectors:
    """Return item vectors that depend on the data only, so that models can be compared.

    They hold the values of the declared categorical and multi-valued item features; without such
    features, the users who met the item in training.
    """
    items = len(data.items) + 1
    declared = [
        name
        for name, encoder in data.item_features.encoders.items()
        if isinstance(encoder, CategoricalEncoder | MultiValuedEncoder) and encoder.values
    ]
    owners, codes, width = [], [], 0
    for column in declared:
        values, starts, of_column = value_lists(
            column, data.item_frame, data.item_features, data.items
        )
        owners.append(np.repeat(np.arange(items), np.diff(starts)))
        codes.append(of_column - 1 + width)
        width += len(values)
    if declared:
        pairs = np.concatenate(owners), np.concatenate(codes)
        return Vectors(", ".join(declared), unit_vectors(*pairs, (items, width)))
    log = data.training_targets
    users = np.random.default_rng(0).permutation(np.unique(log.user))[:USERS]
    mine = np.isin(log.user, users)
    pairs = log.item[mine].astype(np.int64), log.user[mine].astype(np.int64)
    return Vectors("the users who met them", unit_vectors(*pairs, (items, len(data.users) + 1)))


def unit_vectors(
    owners: NDArray[np.int64], codes: NDArray[np.int64], shape: tuple[int, int]
) -> Any:
    """Return a sparse matrix with a row of length 1, and equal entries, per owner with codes.

    owners, codes: int64 [n]; a repeated pair counts once.
    shape: (number of owners, number of codes).
    """
    pairs = np.unique(owners * shape[1] + codes)
    rows, columns = pairs // shape[1], pairs % shape[1]
    count = np.bincount(rows, minlength=shape[0])
    starts = np.concatenate([[0], np.cumsum(count)])
    return csr_array((1 / np.sqrt(count[rows]), columns, starts), shape=shape)


def intra_list_distance(top: NDArray[np.int64], vectors: Any) -> NDArray[np.float64]:
    """Return the mean of 1 - cosine over the pairs of each list, [U] (Ziegler et al. 2005).

    top: item rows [U, K], -1 for an empty slot.
    vectors: [items + 1, D], of length 1, or 0 for an item without features, whose distance to all
        others is 1.

    A list of fewer than two items has NaN.
    """
    users, places = np.nonzero(top >= 0)
    rows = top[users, places]
    count = np.bincount(users, minlength=len(top))
    starts = np.concatenate([[0], np.cumsum(count)])
    listed = csr_array((np.ones(len(rows)), rows, starts), shape=(len(top), vectors.shape[0]))
    # The sum of the cosines of all pairs is |sum of vectors|² minus the items with themselves.
    summed = listed @ vectors
    known = np.diff(vectors.indptr) > 0
    own = np.bincount(users, known[rows], minlength=len(top))
    alike = summed.multiply(summed).sum(axis=1) - own
    pairs = count * (count - 1)
    distance: NDArray[np.float64] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
    return distance
