"""The door back: item rows and scores become lists of the caller's own ids."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.vocabulary import Vocabulary
from shortlist.index.base import Hits


class Origin(NamedTuple):
    """Which channels the slots of an answer come from; see `blend.Blended`."""

    by: Tensor
    ranks: Tensor


class Answer(NamedTuple):
    """The answer to a block of B queries. strangers: bool [B], of which nothing is known."""

    hits: Hits
    strangers: Tensor
    origin: Origin | None = None


@dataclass(frozen=True)
class Candidates:
    """Lists of items, best first, one a query; shorter than k where fewer items match.

    rows: [B, k] int64 item rows, -1 past the end; scores: [B, k] float32, bigger is closer.
    fallback: [B] bool, true where nothing was known of the user and popular items stand in.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    fallback: NDArray[np.bool_]
    items: Vocabulary

    def __len__(self) -> int:
        """How many queries were answered."""
        return len(self.rows)

    @cached_property
    def ids(self) -> list[list[Any]]:
        """The item ids of each query, exactly as they came in."""
        frame = self.to_frame().select("query", "item")
        parts = dict(frame.group_by("query", maintain_order=True).agg("item").iter_rows())
        return [parts.get(query, []) for query in range(len(self))]

    def to_frame(self) -> pl.DataFrame:
        """One row a candidate: query (its position), rank from 1, item id, score, fallback."""
        query, rank = np.nonzero(self.rows >= 0)
        return pl.DataFrame(
            {
                "query": query,
                "rank": rank + 1,
                "item": self.items.external(self.rows[query, rank]),
                "score": self.scores[query, rank],
                "fallback": self.fallback[query],
            }
        )
