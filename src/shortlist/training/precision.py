"""In which precision are layers multiplied, and does the device have the arithmetic for it?"""

import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shortlist.errors import ModelError
from shortlist.training.blocks import Encoders

NO_BFLOAT16 = (
    "precision = 'bfloat16' is for layers over features, and for loss = 'softmax' over one pool of "
    "negatives for all rows; here it would do nothing: leave it out"
)


SLOW = (
    "precision = 'bfloat16', and the device has no arithmetic for it: training takes several times "
    "as long as in float32; precision = 'auto' chooses what the device can do"
)

_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of oneDNN's own limit (ONEDNN_MAX_CPU_ISA) under which it leaves AVX512-BF16 unused."""


def chosen(precision: str, *, usable: bool, device: torch.device | str) -> str:
    """Return "float32" or "bfloat16" for a value of training.precision.

    "auto" is bfloat16 where it is usable and the device multiplies it natively. usable: whether
    anything would be multiplied in it. Errors: ModelError for a "bfloat16" that would do nothing.
    """
    if precision == "bfloat16" and not usable:
        raise ModelError(NO_BFLOAT16)
    if precision != "auto":
        return precision
    return "bfloat16" if usable and multiplies_bfloat16(device) else "float32"


def is_slow(precision: str, device: torch.device | str) -> bool:
    """Tell whether SLOW is to be said of a value of training.precision."""
    return precision == "bfloat16" and not multiplies_bfloat16(device)


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device has arithmetic of its own for bfloat16.

    CUDA: as torch says. CPU: AVX512-BF16 or AMX, or the BF16 extension of ARM, where torch's matrix
    library (oneDNN) uses them; not where they are emulated. Other devices count as without.
    """
    kind = torch.device(device)
    if kind.type == "cuda":
        with torch.cuda.device(kind):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind.type == "cpu" and _cpu_multiplies_bfloat16()


def _cpu_multiplies_bfloat16() -> bool:
    """What oneDNN says; on x86, where it says yes to emulating too, also what the CPU says."""
    told = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if told is None or not torch.backends.mkldnn.is_available() or not told():  # type: ignore[no-untyped-call]
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BFLOAT16:
        return False
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return True
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


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
