"""How are lists of different lengths padded to a rectangle, and read back from it?"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from shortlist.data.ragged import Ragged


class Padded(NamedTuple):
    """The places of the values of B lists in a rectangle [B, L]; padding follows each list.

    slots: int64 [total], place of each value in the flattened rectangle.
    rows: B.
    length: L.
    """

    slots: Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, lists: Ragged) -> Self:
        """Return the places of lists; L is the length of the longest one, and at least 1."""
        rows = len(lists.offsets) - 1
        lengths = lists.lengths
        length = max(int(lengths.max()) if rows else 0, 1)
        shift = torch.arange(rows, device=lengths.device) * length - lists.offsets[:-1]
        total = lists.values.shape[0]
        places = torch.arange(total, device=lengths.device)
        return cls(
            places + torch.repeat_interleave(shift, lengths, output_size=total), rows, length
        )

    def spread(self, values: Tensor) -> Tensor:
        """Write values [total, D] into a rectangle [B, L, D]; the padding is zero."""
        width = values.shape[1]
        rectangle = values.new_zeros(self.rows * self.length, width)
        return rectangle.index_copy(0, self.slots, values).view(self.rows, self.length, width)

    def gather(self, rectangle: Tensor) -> Tensor:
        """Read the values [total, D] from a rectangle [B, L, D]."""
        flat = rectangle.reshape(self.rows * self.length, rectangle.shape[2])
        return flat.index_select(0, self.slots)
