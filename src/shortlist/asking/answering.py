"""How does a question in ids become an answer in ids? Once, for every retriever.

A retriever speaks rows: `search` answers a block of queries, `strangers` says of which of them
nothing is known. Everything around that stands here: ids become rows and filters become a mask
(`base.row_blocks`), strangers get the popular items, quotas are kept, and rows become ids.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Answer, Candidates
from shortlist.asking.context import check_told_of_events
from shortlist.asking.gone import found_by
from shortlist.asking.queries import Queries, as_queries, check_k
from shortlist.asking.quotas import Quota
from shortlist.asking.rows import BLOCK, RowQueries, row_blocks
from shortlist.asking.unfitted import FittedFirst
from shortlist.data.dataset import TrainingData
from shortlist.data.vocabulary import Ids, Vocabulary
from shortlist.errors import QueryError
from shortlist.index.base import Hits
from shortlist.showing import Facts, Showing


class Everybody(Protocol):
    """A ranking that needs nothing of the query: what strangers get."""

    def everybody(
        self, count: int, k: int, seen: tuple[Tensor, Tensor] | None, allow: Tensor | None = None
    ) -> Hits:
        """Answer `count` queries alike, but for what each has met."""
        ...


class Answering(FittedFirst, Showing, ABC):
    """What every retriever does alike: it takes questions in ids and answers in ids.

    A subclass says which rows it can recommend (`candidate_rows`), answers blocks of queries
    (`search`) and says of which it knows nothing (`strangers`). popular: what strangers get
    instead of the retriever's own answer; None where its own answer serves them too. timed:
    whether `search` reads the times of the events. queries_at_a_time: the size of a block.
    """

    queries_at_a_time: ClassVar[int] = BLOCK

    data: TrainingData
    popular: Everybody | None = None

    def facts(self) -> Facts:
        """Return how many users it knows and how many items it can recommend, once it is fitted."""
        if "data" not in self.__dict__:
            return {"fitted": False}
        return {"users": len(self.data.users), "items": len(self.candidate_rows())}

    @abstractmethod
    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""

    @abstractmethod
    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] int64, -1 past the end, and scores, -inf there."""

    @abstractmethod
    def strangers(self, block: RowQueries) -> Tensor:
        """Return which of B queries nothing is known of, bool [B]."""

    @property
    def timed(self) -> bool:
        """Whether `search` reads the times of the events of a history."""
        return False

    @property
    def query_features(self) -> frozenset[str]:
        """The features of users that `search` reads from a question."""
        return frozenset()

    @property
    def reads_clock(self) -> bool:
        """Whether `search` reads when a question is asked (model.request_time)."""
        return False

    @property
    def query_context(self) -> frozenset[str]:
        """The features of the event asked for that `search` reads."""
        return frozenset()

    @property
    def history_features(self) -> frozenset[str]:
        """The features of past events that `search` reads."""
        return frozenset()

    @property
    def item_columns(self) -> frozenset[str]:
        """The columns of the items table that what it has learned depends on."""
        return frozenset()

    def check_told(self, queries: Queries) -> None:
        """Refuse features of users and events, and times, that would do nothing.

        Errors: QueryError.
        """
        self._check_times(queries)
        check_told_of_events(queries, self.data, self.query_context, self.history_features)
        idle = (queries.features or {}).keys() - self.query_features
        if not idle:
            return
        reads = ", ".join(sorted(self.query_features))
        does = f"it reads {reads}" if reads else "it reads no features of users from a question"
        raise QueryError(f"features: {min(idle)!r:.60} does nothing for this retriever: {does}")

    def _check_times(self, queries: Queries) -> None:
        if queries.time is not None and not self.reads_clock:
            raise QueryError(
                "time does nothing for this retriever: no model of it reads when a question is "
                "asked (model.request_time)"
            )
        if queries.times is not None and not self.timed:
            raise QueryError(
                "times do nothing for this retriever: no model of it reads when an event was "
                "(model.history_time, model.request_time)"
            )

    def recommend(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k best items of each query, without the items it has met.

        A list is shorter than k where fewer items match. A query of which nothing is known gets
        the popular items and the fallback flag. Errors: QueryError.
        """
        asked = as_queries(queries)
        self.check_told(asked)
        k = check_k(k, len(self.candidate_rows()))
        quota = None if asked.quota is None else Quota.of(self.data, asked.quota)
        blocks = row_blocks(asked, self.data, timed=self.timed, size=self.queries_at_a_time)
        answers = [
            self.answered(block, k) if quota is None else quota.kept(self, block, k)
            for block in blocks
        ]
        return self.named(answers or [nothing(k)], self.data.items)

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Answer B queries, strangers with the popular items, and say who is one.

        Within `popular_if_gone` everybody is one where the server of the index does not answer.
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
        """Put the popular items into the answers `found` [B, k] of the strangers, bool [B]."""
        if self.popular is None or not bool(strangers.any()):
            return
        instead = self.popular.everybody(len(strangers), found.ids.shape[1], seen, allow)
        found.ids[strangers] = instead.ids[strangers]
        found.scores[strangers] = instead.scores[strangers]

    def named(self, answers: Sequence[Answer], vocabulary: Vocabulary) -> Candidates:
        """Return the answers to all blocks, at least one, joined as lists of ids."""
        return Candidates(
            torch.cat([answer.hits.ids for answer in answers]).cpu().numpy(),
            torch.cat([answer.hits.scores for answer in answers]).cpu().numpy(),
            torch.cat([answer.strangers for answer in answers]).cpu().numpy(),
            vocabulary,
        )


def nothing(k: int) -> Answer:
    """Return the answer to no query."""
    hits = Hits(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))
    return Answer(hits, torch.zeros(0, dtype=torch.bool))
