"""Say, as JSON, which kernels the libraries take in this process."""

import ctypes
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from numba.core.registry import cpu_target

NAMES = ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename")


def openblas_core() -> str:
    """The core that numpy's OpenBLAS takes this processor for; empty if it has another library."""
    maps = Path("/proc/self/maps")
    mapped = maps.read_text().splitlines() if maps.exists() else []
    loaded = {line.split()[-1] for line in mapped if "openblas" in line}
    for path in sorted(loaded, key=lambda path: "numpy" not in path):
        library = ctypes.CDLL(path)
        for name in NAMES:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_char_p
                core: str = function().decode()
                return core
    return ""


def main() -> None:
    """Multiply once, so that the libraries are there, and tell."""
    random = np.random.default_rng(0)
    left = random.standard_normal((130, 77), dtype=np.float32)
    right = random.standard_normal((77, 61), dtype=np.float32)
    left @ right
    if threads := os.environ.get("SHORTLIST_THREADS"):
        torch.set_num_threads(int(threads))
    product = torch.from_numpy(left) @ torch.from_numpy(right)
    facts = {
        "aten": torch.backends.cpu.get_cpu_capability(),
        "products": hashlib.sha256(product.numpy().tobytes()).hexdigest(),
        "blas": openblas_core(),
        "numba": cpu_target.target_context.codegen().magic_tuple()[1],
        "threads": str(torch.get_num_threads()),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
