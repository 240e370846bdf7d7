"""The multi-layer perceptron on top of a tower's fields."""

import math
from collections.abc import Sequence

from torch import nn

INITIAL_GAIN = 0.3
"""Initial scale of the perceptron's output, which is added to id embeddings."""


class Perceptron(nn.Sequential):
    """A sequence of layers, which training.precision can multiply in bfloat16."""


def has_perceptron(towers: nn.Module) -> bool:
    """Tell whether any of the towers has a Perceptron."""
    return any(isinstance(module, Perceptron) for module in towers.modules())


def mlp(width: int, layers: Sequence[int], dim: int, dropout: float) -> Perceptron:
    """Build a perceptron from width through the sizes `layers` to dim, with GELU and dropout.

    Without layers it is one linear map. The last layer starts small, so that the id embeddings
    dominate at first.
    """
    modules: list[nn.Module] = []
    for size in layers:
        modules += [nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout)]
        width = size
    last = nn.Linear(width, dim)
    nn.init.normal_(last.weight, std=INITIAL_GAIN / math.sqrt(max(width, 1)))
    nn.init.zeros_(last.bias)
    return Perceptron(*modules, last)
