"""What can a retriever do? Each capability is a protocol.

Every retriever is a `Channel`. The other protocols are optional: `isinstance` of a fitted retriever
tells which it has. A channel that cannot explain lacks the methods of `Explains`, for example.
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
from shortlist.data.dataset import Split
from shortlist.data.training_data import Fit, TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.index.base import Hits
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

State = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
"""(settings as JSON values, {file name: named tensors}). The file 'towers' holds the weights."""


class Answers(Protocol):
    """Answers queries; this is all that an evaluation needs."""

    data: TrainingData

    @property
    def made_elsewhere(self) -> bool:
        """True for lists of another system: what was ranked, and at what cost, is unknown."""
        ...

    @property
    def query_features(self) -> frozenset[str]:
        """Names of the user features that `search` reads from a query."""
        ...

    @property
    def reads_clock(self) -> bool:
        """True if `search` reads the time of a query (model.request_time)."""
        ...

    @property
    def query_context(self) -> frozenset[str]:
        """Names of the features of the requested event that `search` reads."""
        ...

    @property
    def history_features(self) -> frozenset[str]:
        """Names of the features of past events that `search` reads."""
        ...

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, int64 [N]."""
        ...

    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k best candidates of each query; a plain list of ids holds user ids."""
        ...


class Channel(Answers, Protocol):
    """A retriever: fitted on a split, it answers queries with candidates from the catalogue.

    `recommend` takes and gives ids; `candidate_rows`, `search` and `strangers` work on internal row
    numbers. `answering.Answering` provides `recommend` for a class that has these three.
    """

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Learn from the rows named by `fit`.

        Validation rows may be used to choose, such as the number of epochs; test rows are not read.
        """
        ...

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Learn again from the rows named by `fit`, with the choices of the first fit.

        Such choices are the number of epochs and the quotas of a blend.
        """
        ...

    def observe(self, data: TrainingData) -> Self:
        """Return the retriever with new events, without training.

        data: the old data with the new events appended.
        """
        ...

    @property
    def item_columns(self) -> frozenset[str]:
        """Names of the columns of the items table that the fitted state depends on."""
        ...

    @property
    def timed(self) -> bool:
        """True if `search` reads the times of the events of a history."""
        ...

    @property
    def weighs(self) -> bool:
        """True if `search` reads the weights of the events of a history."""
        ...

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] int64, -1 past the end, and scores, -inf there."""
        ...

    def strangers(self, block: RowQueries) -> Tensor:
        """Return a bool [B], True for queries of which nothing is known."""
        ...

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Answer B queries and mark the strangers, which get popular items."""
        ...

    def state(self) -> State:
        """Return what a bundle stores besides the data; see `State`."""
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
        """Restore a retriever from its `state()` and its data."""
        ...


@runtime_checkable
class Explains(Channel, Protocol):
    """Explains the score of an item."""

    @property
    def reasons_sum(self) -> bool:
        """True if the contributions of an item's reasons add up to its score."""
        ...

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return reasons, with the columns `explaining.REASONS`.

        items: item rows, one int64 tensor per query.
        """
        ...

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return one row per reason for the scores of items; see `explaining.Explaining`.

        items: one list of item ids per query.
        """
        ...


@runtime_checkable
class FindsSimilar(Channel, Protocol):
    """Finds similar items."""

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items most similar to each item row [n], without the item itself."""
        ...

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the k items most similar to each item id, without the item itself."""
        ...


@runtime_checkable
class FindsSimilarUsers(Channel, Protocol):
    """Finds similar users."""

    def near_users(self, block: RowQueries, k: int) -> Hits:
        """Return the user rows of the k users most similar to each query, without its own user."""
        ...

    def similar(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the ids of the k users most similar to each query, without its own user."""
        ...


@runtime_checkable
class Encodes(Channel, Protocol):
    """Encodes queries as vectors."""

    @property
    def similarity(self) -> str:
        """How the vectors are compared: 'cosine', 'dot' or 'euclidean'."""
        ...

    @property
    def width(self) -> int:
        """The width D of the vectors."""
        ...

    def encodable_users(self) -> pl.Series:
        """Return the ids of the users that `encode_users` can encode."""
        ...

    def encode_users(self, queries: Queries | Ids) -> Tensor:
        """Return the vector of each query, [B, D]; [B, K, D] if it has K interests."""
        ...


@runtime_checkable
class EncodesItems(Encodes, Protocol):
    """Encodes items in the same space as queries."""

    def encode_items(self) -> tuple[pl.Series, Tensor]:
        """Return the ids of all candidate items and their vectors [N, D]."""
        ...


@runtime_checkable
class Refreshes(Channel, Protocol):
    """Can continue training on other data."""

    def refreshed(
        self, data: TrainingData, lesson: Lesson, *, progress: Progress | None = None
    ) -> Self:
        """Return the retriever after further training.

        data: may number its users and items differently from the data of the first fit.
        """
        ...


@runtime_checkable
class ChangesItems(Channel, Protocol):
    """Items can be added and removed without training."""

    def change_items(
        self, *, add: Sequence[Mapping[str, Any]] = (), remove: Ids = (), restore: Ids = ()
    ) -> Self:
        """Return the retriever with changed items. Either all changes apply or none, with an error.

        add: records of new items. remove, restore: item ids.
        """
        ...
