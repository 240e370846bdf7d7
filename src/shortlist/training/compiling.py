"""Towers compiled to machine code by torch.compile: training.compile."""

import os
import shutil

import torch

from shortlist.errors import ModelError
from shortlist.training.blocks import Encoders

COMPILERS = ("g++", "clang++")
"""What torch.compile translates through on a CPU, unless the variable CXX names another."""


def compiled(encoders: Encoders) -> Encoders:
    """Return encoders that are compiled at the first batch, once for batches of any size.

    Vectors and gradients are those of the plain ones up to rounding; dropout draws other coins.
    Errors: ModelError where there is no C++ compiler.
    """
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise ModelError(
            f"training.compile needs a C++ compiler, and {' or '.join(names)} is not to be found: "
            "install one (Debian: g++), name another by the variable CXX, or leave compile out"
        )
    return encoders._replace(
        queries=torch.compile(encoders.queries, dynamic=True),
        items=torch.compile(encoders.items, dynamic=True),
    )
