"""What do channels share that keep weights or vectors of items as the last fit left them?"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.data.vocabulary import Vocabulary


def rows_before(old: Vocabulary, new: Vocabulary) -> NDArray[np.int64]:
    """Return the trained row in `old` of each trained row in `new`, [new.trained + 1]; 0: none."""
    rows = np.zeros(new.trained + 1, dtype=np.int64)
    rows[1:] = old.rows(new.ids[: new.trained])
    rows[rows > old.trained] = 0
    return rows


def without(known: NDArray[np.bool_] | None, block: RowQueries, trained: int) -> Tensor:
    """True for queries whose history holds no trained item that is `known` [trained + 1], [B]."""
    values = block.history.values
    met = (values > 0) & (values <= trained)
    if known is not None:
        met &= torch.from_numpy(known)[torch.where(met, values, 0)]
    return torch.bincount(block.history.owners()[met], minlength=len(block.users)) == 0
