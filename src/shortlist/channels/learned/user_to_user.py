"""Which users are similar? Learned from halves of histories; returns users, or their items."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.answering import nothing
from shortlist.asking.candidates import Answer, Candidates
from shortlist.asking.gone import no_hits, tolerated
from shortlist.asking.queries import Queries, as_queries, check_k, refuse_filters
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import (
    ALWAYS_READ,
    NO_HARD,
    Learner,
    Reads,
)
from shortlist.config import Model, Training
from shortlist.data.batches import Batch, Steps, as_they_come, histories
from shortlist.data.interactions import Interactions
from shortlist.data.pairs import UserHalves
from shortlist.data.ragged import Ragged, keep, windows
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.errors import IndexServerError, ModelError, QueryError
from shortlist.index.base import Hits, VectorIndex
from shortlist.index.exact import ExactIndex
from shortlist.index.servers import ServerIndex
from shortlist.index.top_k import top_k
from shortlist.towers.mlp import has_perceptron
from shortlist.towers.two_tower import QueryTower
from shortlist.training.blocks import Encoders
from shortlist.training.presets import IN_BATCH, choose, objective_of, sampler_of
from shortlist.training.ranks import dealt, here
from shortlist.training.trainer import Trainer

SAME_USER = "both halves belong to one user, so the user would identify the pair"
NO_ITEM = "both sides are users, so there is no item tower"
EQUALLY_POPULAR = "each user is a positive once per epoch, so all are equally popular"
READS = ALWAYS_READ | {
    *("history", "history_length", "history_dropout", "user_layers", "neighbours"),
}
"""The keys of [model] and [training] that have an effect; options of parts come in addition."""

UNREAD = {
    "user_id": SAME_USER,
    "user_features": SAME_USER,
    "item_id": NO_ITEM,
    "item_features": NO_ITEM,
    "item_layers": NO_ITEM,
    "shared_items": NO_ITEM,
    "history_reads": NO_ITEM,
    "history_time": "the halves of a history keep no times",
    "request_time": "the halves of a history keep no times",
    "history_features": "the halves of a history keep no features of events",
    "context": "a pair is two halves of a history, and has no requested event",
    "history_windows": "a pair is two halves of a history",
    "id_dropout": NO_ITEM,
    "session_gap": "it cuts sessions for positives = 'i2i'",
    "pair_window": "it is for the pairs of positives = 'i2i'",
    "latest_items": "it is for positives = 'i2i'; see history_length",
    "mask_known": "negatives are users, and a user has no other known positive",
    **NO_HARD,
    "weighted": "data.weight weights an event, and a pair is two halves of a history",
    "alpha": EQUALLY_POPULAR,
    "mixture": EQUALLY_POPULAR,
}
"""Why keys that are not in READS have no effect."""

NEIGHBOURS = 50
"""Default of model.neighbours: how many users lend their items."""

CELLS = 4_000_000
"""Scores and events of neighbours held in memory at a time."""


class UserToUser(Learner):
    """User-to-user retrieval: users with similar histories lend their items.

    One tower encodes both halves of a history (siamese), trained by the same objective as TwoTower.
    A query is one half and its positive the other half of the same user. After training, the
    whole training history of each user is encoded and put into the index.

    `similar` returns users. `recommend` sums, over the `neighbours` nearest users, their similarity
    for each item they have in training: UserCF with learned similarities. Items of no neighbour are
    not candidates, so a list may be shorter than k. With kinds of events the halves have all
    events, and neighbours lend only their targets.

    Options are the keys of a recipe's [model] and [training] sections, as for TwoTower.
    """

    positives: ClassVar[str] = "u2u"
    placed: ClassVar[str] = "user_vectors"

    _vectors: Tensor | None  # None where only the server of the index has them.
    reads: ClassVar[Reads] = Reads(READS, ("loss", "history"), but=("history_time",))
    unread: ClassVar[Mapping[str, str]] = UNREAD

    towers: QueryTower

    def __init__(
        self,
        *,
        model: Model | None = None,
        training: Training | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(model=model, training=training, device=device, **options)
        training = self.training_section
        if training.mask_hits is not None and choose(training).sampler in IN_BATCH:
            raise ModelError(
                "mask_hits does nothing with positives = 'u2u' and negatives of the batch, which "
                "holds each user once: leave it out"
            )
        if here().several and choose(training).shared is False:
            raise ModelError(
                "positives = 'u2u' on several processes cannot give each row negatives of its own: "
                "they are users, whose events other processes have. Set training.shared = true, "
                "or start it without torchrun"
            )
        if self.model_section.history == "none":
            raise ModelError("positives = 'u2u' compares histories: model.history cannot be 'none'")
        if self.model_section.query_vectors is not None:
            raise ModelError(
                "positives = 'u2u' keeps one vector a user in its index: model.history cannot be "
                f"'{self.model_section.history}', which gives several"
            )

    def similar(self, queries: Queries | Ids, k: int = 10) -> Candidates:
        """Return the k nearest users of each query, excluding the user itself.

        Args:
            queries: user ids, or histories as `Queries`.
            k: number of users per query.

        Returns:
            Candidates whose `ids` are user ids.

        Raises:
            QueryError: for a query without a trained item in its history; there is no fallback.
                Also for a filter of items (`where`, `allow`, ...).
        """
        k = check_k(k, max(len(self.user_rows) - 1, 1))
        answers = []
        asked = as_queries(queries)
        refuse_filters(asked, "similar users")
        self.refuse_unread(asked)
        for block in row_blocks(asked, self.data):
            strangers = self.strangers(block)
            _refuse_strangers(strangers)
            try:
                answers.append(Answer(self.near_users(block, k), strangers))
            except IndexServerError:
                if not tolerated():
                    raise
                answers.append(Answer(no_hits(len(strangers), k), ~strangers))
        return self.named(answers or [nothing(k)], self.data.users)

    def search(self, block: RowQueries, k: int) -> Hits:
        """Return the k items with the largest sums of similarity over the nearest users."""
        return self._items_of(self.near_users(block, self._neighbours), block, k)

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries without a trained item in their history, bool [B]."""
        return self._trained(block.history).lengths == 0

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, those with training events, [C] int64."""
        return self.data.candidates(with_features=False)

    def place_users(self) -> None:
        """Encode every user's training history and build the index."""
        rows = torch.arange(1, self.data.users.trained + 1)
        self.towers.eval()
        vectors = []
        with torch.no_grad():
            for part in torch.split(rows, 65536):
                history = histories(
                    self.data.training_log, part, self.model_section.history_length, self.device
                )
                vectors.append(self.towers({}, history).cpu())
        self.set_users(rows, torch.cat(vectors))

    @property
    def user_vectors(self) -> Tensor:
        """The vectors [U, D] of `user_rows`; those in a server are fetched at each access."""
        if self._vectors is None and isinstance(self.index, ServerIndex):
            return self.index.vectors_of(self.user_rows)
        assert self._vectors is not None
        return self._vectors

    def set_users(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        """Search these user vectors from now on.

        Args:
            rows: user rows, [U] int64.
            vectors: [U, D]; None if only the server of the index has them.
            index: an index of these vectors; None builds an exact one.
        """
        self.user_rows, self._vectors = rows, vectors
        if index is None:
            assert vectors is not None
            keys = torch.from_numpy(self.data.users.tie_keys)[rows]
            index = ExactIndex(self.training_section.similarity).build(rows, vectors, keys)
        self.index: VectorIndex = index

    def set_data(self, data: TrainingData) -> None:
        """Build an untrained tower for this data."""
        self._settle_once(data)
        self.data = data
        changes: dict[str, Any] = {"user_features": (), "shared_items": False}
        changes |= {"history_features": (), "context": ()}
        if not data.ordered and self.model_section.history == "recency":
            changes["history"] = "mean"
        shape = self.model_section.model_copy(update=changes)
        tower = QueryTower(data.user_features, data.item_features, shape)
        self.towers = tower.to(self.device)
        self.popular = Popular().fit_data(data)
        self._met = _distinct_items(data)
        # Columns are sorted by tie key, because of equal scores the lower column is returned.
        rows = torch.from_numpy(self.candidate_rows())
        keys = torch.from_numpy(data.items.tie_keys)[rows]
        self._rows = rows[torch.argsort(keys, stable=True)]
        self._column = torch.full((len(data.items) + 1,), -1)
        self._column[self._rows] = torch.arange(len(self._rows))
        # Neighbours lend only candidates: items that are new since the fit are left out.
        self._met = keep(self._met, self._column[self._met.values] >= 0)

    def _place(self) -> None:
        self.place_users()

    def _placed(self) -> tuple[Tensor, Tensor]:
        return self.user_rows, self.user_vectors

    def _placed_rows(self) -> Tensor:
        return self.user_rows

    def _put_back(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        self.set_users(rows, vectors, index)

    def _positives(self, data: TrainingData) -> int:
        return int((np.diff(data.training_log.indptr) >= 2).sum())

    @property
    def _neighbours(self) -> int:
        return self.model_section.neighbours or NEIGHBOURS

    def _trainer(self, data: TrainingData) -> Trainer:
        training = self.training_section
        ranks = here()

        def halves_of(log: Interactions, steps: Steps) -> UserHalves:
            return UserHalves(
                log,
                batch_size=ranks.share(training.batch_size),
                history_length=self.model_section.history_length,
                steps=steps,
                device=self.device,
            )

        halves = every = halves_of(data.training_log, as_they_come)
        if ranks.several:
            halves = dealt(data.training_log, lambda log: halves_of(log, ranks.steps))
        trained, drawn = data.users.trained, None
        if data is not self.data:  # a refresh trains on the users of new events only
            drawn = halves_of(self.data.training_log, as_they_come).counts(trained)

        def encode_queries(batch: Batch) -> Tensor:
            return self._encode(batch.history)

        def encode_others(users: Tensor) -> Tensor:
            return self._encode(halves.other_half(users))

        return Trainer(
            self.towers,
            Encoders(encode_queries, encode_others, has_perceptron(self.towers)),
            objective_of(training).to(self.device),
            sampler_of(training, every.counts(trained), drawn),
            halves,
            training=training,
            ranks=ranks,
        )

    def _encode(self, history: Ragged) -> Tensor:
        vectors: Tensor = self.towers({}, history)
        return vectors

    def _encode_block(self, block: RowQueries) -> Tensor:
        """Encode the latest trained items of each query, as training did, [B, D]."""
        history = self._trained(block.history)
        length = torch.clamp(history.lengths, max=self.model_section.history_length)
        latest = windows(history.values, history.offsets[1:] - length, length)
        self.towers.eval()
        with torch.no_grad():
            return self._encode(latest.to(self.device)).cpu()

    def _trained(self, history: Ragged) -> Ragged:
        return keep(history, (history.values > 0) & (history.values <= self.data.items.trained))

    def near_users(self, block: RowQueries, k: int) -> Hits:
        """Return the k nearest users of each query except itself: user rows and similarities."""
        own = (block.users, torch.arange(len(block.users) + 1))
        return self.index.search(self._encode_block(block), k, exclude=own)

    def _items_of(self, users: Hits, block: RowQueries, k: int) -> Hits:
        """Return the k items with the largest weighted counts over these users [B, n]."""
        found = []
        for part in self._parts(len(users.ids)):
            scores = self._summed(users.ids[part], self._weights(users.scores[part]))
            if block.seen is not None:
                _forget(scores, Ragged(*block.seen), part, self._column)
            if block.allow is not None:
                scores.masked_fill_(~block.allow[self._rows], 0)
            values, columns = top_k(scores.masked_fill(scores <= 0, float("-inf")), k)
            rows = self._rows[columns.clamp(min=0)].masked_fill(columns < 0, -1)
            found.append(Hits(rows, values))
        return Hits(torch.cat([f.ids for f in found]), torch.cat([f.scores for f in found]))

    def scores_of(self, block: RowQueries, rows: Tensor) -> Tensor:
        """Return the score of each item row [n] for each query, [B, n]; -inf for no candidate."""
        users = self.near_users(block, self._neighbours)
        columns = self._column[rows]
        parts = [
            self._summed(users.ids[part], self._weights(users.scores[part]))[:, columns]
            for part in self._parts(len(users.ids))
        ]
        return torch.cat(parts).masked_fill(columns < 0, float("-inf"))

    def _parts(self, count: int) -> Iterator[slice]:
        """Yield slices of queries whose scores and neighbours' events fit into CELLS."""
        events = len(self._met.values) / max(self.data.users.trained, 1)
        step = max(1, int(CELLS / (len(self._rows) + self._neighbours * events)))
        for start in range(0, count, step):
            yield slice(start, start + step)

    def _weights(self, similarities: Tensor) -> Tensor:
        """Return the weight of each neighbour's items, >= 0, [B, n]; it falls with the distance.

        cosine and dot: the similarity, or 0 if negative. euclidean: 1 / (1 + ||q - u||²).
        """
        if self.training_section.similarity == "euclidean":
            return 1 / (1 - similarities)
        return similarities.clamp(min=0)

    def _summed(self, users: Tensor, weights: Tensor) -> Tensor:
        """Add the weights of users [B, n] to the columns of their items, [B, columns]."""
        start = self._met.offsets[users.clamp(min=0)]
        length = (self._met.offsets[users.clamp(min=0) + 1] - start).masked_fill(users < 0, 0)
        met = windows(self._met.values, start.flatten(), length.flatten())
        slot = met.owners()
        width = len(self._rows)
        scores = torch.zeros(len(users) * width)
        cell = slot // users.shape[1] * width + self._column[met.values]
        return scores.index_add_(0, cell, weights.flatten()[slot]).view(-1, width)


def _refuse_strangers(strangers: Tensor) -> None:
    if strangers.any():
        raise QueryError(
            f"query {int(strangers.nonzero()[0])} has met no known item: there is nothing to make "
            "a vector of"
        )


def _forget(scores: Tensor, history: Ragged, part: slice, column: Tensor) -> None:
    """Set the scores of the items seen by the queries in `part` to 0."""
    bounds = history.offsets[part.start : part.stop + 1]
    columns = column[history.values[bounds[0] : bounds[-1]]]
    rows = torch.repeat_interleave(bounds.diff())
    scores[rows[columns >= 0], columns[columns >= 0]] = 0


def _distinct_items(data: TrainingData) -> Ragged:
    """Return the distinct targets of each user row in the training rows."""
    log = data.training_targets
    width = len(data.items) + 1
    pairs = np.unique(log.user.astype(np.int64) * width + log.item)
    counts = np.bincount(pairs // width, minlength=log.users)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return Ragged(torch.from_numpy(pairs % width), offsets)
