"""Can Python read a tensor without waiting? On a GPU each read waits for all queued work."""

from torch import Tensor


def free_to_read(tensor: Tensor) -> bool:
    """Tell whether a tensor is in CPU memory.

    If it is not, a training step does not read it: the step runs the same code in both cases, or
    checks the value only every few steps.
    """
    return tensor.device.type == "cpu"
