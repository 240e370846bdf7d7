"""What do the channels without towers share? Options checked, one fit, answers, explanations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.config.sections import Section
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.data.vocabulary import Ids, checked_ids
from shortlist.errors import QueryError
from shortlist.index.base import Hits
from shortlist.retrievers.base import (
    Candidates,
    Queries,
    RowQueries,
    State,
    as_queries,
    candidates,
    check_k,
    lists_of_items,
    row_blocks,
)
from shortlist.retrievers.options import checked_options
from shortlist.retrievers.popular import Popular, popular_for_strangers
from shortlist.retrievers.quotas import keeping_quota
from shortlist.retrievers.unfitted import FittedFirst, check_split
from shortlist.training.progress import Progress

Chosen = TypeVar("Chosen", bound=Section)

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


class Counting(FittedFirst, ABC, Generic[Chosen]):
    """A retriever fitted in one pass over the log: counts, closed forms, a few factorisations.

    Its options are the fields of `options_type`, as a recipe's [channels.NAME] table has them.
    """

    options_type: ClassVar[type[Section]]

    data: TrainingData
    options: Chosen

    def __init__(self, options: Chosen | None = None, *, device: str = "cpu", **given: Any) -> None:
        self.options = self.options_of(options, given)
        self.device = device

    @classmethod
    def options_of(cls, options: Chosen | None, given: Mapping[str, Any]) -> Chosen:
        """Return the options with `given` put over them, checked. Errors: ModelError."""
        checked: Any = checked_options(cls.options_type, options, given, cls.__name__)
        return checked  # type: ignore[no-any-return]

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Learn from the rows `fit` names; there is nothing for validation rows to choose."""
        check_split(split)
        data = split.training_data(fit)
        if progress is not None:
            progress.stage(f"fitting {type(self).__name__} on {len(data.training_log):,} events")
        return self.fit_data(data)

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Learn again from the rows `fit` names."""
        return self.fit(split, fit, progress=progress)

    def fit_data(self, data: TrainingData) -> Self:
        """Learn from the training rows of data made ready before."""
        self._take(data)
        self.learn()
        return self

    @abstractmethod
    def learn(self) -> None:
        """Make what is to be known of `self.data.training_log`."""

    @abstractmethod
    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] int64, -1 past the end, and scores, -inf there."""

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""
        return self.data.candidates(with_features=False)

    def strangers(self, block: RowQueries) -> Tensor:
        """True for queries of which nothing is known, [B]: no trained item in their history."""
        known = (block.history.values > 0) & (block.history.values <= self.data.items.trained)
        owners = block.history.owners()[known]
        return torch.bincount(owners, minlength=len(block.users)) == 0

    @keeping_quota
    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k best items of each query, what it has met left out.

        Lists are shorter than k where fewer items have anything to do with the query. A query of
        which nothing is known gets the popular items, and the fallback flag.
        """
        wanted = as_queries(queries)
        k = check_k(k, len(self.candidate_rows()))
        hits, fallback = [], []
        for block in row_blocks(wanted, self.data):
            strangers = self.strangers(block)
            found = self.search(block, k)
            popular_for_strangers(found, strangers, self._popular, block.seen, block.allow)
            hits.append(found)
            fallback.append(strangers)
        return candidates(hits, fallback, k, self.data.items)

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the k items most similar to each item id, itself left out.

        An unknown item gets the popular items instead, and the fallback flag.
        """
        rows = torch.from_numpy(self.data.items.rows(checked_ids(items, "items")))
        k = check_k(k, max(len(self.candidate_rows()) - 1, 1))
        unknown = (rows == 0) | (rows > self.data.items.trained)
        found = self.similar_rows(rows.masked_fill(unknown, 0), k)
        own = (rows, torch.arange(len(rows) + 1))
        popular_for_strangers(found, unknown, self._popular, own)
        return candidates([found], [unknown], k, self.data.items)

    def similar_rows(self, rows: Tensor, k: int) -> Hits:  # noqa: ARG002
        """Answer `similar` for item rows [n], 0 where the item is unknown (any answer will do)."""
        raise QueryError(f"a {type(self).__name__} does not know which items are similar")

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return why these items have their scores: one row a reason, the strongest first.

        items: one list of ids a query. Columns: query (its position), item, kind ("event", ...),
        because (the id of the event's item, say, as text), contribution. The contributions of an
        item sum to its score; an item the channel cannot score has no row.
        """
        wanted = as_queries(queries)
        lists = lists_of_items(items, len(wanted))
        parts, start = [], 0
        for block in row_blocks(wanted, self.data):
            stop = start + len(block.users)
            rows = [torch.from_numpy(self.data.items.rows(ids)) for ids in lists[start:stop]]
            part = self.reasons(block, rows)
            parts.append(part.with_columns(pl.col("query") + start))
            start = stop
        return self._named(pl.concat(parts) if parts else pl.DataFrame(schema=REASONS))

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:  # noqa: ARG002
        """Return the REASONS of item rows, one tensor a query; rows 0 are unknown items."""
        raise QueryError(f"a {type(self).__name__} does not say why: its scores are no sums")

    def observe(self, data: TrainingData) -> Self:
        """Take new events: `data` is the old data with them. Channels that can do less than a
        whole fit override this, and give what a whole fit would.
        """
        return self.fit_data(data)

    def state(self) -> State:
        """Return what a bundle keeps beside the data: the options and what was learned."""
        return {"options": self.options.model_dump(mode="json")}, {"learned": self.learned()}

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """What `learn` made, as named tensors; what the data gives at no cost is left out."""

    @abstractmethod
    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `learned` gave, `self.data` being there: equal answers, bit for bit."""

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the retriever that `state` came from: it gives the same answers, bit for bit."""
        retriever = cls(device=device, **settings["options"])
        retriever._take(data)
        retriever.set_learned(states["learned"])
        return retriever

    def _take(self, data: TrainingData) -> None:
        self.data = data
        self._popular = Popular().fit_data(data)

    def _named(self, reasons: pl.DataFrame) -> pl.DataFrame:
        """Put ids where rows stand, and the strongest reason of an item first."""
        data = self.data
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
        position = pl.int_range(pl.len()).alias("_position")
        order = ["query", pl.col("_position").min().over("query", "item"), pl.col("_size")]
        return (
            named.with_columns(position, pl.col("contribution").abs().alias("_size"))
            .sort(order, descending=[False, False, True], maintain_order=True)
            .drop("_position", "_size")
        )
