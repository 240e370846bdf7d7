"""How do two towers and an index become one channel that trains, encodes items and answers?"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from shortlist.asking.described import Described
from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import ALWAYS_READ, HARD_KEYS, Reads
from shortlist.channels.learned.item_graph import begin_in_graph, read_log
from shortlist.channels.learned.item_vectors import ItemVectors
from shortlist.config import Model, Training
from shortlist.data.batches import Batch, Batches, PairBatches
from shortlist.data.interactions import Interactions
from shortlist.data.ragged import Ragged, keep, like_lengths, taken, windows
from shortlist.data.sequences import SequenceBatches
from shortlist.data.training_data import TrainingData
from shortlist.durations import STEPS
from shortlist.errors import ModelError, QueryError
from shortlist.index.base import VectorIndex
from shortlist.index.exact import ExactIndex
from shortlist.losses.base import reads_values
from shortlist.sampling.hard.base import HardWorld
from shortlist.sections.base import is_auto
from shortlist.towers import TOWERS
from shortlist.towers.clock import tells_hours
from shortlist.towers.mlp import has_perceptron
from shortlist.towers.two_tower import TwoTowers
from shortlist.training.blocks import Encoders
from shortlist.training.hard import hard_term_of, needs_known
from shortlist.training.presets import objective_of, sampler_of
from shortlist.training.ranks import dealt, here
from shortlist.training.trainer import Trainer

logger = logging.getLogger("shortlist.channels")

POSITIONS = 32_768
"""Positions of histories, with padding, that a sequence tower encodes at a time."""

STRETCH, STRETCH_SHARE = 16, 8
"""Positives per window of model.history_windows: max(STRETCH, history_length / STRETCH_SHARE).
Longer windows reuse more computation; shorter ones leave more usable in-batch negatives."""

NOTHING: Mapping[str, Tensor] = {}
"""No features of events."""

HOURLESS = (
    "model.request_time reads no hour here, because every time of the training rows is a date or "
    "midnight; it still reads weekdays and the time since the last event"
)
"""Warning for a log without times of day."""

READS = ALWAYS_READ | {
    *("history", "history_length", "history_reads", "history_windows", "request_time"),
    *("history_dropout", "shared_items", "user_id", "user_features", "user_layers"),
    *("item_id", "item_features", "item_layers", "id_dropout", "item_neighbours"),
    *("mask_known", "biases", "popularity", *HARD_KEYS, "weighted", "history_features", "context"),
}
"""The keys of [model] and [training] that have an effect; options of parts come in addition."""

UNREAD = {
    "session_gap": "it cuts sessions for positives = 'i2i'",
    "pair_window": "it is for the pairs of positives = 'i2i'",
    "latest_items": "it is for positives = 'i2i'; see history_length",
    "neighbours": "it is for positives = 'u2u'",
}
"""Why keys that are not in READS have no effect."""


class TwoTower(ItemVectors):
    """A two-tower retriever (Huang et al. 2013, DSSM; Covington et al. 2016, YouTube DNN).

    Options are the keys of a recipe's [model] and [training] sections, with the same checks:
    `TwoTower(mode="pairwise", dim=32, epochs=5)`. After `fit`, `epochs_run` holds the epochs.
    """

    positives: ClassVar[str] = "u2i"
    reads: ClassVar[Reads] = Reads(READS, ("loss", "sampler", "hard", "history"))
    unread: ClassVar[Mapping[str, str]] = UNREAD

    towers: TwoTowers
    _encoder: Callable[[RowQueries], Tensor] | None
    _by_angle: tuple[Tensor, ExactIndex] | None

    def __init__(
        self,
        *,
        model: Model | None = None,
        training: Training | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(model=model, training=training, device=device, **options)
        section, similarity = self.model_section, self.training_section.similarity
        if section.biases and similarity != "dot":
            raise ModelError(
                f"model.biases are added to a score, and similarity = '{similarity}' is no sum: "
                "use similarity = 'dot', or leave biases out"
            )
        if section.biases and not is_auto(section.dim) and section.dim < 3:
            raise ModelError(
                f"model.biases take two of the numbers of a vector, and model.dim = {section.dim} "
                "leaves none: use 3 or more"
            )

        if section.popularity is not None and similarity != "dot":
            raise ModelError(
                f"model.popularity is added to a cosine, which similarity = '{similarity}' would "
                "scale away: use similarity = 'dot', with the temperature of a cosine (0.1)"
            )
        if section.popularity is not None and not is_auto(section.dim) and section.dim < 2:
            raise ModelError(
                "model.popularity takes one of the numbers of a vector, and model.dim = 1 leaves "
                "none: use 2 or more"
            )
        if section.item_neighbours and self.training_section.optimizer == "sharded":
            raise ModelError(
                "training.optimizer = 'sharded' reads the rows of a step's own items, and "
                "model.item_neighbours also those of their neighbours: use optimizer = 'row-wise'"
            )

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries of which the query tower would read nothing, bool [B].

        They have no trained id, no features, and no item in their history that the tower can read.
        """
        nothing = torch.ones(len(block.users), dtype=torch.bool)
        if self.towers.query.history is not None:
            nothing &= self._known(block.history).lengths == 0
        if self.towers.query.id is not None:
            nothing &= (block.users == 0) | (block.users > self.data.users.trained)
        if self.towers.query.fields is not None:
            nothing &= block.users == 0
            if block.described is not None:
                nothing &= ~block.described.given
        if self.towers.query.context is not None:
            nothing &= ~block.tells(self.towers.query.context.names)
        return nothing

    @property
    def query_features(self) -> frozenset[str]:
        """The user features that the query tower reads."""
        fields = self.towers.query.fields
        return frozenset() if fields is None else frozenset(fields.names)

    @property
    def query_context(self) -> frozenset[str]:
        """The features of the requested event (context) that the query tower reads."""
        context = self.towers.query.context
        return frozenset() if context is None else frozenset(context.names)

    @property
    def history_features(self) -> frozenset[str]:
        """The features of past events that the query tower reads."""
        past = self.towers.query.past
        return frozenset() if past is None else frozenset(past.fields.names)

    @property
    def timed(self) -> bool:
        """True if the query tower reads the times of events."""
        return bool(self.towers.query.timed) or self.reads_clock

    @property
    def reads_clock(self) -> bool:
        """True if the query tower reads the time of the request."""
        return self.towers.query.clock is not None

    @property
    def hourless(self) -> bool:
        """True if the query tower reads the time of the request, but the log has no hours."""
        clock = self.towers.query.clock
        return clock is not None and not bool(clock.hours)

    @property
    def readable_rows(self) -> Tensor:
        """The rows of the items that are read in a history, ascending, [n]."""
        return self._readable.nonzero().squeeze(1)

    def use_query_encoder(self, encode: Callable[[RowQueries], Tensor], most: int) -> None:
        """Use another function to encode blocks of 1 to `most` queries.

        Args:
            encode: returns what `encode_block` returns.
            most: largest number of queries in a block.
        """
        self._encoder, self._most_encoded = encode, most

    def encode_block(self, block: RowQueries) -> Tensor:
        """Encode the latest known items of each query as in training, [B, D] or [B, K, D]."""
        if self.towers.training:
            self.towers.eval()
        history = self._known(block.history)
        length = torch.clamp(history.lengths, max=self.model_section.history_length)
        first = history.offsets[1:] - length
        latest = windows(history.values, first, length)
        readable = self._readable[block.history.values]
        past, when = {}, None
        if self.towers.query.past is not None:
            for name, column in block.columns.items():
                past[name] = windows(column[readable], first, length).values
        if self.timed and block.time is not None:
            when = windows(block.time[readable], first, length).values
        if not self.towers.query.causal or not len(block.users):
            described, context = block.described, block.context
            return self._encode(
                block.users, latest, when, described, block.asked, past=past, context=context
            )
        groups = like_lengths(latest.lengths, POSITIONS)

        def of_events(column: Tensor, group: Tensor) -> Tensor:
            return taken(Ragged(column, latest.offsets), group).values

        parts = [
            self._encode(
                block.users[group],
                taken(latest, group),
                None if when is None else of_events(when, group),
                None if block.described is None else block.described.take(group),
                None if block.asked is None else block.asked[group],
                past={name: of_events(column, group) for name, column in past.items()},
                context={name: column[group] for name, column in block.context.items()},
            )
            for group in groups
        ]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _item_index(self) -> VectorIndex:
        """Return the index for `near`: for dot a cosine index, as long vectors are near to all."""
        if self.training_section.similarity != "dot":
            return self.index
        if self._vectors is None:
            raise QueryError(
                "similar items are found by the cosine, and the server of this bundle's index "
                "compares by the dot product: train with the cosine, or use another index"
            )
        if self._by_angle is None or self._by_angle[0] is not self._vectors:
            keys = torch.from_numpy(self.data.items.tie_keys)[self.item_rows]
            index = ExactIndex("cosine").build(self.item_rows, self._vectors, keys)
            self._by_angle = (self._vectors, index)
        return self._by_angle[1]

    def _rows_to_place(self) -> Tensor:
        with_features = self.towers.reads_item_features
        return torch.from_numpy(self.data.candidates(with_features=with_features))

    def set_data(self, data: TrainingData) -> None:
        """Build untrained towers for this data."""
        self._settle_once(data)
        self.data = data
        self._encoder = None
        self._most_encoded = 0
        self._by_angle = None
        self._user_table = data.user_features.to(self.device)
        self._item_table = data.item_features.to(self.device)
        history = self.model_section.history
        section = self.model_section
        if history == "recency" and not data.ordered and not section.history_windows:
            section = section.model_copy(update={"history": "mean"})
        elif history in TOWERS and TOWERS[history].causal and not data.ordered:
            raise ModelError(
                f"model.history = '{history}' reads events in their order, and the log has no "
                "time column (data.time): give one, or use history = 'mean'"
            )
        elif section.history_windows and not data.ordered:
            raise ModelError(
                "model.history_windows reads events in their order, and the log has no time column "
                "(data.time): give one, or leave it out"
            )
        steps = self._steps(data) if section.request_time else 1.0
        features = data.user_features, data.item_features
        towers = TwoTowers(*features, section, steps, data.event_features)
        self.towers = towers.to(self.device)
        if self.towers.query.timed and data.time_unit == "line":
            raise ModelError(
                "model.history_time reads the time between events, and data.order = 'file' has "
                "none: leave it out, or give data.time"
            )
        self._mark_readable()
        self.popular = Popular().fit_data(data)

    def _begin_weights(self) -> None:
        read_log(self.towers.item, self.data)
        if self.towers.item.neighbours is not None:
            begin_in_graph(self.towers.item, self.data)

    def _steps(self, data: TrainingData) -> float:
        """Return the log's time steps per second. Errors: ModelError if the log has no times."""
        if not data.ordered or data.time_unit == "line":
            raise ModelError(
                "model.request_time reads the time of a request, and the log has no times: give "
                "data.time, or leave it out"
            )
        if data.time_unit not in STEPS:
            raise ModelError(
                "model.request_time reads a clock, and the log's times are plain numbers in an "
                "unknown unit: name the unit (data.time_unit), or leave it out"
            )
        return STEPS[data.time_unit]

    def _mark_readable(self) -> None:
        """Mark the items that can be read in a history: by an id, or by features that are read."""
        self._readable = torch.zeros(len(self.data.items) + 1, dtype=torch.bool)
        self._readable[1 : self.data.items.trained + 1] = True  # removed items too
        if self.towers.reads_items:
            self._readable[self.data.candidates(with_features=True)] = True

    def _trainer(self, data: TrainingData) -> Trainer:
        training = self.training_section
        counts, drawn = torch.from_numpy(data.item_counts).to(self.device), None
        if data is not self.data:  # a refresh trains on new events only
            drawn = torch.from_numpy(self.data.item_counts).to(self.device)
        objective = objective_of(training).to(self.device)
        if (clock := self.towers.query.clock) is not None:
            times = data.training_log.time
            clock.hours.fill_(
                times is not None and tells_hours(torch.from_numpy(times), clock.steps)
            )
            if self.hourless and data.fit == "train":
                logger.warning(HOURLESS)
        if reads_values(objective.loss):
            values = data.training_log.weights_for("values = 'explicit'")
            if self.model_section.biases:
                self.towers.item.mean.fill_(float(values.mean(dtype=np.float64)))
        return Trainer(
            self.towers,
            Encoders(self._encode_batch, self._encode_items, has_perceptron(self.towers)),
            objective,
            sampler_of(training, counts, drawn),
            self._batches(data),
            training=training,
            hard=hard_term_of(training, objective, self._hard_world(self.data)),
            ranks=here(),
        )

    def _batches(self, data: TrainingData) -> Batches:
        return dealt(data.training_log, lambda log: self._batches_of(log, data))

    def _batches_of(self, log: Interactions, data: TrainingData) -> Batches:
        training, ranks = self.training_section, here()
        options: dict[str, Any] = {
            "batch_size": ranks.share(training.batch_size),
            "history_length": self.model_section.history_length,
            "with_time": self.timed,
            "with_known": needs_known(training),
            "weighted": training.weighted or reads_values(objective_of(training).loss),
            "steps": ranks.steps,
            "device": self.device,
        }
        query, columns = self.towers.query, data.event_features.columns_of(log)
        if query.past is not None:
            options["past"] = {name: columns[name] for name in query.past.fields.names}
        if query.context is not None:
            options["context"] = {name: columns[name] for name in query.context.names}
        if self.towers.query.causal:
            return SequenceBatches(log, **options)
        if self.model_section.history_windows:
            stretch = max(STRETCH, self.model_section.history_length // STRETCH_SHARE)
            return SequenceBatches(log, **options, stretch=stretch)
        return PairBatches(log, ordered=data.ordered, **options)

    def _hard_world(self, data: TrainingData) -> HardWorld:
        """Return what hard negatives are drawn from, on the device of the batches."""
        rows = data.candidates(with_features=self.towers.reads_item_features)
        log = data.training_log
        known = Ragged(torch.from_numpy(log.item), torch.from_numpy(log.indptr))
        return HardWorld(
            torch.from_numpy(rows).to(self.device),
            self.training_section.similarity,
            {name: lists.to(self.device) for name, lists in data.logged.items()},
            None if self.training_section.hard_known else known.to(self.device),
        )

    def _encode_batch(self, batch: Batch) -> Tensor:
        return self._encode_queries(
            *(batch.users, batch.history, batch.place, batch.time),
            asked=batch.asked,
            past=batch.past,
            context=batch.context,
        )

    def _encode_queries(
        self,
        users: Tensor,
        history: Ragged,
        place: Tensor | None,
        time: Tensor | None,
        described: Described | None = None,
        asked: Tensor | None = None,
        *,
        past: Mapping[str, Tensor] = NOTHING,
        context: Mapping[str, Tensor] = NOTHING,
    ) -> Tensor:
        features = self._user_table.take(users)
        if described is not None:
            now = {name: column.to(self.device) for name, column in described.columns.items()}
            features = {**features, **now}
        return self.towers.encode_queries(
            *(features, history, place, self._item_table, time, asked),
            past=self._read_of(self.history_features, past, len(history.values)),
            context=self._read_of(self.query_context, context, len(users)),
        )

    def _read_of(
        self, names: frozenset[str], columns: Mapping[str, Tensor], events: int
    ) -> Mapping[str, Tensor]:
        """Return these features of events; missing columns become unknown values."""
        if names <= columns.keys():
            return {name: columns[name] for name in names}
        nothing = self.data.event_features.unknown(events)
        return {n: columns[n] if n in columns else nothing[n].to(self.device) for n in names}

    def encode_item_rows(self, rows: Tensor) -> Tensor:
        """Return the vectors of any item rows, [N, D], also of rows outside the index."""
        self.towers.eval()
        with torch.no_grad():
            return self._encode_items(rows).cpu()

    def _encode_items(self, rows: Tensor) -> Tensor:
        return self.towers.encode_items(self._item_table.take(rows.to(self.device)))

    def _encode_block(self, block: RowQueries) -> Tensor:
        few = 0 < len(block.users) <= self._most_encoded
        if self._encoder is not None and few and block.described is None:
            return self._encoder(block)
        return self.encode_block(block)

    def _encode(
        self,
        users: Tensor,
        history: Ragged,
        time: Tensor | None = None,
        described: Described | None = None,
        asked: Tensor | None = None,
        *,
        past: Mapping[str, Tensor] = NOTHING,
        context: Mapping[str, Tensor] = NOTHING,
    ) -> Tensor:
        """Encode users [B] with their histories and the times of the events, without gradients.

        described: features that replace the stored ones.
        asked: the time of each request, [B].
        past, context: features of the events of the histories, and of the requested events.
        """
        with torch.no_grad():
            users, history = users.to(self.device), history.to(self.device)
            time, asked = (None if of is None else of.to(self.device) for of in (time, asked))
            return self._encode_queries(
                *(users, history, None, time, described, asked),
                past={name: column.to(self.device) for name, column in past.items()},
                context={name: column.to(self.device) for name, column in context.items()},
            ).cpu()

    def _known(self, history: Ragged) -> Ragged:
        """Remove items that the tower cannot read: unknown ones and those never trained on.

        If histories are read through the item tower, features are enough.
        """
        return keep(history, self._readable[history.values])
