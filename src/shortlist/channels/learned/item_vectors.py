"""What do trained retrievers share whose index holds item vectors?"""

import logging
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.asking.similar import FindingSimilar
from shortlist.channels.learned.base import Learner
from shortlist.index.base import Hits, VectorIndex
from shortlist.index.exact import ExactIndex
from shortlist.index.servers import ServerIndex
from shortlist.similarity import comparable, score

logger = logging.getLogger("shortlist.channels")

AT_A_TIME = 65_536
"""Number of items encoded at a time."""


class ItemVectors(Learner, FindingSimilar):
    """A trained retriever that returns the items nearest to the vector of a query."""

    placed: ClassVar[str] = "item_vectors"
    reads_log: ClassVar[bool] = False

    _vectors: Tensor | None  # None if only the server of the index has them.

    def search(self, block: RowQueries, k: int) -> Hits:
        """Return the k items nearest to each of B queries."""
        vectors = self._encode_block(block)
        return self.index.search(vectors, k, exclude=block.seen, allow=block.allow)

    def scores_of(self, block: RowQueries, rows: Tensor) -> Tensor:
        """Return the score of each item row [n] for each query, [B, n]; -inf without a vector."""
        place = self._position[rows]
        vectors = self.vectors_of(rows)
        scores = score(self._encode_block(block), vectors, self.training_section.similarity)
        return scores.masked_fill(place < 0, float("-inf"))

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, [N] int64."""
        rows: NDArray[np.int64] = self.item_rows.numpy()
        return rows

    def has_neighbours(self, rows: Tensor) -> Tensor:
        """Return True for item rows [n] that have a vector, bool [n]."""
        return self._position[rows] >= 0

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items nearest to each item row, excluding that item."""
        own = (rows, torch.arange(len(rows) + 1))
        return self._item_index().search(self.vectors_of(rows), k, exclude=own)

    @property
    def item_vectors(self) -> Tensor:
        """The vectors [N, D] of `item_rows`; those in a server are fetched at each access."""
        return self.vectors_of(self.item_rows) if self._vectors is None else self._vectors

    @item_vectors.setter
    def item_vectors(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def vectors_of(self, rows: Tensor) -> Tensor:
        """Return the vectors of item rows, [n, D]; rows without a vector get an arbitrary one.

        Vectors from an index in a server (`ServerIndex`) have length 1 under cosine.
        """
        if self._vectors is None and isinstance(self.index, ServerIndex):
            return self.index.vectors_of(rows)
        assert self._vectors is not None
        return self._vectors[self._position[rows].clamp(min=0)]

    def encode_items(self) -> tuple[pl.Series, Tensor]:
        """Return the ids of all candidate items, and their vectors as `comparable` returns them."""
        ids = self.data.items.external(self.item_rows.numpy())
        return ids, comparable(self.item_vectors, self.training_section.similarity)

    def place_items(self) -> None:
        """Encode every candidate item and build the index."""
        self.towers.eval()
        rows = self._rows_to_place()
        with torch.no_grad():
            parts = [self._encode_items(part).cpu() for part in torch.split(rows, AT_A_TIME)]
        self.set_items(rows, torch.cat(parts))
        logger.info("%s of %s item vectors built", type(self.index).__name__, f"{len(rows):,}")

    def set_items(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        """Search these item vectors from now on.

        rows: item rows, [N] int64.
        vectors: [N, D]; None if only the server of the index has them.
        index: an index of these vectors; None builds an exact one.
        """
        self.item_rows = rows
        self._vectors = vectors
        self._position = torch.full((len(self.data.items) + 1,), -1)
        self._position[rows] = torch.arange(len(rows))
        if index is None:
            assert vectors is not None
            keys = torch.from_numpy(self.data.items.tie_keys)[rows]
            index = ExactIndex(self.training_section.similarity).build(rows, vectors, keys)
        self.index: VectorIndex = index

    def _item_index(self) -> VectorIndex:
        """Return the index that `near` searches with the vector of an item."""
        return self.index

    @abstractmethod
    def _rows_to_place(self) -> Tensor:
        """Return the rows of the candidates, [N] int64."""

    @abstractmethod
    def _encode_items(self, rows: Tensor) -> Tensor:
        """Return the vectors of item rows, [n, D], on the device of the towers."""

    def _place(self) -> None:
        self.place_items()

    def _placed(self) -> tuple[Tensor, Tensor]:
        return self.item_rows, self.item_vectors

    def _placed_rows(self) -> Tensor:
        return self.item_rows

    def _put_back(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        self.set_items(rows, vectors, index)
