"""How do item rows and scores become lists of the caller's own ids?"""

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
    """The channels that each slot of an answer comes from; see `blend.Blended` for the shapes."""

    by: Tensor
    ranks: Tensor


class Answer(NamedTuple):
    """The answer to a block of B queries.

    hits: item rows and scores, [B, k] each.
    strangers: bool [B], True for queries of which nothing is known.
    origin: the channels of each slot; None unless a blend answered.
    """

    hits: Hits
    strangers: Tensor
    origin: Origin | None = None


@dataclass(frozen=True, repr=False)
class Candidates(Showing):
    """Recommended items, best first, one list per query. `ids` holds the lists of item ids.

    A list is shorter than k if fewer items match.

    Attributes:
        rows: item rows, int64 [B, k]; -1 past the end of a list.
        scores: float32 [B, k]; a bigger score is closer. -inf past the end.
        fallback: bool [B], True for queries of which nothing was known and which got popular items.
        items: maps rows to item ids.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    fallback: NDArray[np.bool_]
    items: Vocabulary

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.rows)

    @cached_property
    def ids(self) -> list[list[Any]]:
        """The item ids of each query's list, with the type that they have in the log."""
        frame = self.to_frame().select("query", "item")
        parts = dict(frame.group_by("query", maintain_order=True).agg("item").iter_rows())
        return [parts.get(query, []) for query in range(len(self))]

    def facts(self) -> Facts:
        """Return the numbers of queries, of candidates and of queries that fell back."""
        return {
            "queries": len(self),
            "k": self.rows.shape[1],
            "candidates": int((self.rows >= 0).sum()),
            "fallback": int(self.fallback.sum()),
        }

    def _repr_html_(self) -> str:
        """Show the best candidates of the first queries, one row per query."""
        few = self.rows[:MOST, :MOST]
        query, rank = np.nonzero(few >= 0)
        names = iter(self.items.external(few[query, rank]).to_list())
        met = (few >= 0).sum(axis=1).tolist()
        shown = [[next(names) for _ in range(many)] for many in met]
        rows = [[number, *row] for number, row in enumerate(shown)]
        return html_table(repr(self), ("query", *map(str, range(1, few.shape[1] + 1))), rows)

    def to_pandas(self) -> Any:
        """Return `to_frame()` as a pandas DataFrame. Errors: QueryError without pandas."""
        try:
            return self.to_frame().to_pandas()
        except ModuleNotFoundError as error:
            raise QueryError("to_pandas needs pandas: pip install pandas") from error

    def to_frame(self) -> pl.DataFrame:
        """Return one row per candidate.

        Columns: query (its position, from 0), rank (from 1), item (id), score, fallback.
        """
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
