"""Why does an item have its score? A retriever gives reasons in rows; they become ids here."""

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
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Ids

REASONS = {
    "query": pl.Int64,
    "item": pl.Int64,
    "kind": pl.String,
    "because": pl.String,
    "contribution": pl.Float64,
}
"""The columns of an explanation before rows become ids.

query: position of the query in its block.
item: item row.
kind: what `because` holds: "event" an item row, "user" a user row, any other kind text.
because: the cause.
contribution: its part of the score.
"""


class Explaining(Answering):
    """A retriever that explains its scores; a subclass provides `reasons` in rows.

    reasons_sum: True if the contributions of an item's reasons add up to its score.
    """

    reasons_sum: ClassVar[bool] = True

    @abstractmethod
    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return a frame with the columns REASONS.

        items: item rows, one int64 tensor per query; row 0 is an unknown item.
        """

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return one row per reason for the scores of items, the strongest reason first.

        The columns are query (its position), item (id), kind (such as "event"), because (text, such
        as the id of the event's item) and contribution. If `reasons_sum`, the contributions of an
        item sum to its score. An item that the retriever cannot score has no row.

        Args:
            queries: `Queries`, or a plain list of user ids. Those that `recommend` was asked will
                do: what leaves items out of its lists (`where`, `allow`, ...) leaves none out here.
            items: one list of item ids per query.

        Raises:
            QueryError: for an invalid query, or not one list per query.
        """
        asked = as_queries(queries)
        self.refuse_unread(asked)
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
    """Replace rows by ids, and sort each item's reasons by strength."""
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
    item = ["query", "item"]  # Reasons are grouped by item and, within it, by channel.
    source = [*item, "channel"] if "channel" in named.columns else item
    place, size = pl.col("_place"), pl.col("contribution").abs()
    order = [pl.col("query"), place.min().over(item), place.min().over(source), size]
    return (
        named.with_columns(pl.int_range(pl.len()).alias("_place"))
        .sort(order, descending=[False, False, False, True], maintain_order=True)
        .drop("_place")
    )
