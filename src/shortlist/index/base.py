"""What must an index do? It takes item vectors and returns the k nearest items of a query."""

from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor


class Hits(NamedTuple):
    """The answer to B queries, best item first.

    ids: int64 [B, k], -1 where fewer than k items match.
    scores: float32 [B, k], -inf where fewer than k items match. A bigger score is closer.
    """

    ids: Tensor
    scores: Tensor


class VectorIndex(Protocol):
    """Contract of all indexes: item vectors that are searched under one similarity.

    Ids are the caller's: any int64 >= 0. Equal scores are ordered by tie key, smaller first. The
    default tie key is a fixed hash of the id, so that neither the order of the catalogue nor the
    size of an id decides which of several equal items is recommended.

    is_exact: whether searches return exactly the k best items.
    similarity: "dot", "cosine" or "euclidean".
    """

    is_exact: ClassVar[bool]
    similarity: str

    def __init__(self, similarity: str) -> None: ...

    def __len__(self) -> int: ...

    def build(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Replace the contents: ids int64 [N], vectors float32 [N, D], tie_keys int64 [N]."""
        ...

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items with ids that are not in the index; the arguments are those of `build`."""
        ...

    def remove(self, ids: Tensor) -> Self:
        """Remove the items with these ids. Errors: DataError if one is not in the index."""
        ...

    def search(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
        allow: Tensor | None = None,
    ) -> Hits:
        """Return the k best items of each query, always min(k, matching items) of them.

        queries: float32 [B, D], or [B, K, D], where an item's score is its best over K interests.
        k: number of items per query.
        exclude: (ids, offsets [B + 1]). Query i does not get ids[offsets[i]:offsets[i + 1]]; ids
        that are not in the index are ignored.
        allow: bool, longer than the highest id. Only ids with True are found, for all queries.
        Errors: QueryError.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the contents as named tensors, which a bundle stores in a file."""
        ...

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """Return the index that `state` describes. Its answers are bit-equal to the original's."""
        ...


def hashed(ids: Tensor) -> Tensor:
    """Return the default tie keys: a fixed hash, int64 [N], of ids, int64 [N].

    It is the finaliser of SplitMix64 (Steele et al. 2014), which maps distinct ids to distinct
    keys.
    """
    mixed = ids - 0x61C8864680B583EB  # The odd constant 0x9E3779B97F4A7C15, as signed.
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * factor  # Overflow wraps, as intended.
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if unsigned: zeros come in from the left instead of the sign."""
    return torch.bitwise_and(values >> bits, (1 << (64 - bits)) - 1)
