"""Which items and which queries does every index refuse?"""

from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.errors import DataError, ModelError, QueryError

BLOCK = 65_536
"""Vectors checked at a time, so that a check does not need a copy of the whole catalogue."""


class Items(NamedTuple):
    """The items of an index: ids int64 [N], vectors float32 [N, D], tie_keys int64 [N]."""

    ids: Tensor
    vectors: Tensor
    tie_keys: Tensor


def check_items(items: Items) -> None:
    """Raise DataError for wrong ids or tie keys, and ModelError for wrong vectors."""
    ids, vectors, tie_keys = items
    if vectors.dim() != 2 or vectors.shape[1] == 0 or vectors.dtype != torch.float32:
        raise ModelError(
            f"vectors must be float32 [N, D], got {vectors.dtype} {list(vectors.shape)}"
        )
    for name, column in (("ids", ids), ("tie_keys", tie_keys)):
        if column.dtype != torch.int64 or column.shape != (len(vectors),):
            raise DataError(
                f"{name} must be int64 [{len(vectors)}], one for each vector, "
                f"got {column.dtype} {list(column.shape)}"
            )
    if (ids < 0).any():
        raise DataError(f"ids must be >= 0, got {int(ids.min())}")
    for some, block in zip(torch.split(ids, BLOCK), torch.split(vectors, BLOCK), strict=True):
        finite = block.isfinite().all(1)
        if not finite.all():
            raise ModelError(f"the vector of item {int(some[~finite][0])} is not finite")


def check_unit(items: Items) -> None:
    """Raise ModelError for a vector whose length is not 1 although it was normalised."""
    off = (torch.linalg.vector_norm(items.vectors, dim=1) - 1).abs() > 1e-3
    if off.any():
        raise ModelError(
            f"the vector of item {int(items.ids[off][0])} has no cosine: "
            "it is zero, out of float32's range or, if loaded, not normalised"
        )


def check_queries(queries: Tensor, k: int, width: int, longest_item: float) -> None:
    """Raise QueryError for queries that an index of vectors [N, width] cannot answer."""
    if not width:
        raise QueryError("the index is empty: build it first")
    if k < 0:
        raise QueryError(f"k must be >= 0, got {k}")
    if queries.dim() not in {2, 3} or queries.shape[-1] != width or 0 in queries.shape[1:]:
        raise QueryError(
            f"queries must be [B, {width}] or [B, K, {width}], got {list(queries.shape)}"
        )
    if queries.dtype != torch.float32:
        raise QueryError(f"queries must be float32, got {queries.dtype}")
    finite = queries.isfinite().flatten(1).all(1)
    if not finite.all():
        raise QueryError(f"query {int((~finite).nonzero()[0])} is not finite")
    # |q·t| <= |q||t| and ||q - t|| <= |q| + |t|, so below this no score overflows to -inf or NaN.
    if 4 * max(longest(queries), longest_item) ** 2 > 3e38:
        raise QueryError("queries or items are so long that scores overflow float32")


def check_exclude(exclude: tuple[Tensor, Tensor], rows: int) -> None:
    """Raise QueryError unless `exclude` has one list for each query."""
    values, offsets = exclude
    steps, ends = offsets.diff(), offsets[:1].tolist() + offsets[-1:].tolist()
    if len(steps) != rows or ends != [0, len(values)] or (steps < 0).any():
        raise QueryError(
            f"the offsets of exclude must rise from 0 to {len(values)} in {rows} steps, "
            f"got {len(steps)} between {ends}"
        )


def check_allow(allow: Tensor, highest_id: int) -> None:
    """Raise QueryError unless `allow` is a bool vector with a value for every id of the index."""
    if allow.dtype != torch.bool or allow.dim() != 1 or len(allow) <= highest_id:
        raise QueryError(
            f"allow must be bool [{highest_id + 1}] or longer, "
            f"got {allow.dtype} {list(allow.shape)}"
        )


def longest(vectors: Tensor) -> float:
    """Return the euclidean length of the longest of the vectors [..., D], 0 without any."""
    most = 0.0
    for block in torch.split(vectors, BLOCK):
        lengths = torch.linalg.vector_norm(block, dim=-1, dtype=torch.float64)
        most = max(most, float(lengths.max()) if lengths.numel() else 0.0)
    return most
