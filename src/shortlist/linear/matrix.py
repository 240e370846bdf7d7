"""How does the log become a sparse matrix of users and items?"""

from typing import Any, Literal, TypeAlias

import numpy as np

from shortlist.data.interactions import Interactions
from shortlist.linear.from_scipy import csr_array

Values = Literal["implicit", "explicit"]
Matrix: TypeAlias = Any
"""A `scipy.sparse.csr_array`, float32 with int32 or int64 indices: users (or queries) by items."""


def user_item_matrix(
    log: Interactions, items: int, values: Values = "implicit", *, targets: bool = False
) -> Matrix:
    """Return A [users, items + 1] float32, with one entry for each distinct pair of the log.

    items: the highest item row that counts; events of later rows, and of row 0, are left out.
    values: "implicit" entries are 1. "explicit" entries are the weight of the pair's last event,
    and a pair of weight 0 has no entry. With kinds of events, entries are multiplied by the largest
    weight of kind among the events of the pair.
    targets: keep only pairs with a target among their events.
    The columns of a row ascend.
    Errors: ModelError for explicit values of a log without weights, or with none above 0.
    """
    weight = log.weights_for("values = 'explicit'") if values == "explicit" else None
    kept = (log.item > 0) & (log.item <= items)
    user, item = log.user[kept].astype(np.int64), log.item[kept]
    keys = user * (items + 1) + item
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.ones(len(keys), dtype=np.bool_)
    last[:-1] = keys[1:] != keys[:-1]
    chosen = order[last]
    data = np.ones(len(chosen), dtype=np.float32)
    if weight is not None:
        data = weight[kept][chosen].astype(np.float32)
    first = np.flatnonzero(np.concatenate([[True], last[:-1]])[: len(last)])
    if log.worth is not None and len(first):
        data *= np.maximum.reduceat(log.worth[kept][order], first)
    if targets and log.target is not None and len(first):
        aimed = np.logical_or.reduceat(log.target[kept][order], first)
        chosen, data = chosen[aimed], data[aimed]
    if weight is not None:
        chosen, data = chosen[data != 0], data[data != 0]
    counts = np.bincount(user[chosen], minlength=log.users)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return csr_array((data, item[chosen], indptr), shape=(log.users, items + 1))
