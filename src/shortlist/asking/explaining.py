"""Why does an item have its score? Reasons in rows become reasons in ids, once for all."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shortlist.asking.answering import Answering
from shortlist.asking.queries import Queries, as_queries, lists_of_items
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.data.dataset import TrainingData
from shortlist.data.vocabulary import Ids

REASONS = {
    "query": pl.Int64,
    "item": pl.Int64,
    "kind": pl.String,
    "because": pl.String,
    "contribution": pl.Float64,
}
"""The columns of an explanation before rows become ids: contributions of an item sum to its score.

query: its position; item: a row; kind: "event" (because: an item row), "user" (a user row) or
another word (because: text).
"""


class Explaining(Answering):
    """A retriever that says why: a subclass gives `reasons` in rows.

    reasons_sum: whether the contributions of an item's reasons add up to its score.
    """

    reasons_sum: ClassVar[bool] = True

    @abstractmethod
    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return the REASONS of item rows, one tensor a query; rows 0 are unknown items."""

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return why these items have their scores: one row a reason, the strongest first.

        items: one list of ids a query. Columns: query (its position), item, kind ("event", ...),
        because (the id of the event's item, say, as text), contribution. Where `reasons_sum`, the
        contributions of an item sum to its score, else they are what `reasons` says. An item that
        the retriever cannot score has no row. Errors: QueryError.
        """
        asked = as_queries(queries)
        self.check_told(asked)
        lists = lists_of_items(items, len(asked))
        parts, start = [pl.DataFrame(schema=REASONS)], 0
        for block in row_blocks(asked, self.data, timed=self.timed, size=self.queries_at_a_time):
            stop = start + len(block.users)
            rows = [torch.from_numpy(self.data.items.rows(ids)) for ids in lists[start:stop]]
            part = self.reasons(block, rows)
            parts.append(part.with_columns(pl.col("query") + start))
            start = stop
        return named_reasons(pl.concat(parts, how="diagonal"), self.data)


def named_reasons(reasons: pl.DataFrame, data: TrainingData) -> pl.DataFrame:
    """Put ids where rows stand, and the strongest reason of an item first."""
    items = data.items.external(reasons["item"].to_numpy())
    because = reasons["because"]
    for kind, vocabulary in (("event", data.items), ("user", data.users)):
        mask = (reasons["kind"] == kind).to_numpy()
        if mask.any():
            rows = because.filter(pl.Series(mask)).cast(pl.Int64).to_numpy()
            because = because.scatter(
                np.flatnonzero(mask), vocabulary.external(rows).cast(pl.String)
            )
    named = reasons.with_columns(items.alias("item"), because.alias("because"))
    item = ["query", "item"]  # The reasons of an item stand together, those of a channel in it.
    source = [*item, "channel"] if "channel" in named.columns else item
    place, size = pl.col("_place"), pl.col("contribution").abs()
    order = [pl.col("query"), place.min().over(item), place.min().over(source), size]
    return (
        named.with_columns(pl.int_range(pl.len()).alias("_place"))
        .sort(order, descending=[False, False, False, True], maintain_order=True)
        .drop("_place")
    )
