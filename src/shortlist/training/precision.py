"""Which precision do matrix products use, and does the device support it in hardware?"""

import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shortlist.errors import ModelError
from shortlist.training.blocks import Encoders

NO_BFLOAT16 = (
    "precision = 'bfloat16' applies to layers over features, and to loss = 'softmax' over one pool "
    "of negatives for all rows; here it does nothing: leave it out"
)


SLOW = (
    "precision = 'bfloat16', and the device has no hardware for it: training takes several times "
    "as long as in float32; precision = 'auto' chooses a precision that the device supports"
)

_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of oneDNN's variable ONEDNN_MAX_CPU_ISA with which it does not use AVX512-BF16."""


def chosen(precision: str, *, usable: bool, device: torch.device | str) -> str:
    """Return "float32" or "bfloat16" for a value of training.precision.

    "auto" becomes bfloat16 if it is usable and the device supports it in hardware.

    usable: whether the training has matrix products that bfloat16 applies to.
    device: the device of the towers.
    Errors: ModelError for "bfloat16" if it is not usable.
    """
    if precision == "bfloat16" and not usable:
        raise ModelError(NO_BFLOAT16)
    if precision != "auto":
        return precision
    return "bfloat16" if usable and multiplies_bfloat16(device) else "float32"


def is_slow(precision: str, device: torch.device | str) -> bool:
    """Tell whether a value of training.precision needs the warning SLOW on this device."""
    return precision == "bfloat16" and not multiplies_bfloat16(device)


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware; emulation does not count.

    CUDA: the answer of torch. CPU: AVX512-BF16, AMX or the BF16 extension of ARM, if torch's matrix
    library (oneDNN) uses them. False for other devices.
    """
    kind = torch.device(device)
    if kind.type == "cuda":
        with torch.cuda.device(kind):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind.type == "cpu" and _cpu_multiplies_bfloat16()


def _cpu_multiplies_bfloat16() -> bool:
    """Ask oneDNN; on x86 it also reports emulation as support, so that the CPU is asked as well."""
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
    """Return encoders whose layers are multiplied in bfloat16; their vectors stay float32.

    device: type of the towers' device, "cpu" or "cuda".
    """

    def half(encode: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        def encoded(what: Any) -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                return encode(what).float()

        return encoded

    return encoders._replace(queries=half(encoders.queries), items=half(encoders.items))
