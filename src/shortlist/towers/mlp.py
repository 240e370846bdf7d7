"""The multi-layer perceptron on top of a tower's fields."""

import math
from collections.abc import Sequence

from torch import nn

INITIAL_GAIN = 0.3
"""How loud the perceptron starts beside the id embeddings it is added to."""


class Perceptron(nn.Sequential):
    """Layers one after another: what `training.precision` may multiply in half the bits."""


def has_perceptron(towers: nn.Module) -> bool:
    """Tell whether any tower has one."""
    return any(isinstance(module, Perceptron) for module in towers.modules())


def mlp(width: int, layers: Sequence[int], dim: int, dropout: float) -> Perceptron:
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
    return Perceptron(*modules, last)
