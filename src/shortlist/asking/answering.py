"""How does a retriever take queries in ids and return ids? By one base class for all of them.

A retriever works on internal row numbers: `search` answers a block of queries, and `strangers`
marks the queries of which nothing is known. The rest is here: ids become rows and filters a mask
(`rows.row_blocks`), strangers get popular items, quotas are applied, and rows become ids again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Answer, Candidates
from shortlist.asking.context import check_event_features_read
from shortlist.asking.gone import found_by
from shortlist.asking.queries import Queries, as_queries, check_k
from shortlist.asking.quotas import Quota
from shortlist.asking.rows import BLOCK, RowQueries, row_blocks
from shortlist.asking.unfitted import FittedFirst
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Ids, Vocabulary
from shortlist.errors import QueryError
from shortlist.index.base import Hits
from shortlist.showing import Facts, Showing


class Everybody(Protocol):
    """A ranking that does not depend on the query; strangers get it."""

    def everybody(
        self, count: int, k: int, seen: tuple[Tensor, Tensor] | None, allow: Tensor | None = None
    ) -> Hits:
        """Give `count` queries the same ranking, less what each has met."""
        ...


class Answering(FittedFirst, Showing, ABC):
    """Base class of retrievers: it takes queries in ids and answers in ids.

    A subclass provides the rows that it can recommend (`candidate_rows`), the answers to blocks of
    queries (`search`), and which queries it knows nothing of (`strangers`).

    queries_at_a_time: queries per block.
    popular: the ranking that strangers get; None if the retriever's own answer serves them.
    """

    queries_at_a_time: ClassVar[int] = BLOCK

    data: TrainingData
    popular: Everybody | None = None

    def facts(self) -> Facts:
        """Return the numbers of known users and of items that can be recommended."""
        if "data" not in self.__dict__:
            return {"fitted": False}
        return {"users": len(self.data.users), "items": len(self.candidate_rows())}

    @abstractmethod
    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, int64 [N]."""

    @abstractmethod
    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] int64, -1 past the end, and scores, -inf there."""

    @abstractmethod
    def strangers(self, block: RowQueries) -> Tensor:
        """Return a bool [B], True for queries of which nothing is known."""

    @property
    def timed(self) -> bool:
        """True if `search` reads the times of the events of a history."""
        return False

    @property
    def weighs(self) -> bool:
        """True if `search` reads the weights of the events of a history (values = 'explicit')."""
        return False

    @property
    def made_elsewhere(self) -> bool:
        """True for lists of another system: what was ranked, and at what cost, is unknown."""
        return False

    @property
    def query_features(self) -> frozenset[str]:
        """Names of the user features that `search` reads from a query."""
        return frozenset()

    @property
    def reads_clock(self) -> bool:
        """True if `search` reads the time of a query (model.request_time)."""
        return False

    @property
    def query_context(self) -> frozenset[str]:
        """Names of the features of the requested event that `search` reads."""
        return frozenset()

    @property
    def history_features(self) -> frozenset[str]:
        """Names of the features of past events that `search` reads."""
        return frozenset()

    @property
    def item_columns(self) -> frozenset[str]:
        """Names of the columns of the items table that the fitted state depends on."""
        return frozenset()

    def refuse_unread(self, queries: Queries) -> None:
        """Refuse times, weights and features that the retriever does not read.

        Errors: QueryError.
        """
        self._check_times(queries)
        if queries.weights is not None and not self.weighs:
            raise QueryError(
                "weights do nothing for this retriever: none of its channels weighs the events of "
                "a history (values = 'explicit'); leave them out"
            )
        check_event_features_read(queries, self.data, self.query_context, self.history_features)
        idle = (queries.features or {}).keys() - self.query_features
        if not idle:
            return
        reads = ", ".join(sorted(self.query_features))
        does = f"it reads {reads}" if reads else "it reads no features of users from a query"
        raise QueryError(f"features: {min(idle)!r:.60} does nothing for this retriever: {does}")

    def _check_times(self, queries: Queries) -> None:
        if queries.time is not None and not self.reads_clock:
            raise QueryError(
                "time does nothing for this retriever: none of its models reads the time of a "
                "request (model.request_time)"
            )
        if queries.times is not None and not self.timed:
            raise QueryError(
                "times do nothing for this retriever: none of its models reads the time of an "
                "event (model.history_time, model.request_time)"
            )

    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k best items of each query, by default without the items it has met.

        A list is shorter than k if fewer items match. A query of which nothing is known gets
        popular items and the fallback flag.

        Args:
            queries: `Queries`, or a plain list of user ids.
            k: candidates per query, at least 1.

        Raises:
            QueryError: for an invalid query, filter or k.
        """
        asked = as_queries(queries)
        self.refuse_unread(asked)
        k = check_k(k, len(self.candidate_rows()))
        quota = None if asked.quota is None else Quota.of(self.data, asked.quota)
        blocks = row_blocks(asked, self.data, timed=self.timed, size=self.queries_at_a_time)
        answers = [
            self.answered(block, k) if quota is None else quota.kept(self, block, k)
            for block in blocks
        ]
        return self.named(answers or [nothing(k)], self.data.items)

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Answer B queries and mark the strangers, which get popular items.

        If the server of the index does not answer, then within `popular_if_gone` all of them are
        strangers.
        """
        found, cold = found_by(self, block, k)
        self.popular_for(cold, found, block.seen, block.allow)
        return Answer(found, cold)

    def popular_for(
        self,
        strangers: Tensor,
        found: Hits,
        seen: tuple[Tensor, Tensor] | None,
        allow: Tensor | None = None,
    ) -> None:
        """Overwrite, in place, the answers `found` [B, k] of the strangers (bool [B])."""
        if self.popular is None or not bool(strangers.any()):
            return
        instead = self.popular.everybody(len(strangers), found.ids.shape[1], seen, allow)
        found.ids[strangers] = instead.ids[strangers]
        found.scores[strangers] = instead.scores[strangers]

    def named(self, answers: Sequence[Answer], vocabulary: Vocabulary) -> Candidates:
        """Join the answers to all blocks (at least one) as candidates with ids."""
        return Candidates(
            torch.cat([answer.hits.ids for answer in answers]).cpu().numpy(),
            torch.cat([answer.hits.scores for answer in answers]).cpu().numpy(),
            torch.cat([answer.strangers for answer in answers]).cpu().numpy(),
            vocabulary,
        )


def nothing(k: int) -> Answer:
    """Return an answer to zero queries."""
    hits = Hits(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))
    return Answer(hits, torch.zeros(0, dtype=torch.bool))
