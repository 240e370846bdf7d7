"""Layers multiplied in half the bits: training.precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shortlist.training.blocks import Encoders

NO_BFLOAT16 = (
    "precision = 'bfloat16' is for layers over features, and for loss = 'softmax' over one pool of "
    "negatives for all rows; here it would do nothing: leave it out"
)


def in_bfloat16(encoders: Encoders, device: str) -> Encoders:
    """Return the same encoders with their layers multiplied in bfloat16; vectors stay float32.

    device: the type of what the towers are on, "cpu" or "cuda".
    """

    def half(encode: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        def encoded(what: Any) -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                return encode(what).float()

        return encoded

    return encoders._replace(queries=half(encoders.queries), items=half(encoders.items))
