"""The multi-layer perceptron on top of a tower's fields."""

import math
from collections.abc import Sequence

from torch import nn

INITIAL_GAIN = 0.3
"""How loud the perceptron starts beside the id embeddings it is added to."""


def mlp(width: int, layers: Sequence[int], dim: int, dropout: float) -> nn.Sequential:
    """Build width -> layers -> dim with GELU between; no layers give one linear map.

    The last layer starts small, so that training begins from the embeddings alone.
    """
    modules: list[nn.Module] = []
    for size in layers:
        modules += [nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout)]
        width = size
    last = nn.Linear(width, dim)
    nn.init.normal_(last.weight, std=INITIAL_GAIN / math.sqrt(max(width, 1)))
    nn.init.zeros_(last.bias)
    return nn.Sequential(*modules, last)
