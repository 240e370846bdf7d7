"""How unlike are the items of a list? By what the table says of them, or by who met them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.channels.counting.attributes import value_lists
from shortlist.data.dataset import TrainingData
from shortlist.data.features import CategoricalEncoder, MultiValuedEncoder
from shortlist.linear.from_scipy import csr_array

LISTS = 500
"""Of so many lists at most the diversity is measured; which ones is fixed."""

USERS = 10_000
"""So many training users at most tell items apart where no attributes do; which ones is fixed."""


@dataclass(frozen=True)
class Vectors:
    """A vector of length 1 or 0 of each item row, [items + 1, D]; by: what they are made of."""

    by: str
    rows: Any


def item_vectors(data: TrainingData) -> Vectors:
    """Return what items are told apart by: the same for every model of the same data.

    The values of the declared categorical and multi-valued features of items; without any, the
    users who met the item in training.
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
    """Return a sparse row of length 1 for each owner that has a code, alike in all its codes.

    owners, codes: [n], a pair that is there twice counts once; shape: how many of each.
    """
    pairs = np.unique(owners * shape[1] + codes)
    rows, columns = pairs // shape[1], pairs % shape[1]
    count = np.bincount(rows, minlength=shape[0])
    starts = np.concatenate([[0], np.cumsum(count)])
    return csr_array((1 / np.sqrt(count[rows]), columns, starts), shape=shape)


def intra_list_distance(top: NDArray[np.int64], vectors: Any) -> NDArray[np.float64]:
    """The mean distance of two items of a list, 1 - cosine, [U] (Ziegler et al. 2005).

    top: [U, K] item rows, best first, -1 for none. vectors: [items + 1, D], of length 1, or 0 for
    an item of which nothing is known: it is at distance 1 of all. NaN for a list of fewer than two.
    """
    users, places = np.nonzero(top >= 0)
    rows = top[users, places]
    count = np.bincount(users, minlength=len(top))
    starts = np.concatenate([[0], np.cumsum(count)])
    listed = csr_array((np.ones(len(rows)), rows, starts), shape=(len(top), vectors.shape[0]))
    # The sum over all pairs of cosines is the squared length of the sum of the vectors.
    summed = listed @ vectors
    known = np.diff(vectors.indptr) > 0
    own = np.bincount(users, known[rows], minlength=len(top))
    alike = summed.multiply(summed).sum(axis=1) - own
    pairs = count * (count - 1)
    distance: NDArray[np.float64] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
    return distance
