"""The door back: item rows and scores become lists of the caller's own ids."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import QueryError
from shortlist.index.base import Hits
from shortlist.showing import MOST, Facts, Showing, html_table


class Origin(NamedTuple):
    """Which channels the slots of an answer come from; see `blend.Blended`."""

    by: Tensor
    ranks: Tensor


class Answer(NamedTuple):
    """The answer to a block of B queries. strangers: bool [B], of which nothing is known."""

    hits: Hits
    strangers: Tensor
    origin: Origin | None = None


@dataclass(frozen=True, repr=False)
class Candidates(Showing):
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

    def facts(self) -> Facts:
        """Return how many queries and candidates it has, and how many queries fell back."""
        return {
            "queries": len(self),
            "k": self.rows.shape[1],
            "candidates": int((self.rows >= 0).sum()),
            "fallback": int(self.fallback.sum()),
        }

    def _repr_html_(self) -> str:
        """Show the best candidates of the first queries, a row a query."""
        few = self.rows[:MOST, :MOST]
        query, rank = np.nonzero(few >= 0)
        names = iter(self.items.external(few[query, rank]).to_list())
        met = (few >= 0).sum(axis=1).tolist()
        shown = [[next(names) for _ in range(many)] for many in met]
        rows = [[number, *row] for number, row in enumerate(shown)]
        return html_table(repr(self), ("query", *map(str, range(1, few.shape[1] + 1))), rows)

    def to_pandas(self) -> Any:
        """Return what `to_frame` does as a pandas DataFrame. Errors: QueryError without pandas."""
        try:
            return self.to_frame().to_pandas()
        except ModuleNotFoundError as error:
            raise QueryError("to_pandas needs pandas: pip install pandas") from error

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
