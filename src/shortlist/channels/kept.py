"""Are the tensors of a bundle what a retriever would have kept? Asked before they are used.

Compiled loops do not look whether a row exists, so every row number is checked here, once. Whether
numbers are finite is checked by the bundle, for all tensors alike.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from shortlist.errors import ModelError

BLOCK = 2**20
"""Numbers looked at together: a check must not take as much memory again."""

LARGEST = 1e15
"""Scores of larger numbers could be more than a float32 holds."""

Expected: TypeAlias = tuple[torch.dtype | tuple[torch.dtype, ...], tuple[int | str, ...]]
"""A dtype, or several that will do, and a shape: numbers, or letters for sizes that are free."""


def check_tensors(
    file: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Expected]
) -> None:
    """Refuse other names, dtypes and shapes than these. Equal letters must stand for equal sizes.

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
    """Refuse row numbers outside least..most; distinct: and any that stands twice."""
    if not len(rows):
        return
    low, high = int(rows.min()), int(rows.max())
    if low < least or high > most:
        raise ModelError(f"{name} must be rows from {least} to {most}, got {low} to {high}")
    if distinct and bool((torch.bincount(rows.flatten() - least) > 1).any()):
        raise ModelError(f"{name} must not hold a row twice")


def check_offsets(name: str, offsets: Tensor, total: int) -> None:
    """Refuse offsets that do not rise from 0 to `total`."""
    if not len(offsets) or int(offsets[0]) != 0 or int(offsets[-1]) != total:
        raise ModelError(f"{name} must rise from 0 to {total}")
    if bool((offsets[1:] < offsets[:-1]).any()):
        raise ModelError(f"{name} must not fall")


def check_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a tensor with NaN, or a number beyond LARGEST, looking at a block of it at a time."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            for block in torch.split(tensor.reshape(-1), BLOCK) if tensor.numel() else ():
                low, high = (float(end) for end in block.aminmax())
                if not -LARGEST <= low <= high <= LARGEST:
                    raise ModelError(f"{file}: {name} holds a number that no training gives")
