"""Is the value of a tensor free to look at? On a GPU each look waits for all work before it."""

from torch import Tensor


def free_to_read(tensor: Tensor) -> bool:
    """Tell whether its numbers lie where Python runs.

    Where they do not, a training step looks at none: what it would decide by a look, it does either
    way, or finds out every few steps.
    """
    return tensor.device.type == "cpu"
