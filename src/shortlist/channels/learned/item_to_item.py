"""Which items go together? Learned from item pairs of sessions; asked by item or by history."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import (
    ALWAYS_READ,
    NO_HARD,
    Reads,
)
from shortlist.channels.learned.item_vectors import ItemVectors
from shortlist.config import Model, Training
from shortlist.data.batches import Batch, Steps, as_they_come
from shortlist.data.interactions import Interactions
from shortlist.data.pairs import ItemPairs, sessions_and_targets
from shortlist.data.ragged import Ragged, keep, windows
from shortlist.data.training_data import TrainingData
from shortlist.durations import in_units
from shortlist.errors import DataError, ModelError, NothingToLearnError
from shortlist.similarity import normalize
from shortlist.towers.mlp import has_perceptron
from shortlist.towers.two_tower import ItemTower
from shortlist.training.blocks import Encoders
from shortlist.training.presets import objective_of, sampler_of
from shortlist.training.ranks import dealt, here
from shortlist.training.trainer import Trainer

NO_USER = "both sides are items, so there is no user tower"
READS = ALWAYS_READ | {
    *("item_id", "item_features", "item_layers", "id_dropout", "latest_items"),
    *("session_gap", "pair_window", "mask_known"),
}
"""The keys of [model] and [training] that have an effect; options of parts come in addition."""

UNREAD = {
    "user_id": NO_USER,
    "user_features": NO_USER,
    "user_layers": NO_USER,
    "history": "a query is the mean of the latest items' own vectors",
    "history_length": "a query is made of the latest_items",
    "history_dropout": "a query in training is one item",
    "history_time": "a query in training is one item",
    "request_time": "a query in training is one item",
    "history_features": "a query in training is one item",
    "context": NO_USER,
    "history_windows": "a query in training is one item",
    "history_reads": "a query is the mean of the latest items' own vectors",
    "shared_items": "one tower encodes both items, so they share everything",
    "neighbours": "it is for positives = 'u2u'",
    **NO_HARD,
    "weighted": "data.weight weights one event, and a pair has two",
}
"""Why keys that are not in READS have no effect."""

NEAR = 5
"""For an ordered log: default of pair_window, and default of latest_items."""


class ItemToItem(ItemVectors):
    """Item-to-item retrieval: items of one session get similar vectors (Grbovic & Cheng 2018).

    One item tower encodes both sides (siamese), trained by the same objective as TwoTower. A query
    is an item and its positive another item of the same session. Sessions come from the session
    column, or end after `session_gap` without an event.

    `similar` queries by item. `recommend` queries by the `latest_items` of a user, a history or a
    running session; items are ordered by their mean similarity to these.

    Options are the keys of a recipe's [model] and [training] sections, as for TwoTower.
    """

    positives: ClassVar[str] = "i2i"
    reads: ClassVar[Reads] = Reads(READS, ("loss", "sampler"))
    unread: ClassVar[Mapping[str, str]] = UNREAD

    towers: ItemTower

    def __init__(
        self,
        *,
        model: Model | None = None,
        training: Training | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(model=model, training=training, device=device, **options)
        section = self.model_section
        if section.is_changed("dropout") and section.dropout and not section.item_layers:
            raise ModelError(
                "dropout does nothing with positives = 'i2i' and no item_layers: a query in "
                "training is one item, and nothing is dropped"
            )

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries without an item that has a vector, bool [B]."""
        return keep(block.history, self._position[block.history.values] >= 0).lengths == 0

    def encodable_users(self) -> pl.Series:
        """Return the ids of the trained users with an item that has a vector."""
        log = self.data.log
        users = np.unique(log.user[self._position.numpy()[log.item] >= 0]).astype(np.int64)
        return self.data.users.external(users[users <= self.data.users.trained])

    def _rows_to_place(self) -> Tensor:
        """Return the candidates; without features, only paired items, as others are untrained."""
        if self.towers.fields is not None:
            return torch.from_numpy(self.data.candidates(with_features=True))
        return self._paired

    def set_data(self, data: TrainingData) -> None:
        """Build an untrained tower for this data."""
        self._settle_once(data)
        self.data = data
        self._item_table = data.item_features.to(self.device)
        tower = ItemTower(data.user_features, data.item_features, self.model_section)
        self.towers = tower.to(self.device)
        self.popular = Popular().fit_data(data)

    def _pairs(
        self, data: TrainingData, log: Interactions, steps: Steps = as_they_come
    ) -> ItemPairs:
        training, gap = self.training_section, self.training_section.session_gap
        if gap is not None and data.log.session is not None:
            raise ModelError(
                "the data has a session column, and session_gap cuts sessions too: give one"
            )
        if training.pair_window is not None and not data.ordered:
            raise ModelError("pair_window needs a time column: without one sessions have no order")
        cut = None
        if gap is not None:
            cut = in_units(gap, data.time_unit, "session_gap")
        found, targets = sessions_and_targets(log, cut)
        return ItemPairs(
            found,
            targets=targets,
            batch_size=here().share(training.batch_size),
            steps=steps,
            window=training.pair_window or (NEAR if data.ordered else None),
            with_known=training.mask_known,
            device=self.device,
        )

    def _all_pairs(self) -> ItemPairs:
        """Return the pairs of all data. Errors: DataError if there are none, as in `fit`."""
        try:
            return self._pairs(self.data, self.data.training_log)
        except NothingToLearnError as error:
            raise DataError(str(error)) from error

    def _trainer(self, data: TrainingData) -> Trainer:
        log, ranks = data.training_log, here()
        earlier = None
        if data is not self.data:  # a refresh trains on the pairs of new events only
            earlier = self._all_pairs().expected_counts(data.items.trained)
            self._paired = earlier.nonzero().squeeze(1).cpu()
        pairs = every = self._pairs(data, log)
        if ranks.several:
            pairs = dealt(log, lambda part: self._pairs(data, part, ranks.steps))
        counts = every.expected_counts(data.items.trained)
        paired = counts if earlier is None else earlier
        self._paired = paired.nonzero().squeeze(1).cpu()
        training = self.training_section
        # The query itself is a known positive of the batch: it must not be its own negative.
        masked = training.model_copy(update={"mask_known": True})
        return Trainer(
            self.towers,
            Encoders(self._encode_batch, self._encode_items, has_perceptron(self.towers)),
            objective_of(masked).to(self.device),
            sampler_of(training, counts, paired),
            pairs,
            training=training,
            ranks=ranks,
        )

    @property
    def _latest_items(self) -> int | None:
        return self.model_section.latest_items or (NEAR if self.data.ordered else None)

    def _events_read(self) -> int:
        return self._latest_items or super()._events_read()

    def _encode_batch(self, batch: Batch) -> Tensor:
        return self._encode_items(batch.history.values)

    def _encode_items(self, rows: Tensor) -> Tensor:
        vectors: Tensor = self.towers(self._item_table.take(rows.to(self.device)))
        return vectors

    def _encode_block(self, block: RowQueries) -> Tensor:
        """Return the mean vector of each query's latest items, [B, D]; zeros if none has a vector.

        Ordering by the mean vector equals ordering by mean similarity: cosine is the dot product of
        unit vectors, and -||q - t||² differs from its mean by a constant of the query.
        """
        known = keep(block.history, self._position[block.history.values] >= 0)
        length = known.lengths
        if self._latest_items is not None:
            length = torch.clamp(length, max=self._latest_items)
        latest: Ragged = windows(known.values, known.offsets[1:] - length, length)
        met = self.vectors_of(latest.values)
        if self.training_section.similarity == "cosine":
            met = normalize(met)
        one_each = torch.arange(len(met))
        return embedding_bag(one_each, met, latest.offsets[:-1], mode="mean")
