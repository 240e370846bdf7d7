"""How are towers compiled? By torch.compile, with training.compile."""

import os
import shutil

import torch

from shortlist.errors import ModelError
from shortlist.training.blocks import Encoders

COMPILERS = ("g++", "clang++")
"""C++ compilers that torch.compile looks for on a CPU; the variable CXX names another one."""


def compiled(encoders: Encoders) -> Encoders:
    """Return encoders that are compiled at the first batch, once for batches of all sizes.

    Vectors and gradients equal those of the plain encoders up to rounding. Dropout draws other
    masks. Errors: ModelError without a C++ compiler.
    """
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise ModelError(
            f"training.compile needs a C++ compiler, and {' or '.join(names)} was not found: "
            "install one (Debian: g++), name another one in the variable CXX, or leave compile out"
        )
    return encoders._replace(
        queries=torch.compile(encoders.queries, dynamic=True),
        items=torch.compile(encoders.items, dynamic=True),
    )
