"""What is an index: item vectors in, the k nearest items of a query out?"""

from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor


class Hits(NamedTuple):
    """The answer to B queries, best item first.

    ids: [B, k] int64, -1 where fewer than k items match. scores: [B, k] float32, -inf there.
    """

    ids: Tensor
    scores: Tensor


class VectorIndex(Protocol):
    """Item vectors under one similarity. Ids are whatever int64 >= 0 the caller knows items by.

    Equal scores are ordered by tie key, smaller first: a fixed hash of the item, so that neither
    the order of the catalogue nor the size of an id decides who is recommended.
    """

    is_exact: ClassVar[bool]
    similarity: str

    def __init__(self, similarity: str) -> None: ...

    def __len__(self) -> int: ...

    def build(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Replace the contents: ids [N] int64, vectors [N, D] float32, tie_keys [N] int64."""
        ...

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items with ids that are not in the index; the arguments are those of `build`."""
        ...

    def remove(self, ids: Tensor) -> Self:
        """Take out the items with these ids; each must be in the index."""
        ...

    def search(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
        allow: Tensor | None = None,
    ) -> Hits:
        """Return the k best items of each query; min(k, matching items) are always found.

        queries: [B, D], or [B, K, D] for the best of K interests. exclude: (ids, offsets [B + 1]),
        the ids query i must not get at ids[offsets[i]:offsets[i + 1]]; unknown ids are ignored.
        allow: bool [more than the highest id], True for each id that any query may get.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """The contents as named tensors, for a file."""
        ...

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """The index that `state` came from: it gives the same answers, bit for bit."""
        ...


def hashed(ids: Tensor) -> Tensor:
    """A fixed, well mixed int64 for each int64 id: tie keys where the caller brings none.

    The finaliser of SplitMix64 (Steele et al. 2014), which maps distinct ids to distinct keys.
    """
    mixed = ids - 0x61C8864680B583EB  # The odd constant 0x9E3779B97F4A7C15, as signed.
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * factor  # Wraps around 2^64, as it should.
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if unsigned: zeros come in from the left, not the sign."""
    return torch.bitwise_and(values >> bits, (1 << (64 - bits)) - 1)
