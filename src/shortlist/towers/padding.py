"""Lists side by side in a rectangle, and back: what recurrent and attentive layers work on."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from shortlist.data.ragged import Ragged


class Padded(NamedTuple):
    """Where each value of B lists stands in a rectangle [B, L]; what follows a list is padding.

    slots: [total] int64, into the flattened rectangle.
    """

    slots: Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, lists: Ragged) -> Self:
        """The rectangle of these lists, as long as the longest of them (at least 1)."""
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
        """Put values [total, D] into the rectangle [B, L, D], zeros in the padding."""
        width = values.shape[1]
        rectangle = values.new_zeros(self.rows * self.length, width)
        return rectangle.index_copy(0, self.slots, values).view(self.rows, self.length, width)

    def gather(self, rectangle: Tensor) -> Tensor:
        """Take the values [total, D] out of a rectangle [B, L, D] again."""
        flat = rectangle.reshape(self.rows * self.length, rectangle.shape[2])
        return flat.index_select(0, self.slots)
