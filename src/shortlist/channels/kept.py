"""Are the tensors of a bundle ones that a retriever would have saved? Checked before use.

Compiled loops do not check array bounds, so every row number is checked here once. The bundle
itself checks that all numbers are finite.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from shortlist.errors import ModelError

BLOCK = 2**20
"""Numbers checked at a time, so that a check needs little additional memory."""

LARGEST = 1e15
"""Largest absolute value allowed: sums of larger numbers could overflow a float32 score."""

Expected: TypeAlias = tuple[torch.dtype | tuple[torch.dtype, ...], tuple[int | str, ...]]
"""A dtype (or several that are allowed) and a shape of numbers, or letters for free sizes."""


def check_tensors(
    file: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Expected]
) -> None:
    """Refuse tensors with other names, dtypes or shapes. Equal letters stand for equal sizes.

    >>> check_tensors("learned", {"ids": torch.zeros(3, 2)}, {"ids": (torch.float32, (3, "N"))})
    """
    if tensors.keys() != expected.keys():
        raise ModelError(
            f"{file} must hold the tensors {', '.join(sorted(expected)) or '(none)'}, "
            f"got {', '.join(sorted(tensors)) or '(none)'}"
        )
    sizes: dict[str, int] = {}
    for name, (dtypes, shape) in expected.items():
        tensor = tensors[name]
        kinds = dtypes if isinstance(dtypes, tuple) else (dtypes,)
        fits = tensor.dtype in kinds and tensor.dim() == len(shape)
        if fits:
            wanted = [
                sizes.setdefault(size, given) if isinstance(size, str) else size
                for size, given in zip(shape, tensor.shape, strict=True)
            ]
            fits = list(tensor.shape) == wanted
        if not fits:
            kind = " or ".join(str(k).removeprefix("torch.") for k in kinds)
            given = str(tensor.dtype).removeprefix("torch.")
            sides = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
            raise ModelError(
                f"{file}: {name} must be {kind} [{', '.join(map(str, sides))}], "
                f"got {given} {list(tensor.shape)}"
            )


def check_rows(name: str, rows: Tensor, least: int, most: int, *, distinct: bool = False) -> None:
    """Refuse row numbers outside least..most and, if `distinct`, rows that occur twice."""
    if not len(rows):
        return
    low, high = int(rows.min()), int(rows.max())
    if low < least or high > most:
        raise ModelError(f"{name} must be rows from {least} to {most}, got {low} to {high}")
    if distinct and bool((torch.bincount(rows.flatten() - least) > 1).any()):
        raise ModelError(f"{name} must not hold a row twice")


def check_offsets(name: str, offsets: Tensor, total: int) -> None:
    """Refuse offsets that do not start at 0, end at `total` and never decrease."""
    if not len(offsets) or int(offsets[0]) != 0 or int(offsets[-1]) != total:
        raise ModelError(f"{name} must rise from 0 to {total}")
    if bool((offsets[1:] < offsets[:-1]).any()):
        raise ModelError(f"{name} must not fall")


def check_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a tensor with NaN or an absolute value above LARGEST; reads BLOCK numbers at once."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            for block in torch.split(tensor.reshape(-1), BLOCK) if tensor.numel() else ():
                low, high = (float(end) for end in block.aminmax())
                if not -LARGEST <= low <= high <= LARGEST:
                    raise ModelError(f"{file}: {name} holds a number that no training gives")
