"""Popularity: the same list for everybody, the baseline that every model must beat."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.retrievers.base import (
    Candidates,
    Queries,
    State,
    as_queries,
    candidates,
    check_k,
    row_blocks,
)


class Popular:
    """Items by the number of their training events; equal counts go by the tie rule.

    It scores catalogue items nobody has touched with 0, and needs nothing of the user.
    """

    data: TrainingData

    def fit(self, split: Split, fit: Fit = "train") -> Self:
        """Count the events that `fit` names."""
        return self.fit_data(split.training_data(fit))

    def fit_data(self, data: TrainingData) -> Self:
        """Count the training events of data made ready before."""
        self.data = data
        rows = torch.from_numpy(data.candidates(with_features=True))
        counts = torch.zeros(len(data.items) + 1)
        counts[: data.items.trained + 1] = torch.from_numpy(data.item_counts)
        keys = torch.from_numpy(data.items.tie_keys)
        # One vector of one number, minus the rank: no two are equal, so the order is one sort.
        order = torch.argsort(keys[rows], stable=True)
        order = order[torch.argsort(counts[rows][order], descending=True, stable=True)]
        self._counts = counts
        ranks = -torch.arange(len(order), dtype=torch.float32)[:, None]
        self._index = ExactIndex("dot").build(rows[order], ranks)
        return self

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""
        return self.data.candidates(with_features=True)

    def search(self, count: int, k: int, seen: tuple[Tensor, Tensor] | None) -> Hits:
        """Answer `count` queries: [count, k] item rows and their training counts."""
        hits = self._index.search(torch.ones(count, 1), k, exclude=seen)
        scores = self._counts[hits.ids.clamp(min=0)].masked_fill(hits.ids < 0, float("-inf"))
        return Hits(hits.ids, scores)

    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k most popular items each query has not met; the score is the count."""
        wanted = as_queries(queries)
        k = check_k(k, len(self._index))
        hits, fallback = [], []
        for block in row_blocks(wanted, self.data):
            hits.append(self.search(len(block.users), k, block.seen))
            fallback.append(torch.zeros(len(block.users), dtype=torch.bool))
        return candidates(hits, fallback, k, self.data.items)

    def state(self) -> State:
        """Nothing beside the data: the counts are made from it."""
        return {}, {}

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],  # noqa: ARG003
        states: Mapping[str, Mapping[str, Tensor]],  # noqa: ARG003
        *,
        device: str = "cpu",  # noqa: ARG003
    ) -> Self:
        """Count again."""
        return cls().fit_data(data)


def popular_for_strangers(
    found: Hits, strangers: Tensor, popular: Popular, seen: tuple[Tensor, Tensor] | None
) -> None:
    """Put the popular items where nothing is known of the query: strangers [B], found [B, k]."""
    if not strangers.any():
        return
    instead = popular.search(len(strangers), found.ids.shape[1], seen)
    found.ids[strangers] = instead.ids[strangers]
    found.scores[strangers] = instead.scores[strangers]
