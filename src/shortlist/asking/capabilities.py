"""What can a retriever do? Each capability is a protocol; whoever has its methods has it.

`Channel` is what every retriever is. The others are asked for by `isinstance` of a fitted one: a
channel that cannot explain, say, lacks the methods of `Explains`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Answer, Candidates
from shortlist.asking.queries import Queries
from shortlist.asking.rows import RowQueries
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.index.base import Hits
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

State = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
"""Settings, JSON-safe, and named tensors by file: 'towers' are what vectors come from."""


class Answers(Protocol):
    """It answers queries about its data: all that an evaluation needs."""

    data: TrainingData

    @property
    def query_features(self) -> frozenset[str]:
        """The features of users that `search` reads from a question."""
        ...

    @property
    def reads_clock(self) -> bool:
        """Whether `search` reads when a question is asked (model.request_time)."""
        ...

    @property
    def query_context(self) -> frozenset[str]:
        """The features of the event asked for that `search` reads."""
        ...

    @property
    def history_features(self) -> frozenset[str]:
        """The features of past events that `search` reads."""
        ...

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""
        ...

    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k best candidates of each query; a plain list of ids means those users."""
        ...


class Channel(Answers, Protocol):
    """Fitted on a split, it answers queries with candidates from the catalogue.

    Users ask by `recommend`; everything inside speaks rows (`candidate_rows`, `search`,
    `strangers`). `answering.Answering` provides `recommend` for a class that has these three.
    """

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Learn from the rows `fit` names; validation rows choose, test rows are unseen."""
        ...

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Learn again from the rows `fit` names, with what the first fit has chosen."""
        ...

    def observe(self, data: TrainingData) -> Self:
        """Return the same with new events: `data` is the old data with them."""
        ...

    @property
    def item_columns(self) -> frozenset[str]:
        """The columns of the items table that what it has learned depends on."""
        ...

    @property
    def timed(self) -> bool:
        """Whether `search` reads the times of the events of a history."""
        ...

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] int64, -1 past the end, and scores, -inf there."""
        ...

    def strangers(self, block: RowQueries) -> Tensor:
        """Return which of B queries nothing is known of, bool [B]."""
        ...

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Answer B queries, strangers with the popular items, and say who is one."""
        ...

    def state(self) -> State:
        """Return what a bundle keeps beside the data: settings (JSON) and tensors, by file."""
        ...

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the retriever that `state` came from."""
        ...


@runtime_checkable
class Explains(Channel, Protocol):
    """It says why an item has its score."""

    @property
    def reasons_sum(self) -> bool:
        """Whether the contributions of an item's reasons add up to its score."""
        ...

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return the `explaining.REASONS` of item rows, one tensor a query."""
        ...

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return why these items have their scores, one row a reason; one list of ids a query."""
        ...


@runtime_checkable
class FindsSimilar(Channel, Protocol):
    """It knows which items are alike."""

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items most similar to each item row [n], itself left out."""
        ...

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the k items most similar to each item id, itself left out."""
        ...


@runtime_checkable
class FindsSimilarUsers(Channel, Protocol):
    """It knows which users are alike."""

    def near_users(self, block: RowQueries, k: int) -> Hits:
        """Return the k users most similar to each query, itself left out: user rows."""
        ...

    def similar(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k users most similar to each query, itself left out: user ids."""
        ...


@runtime_checkable
class Encodes(Channel, Protocol):
    """It has vectors of queries."""

    @property
    def similarity(self) -> str:
        """How its vectors are compared: 'cosine', 'dot' or 'euclidean'."""
        ...

    @property
    def width(self) -> int:
        """The width D of its vectors."""
        ...

    def encodable_users(self) -> pl.Series:
        """Return the ids of the users that `encode_users` has a vector of."""
        ...

    def encode_users(self, queries: Queries | Ids) -> Tensor:
        """Return the vector of each query, [B, D] or [B, K, D]."""
        ...


@runtime_checkable
class EncodesItems(Encodes, Protocol):
    """It has vectors of items, in the space of those of the queries."""

    def encode_items(self) -> tuple[pl.Series, Tensor]:
        """Return the ids of all candidate items and their vectors [N, D]."""
        ...


@runtime_checkable
class Refreshes(Channel, Protocol):
    """It can go on from what it has learned, on other data."""

    def refreshed(
        self, data: TrainingData, lesson: Lesson, *, progress: Progress | None = None
    ) -> Self:
        """Return the same, gone on: the rows of `data` may be others than those it knows."""
        ...


@runtime_checkable
class ChangesItems(Channel, Protocol):
    """Items can come and go between two fits."""

    def change_items(
        self, *, add: Sequence[Mapping[str, Any]] = (), remove: Ids = (), restore: Ids = ()
    ) -> Self:
        """Return the same with other items, without training: all changes, or an error."""
        ...
