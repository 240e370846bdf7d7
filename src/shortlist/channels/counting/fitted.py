"""What do channels share that keep item weights or vectors from the last fit?"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.data.vocabulary import Vocabulary


def rows_before(old: Vocabulary, new: Vocabulary) -> NDArray[np.int64]:
    """Return for each trained row in `new` its trained row in `old`, [new.trained + 1]; 0: none."""
    rows = np.zeros(new.trained + 1, dtype=np.int64)
    rows[1:] = old.rows(new.ids[: new.trained])
    rows[rows > old.trained] = 0
    return rows


def without(known: NDArray[np.bool_] | None, block: RowQueries, trained: int) -> Tensor:
    """Return True for queries whose history has no trained, known item, bool [B].

    known: bool [trained + 1], the items that count; None for all trained items.
    """
    values = block.history.values
    met = (values > 0) & (values <= trained)
    if known is not None:
        met &= torch.from_numpy(known)[torch.where(met, values, 0)]
    return torch.bincount(block.history.owners()[met], minlength=len(block.users)) == 0
