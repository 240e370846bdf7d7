"""The two-tower model: a query tower and an item tower, which meet only in the score."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from shortlist.data.event_columns import EventEncoder, EventFeatures, as_inputs, sometimes_unknown
from shortlist.data.features import ID, Encoder, Features, FeatureTable
from shortlist.data.moments import is_known, unknown_time
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError, suggest
from shortlist.sections.model import CommonModel
from shortlist.similarity import normalize
from shortlist.towers import build_history
from shortlist.towers.base import InterestTower, TimedTower
from shortlist.towers.clock import Clock, anchors, last_times
from shortlist.towers.features import Fields, embedding, item_table, rows_read
from shortlist.towers.mlp import mlp
from shortlist.towers.neighbours import NeighbourMean
from shortlist.towers.noise import dropout
from shortlist.towers.past import PastEvents

Columns: TypeAlias = Mapping[str, Tensor]
"""Encoded features of events by name."""

HIDDEN = 0.1
"""Share of the events that are trained with unknown features."""


class QueryTower(nn.Module):
    """Encodes a user as one vector, or as K interests, from id, features, history and time.

    The vector is a sum of direct parts and of a perceptron. The direct parts are the weighted
    segments of a pooled history, the state of a sequence tower or an interest, the id embedding and
    the clock. The perceptron reads the concatenation of segments or interest, the features of the
    user, the context (features of the requested event), and with hidden layers also the clock.
    Features of past events change the vectors of the history.

    users: the features and ids of users.
    items: the features and ids of items.
    shape: the [model] section.
    steps: units of the log's times per second, for shape.request_time.
    events: the features of events; None for none.
    Errors: ModelError for a tower that would read nothing, and for features that it cannot read.
    """

    def __init__(
        self,
        users: FeatureTable,
        items: FeatureTable,
        shape: CommonModel,
        steps: float = 1.0,
        events: EventFeatures | None = None,
    ) -> None:
        super().__init__()
        self.dim = shape.dim
        self.dropout = shape.dropout
        past, context = read_of_events(shape, events or EventFeatures())
        self.past = PastEvents(past, shape.dim) if past else None
        self.context = Fields(context, shape.dim) if context else None
        encoders = chosen("user", shape.user_features, users.encoders, items.encoders)
        self.fields = Fields(encoders, shape.dim) if encoders else None
        self.id = embedding(users.trained + 1, shape.dim) if shape.user_id else None
        self.history: nn.Module | None = None
        width = sum(part.width for part in (self.fields, self.context) if part)
        if shape.history != "none":
            tower = build_history(shape)
            assert isinstance(tower, nn.Module)
            self.history = tower
            if not shape.shares_items and shape.history_reads == "ids":
                self.table = item_table(items.trained + 1, shape.dim)
            if isinstance(tower, InterestTower):
                width += shape.dim
            elif not tower.causal:
                self.decay = nn.Parameter(2.0 ** (-0.5 * torch.arange(tower.segments)))
                width += tower.segments * shape.dim
        if width == 0 and self.id is None and self.history is None:
            raise ModelError(
                "the user tower has no input: turn model.user_id on, name features of users in "
                "model.user_features, or choose a model.history"
            )
        self.clock: Clock | None = None
        if shape.request_time:
            self.clock = Clock(shape.dim, steps, since=self.history is not None)
            width += shape.dim if shape.user_layers else 0
        if shape.user_layers and width == 0:
            raise ModelError(
                "model.user_layers read user features, features of the event, a pooled history, "
                "interests or the time of the request, and this user tower has none of these: "
                "leave user_layers out"
            )
        self.top = mlp(width, shape.user_layers, shape.dim, shape.dropout) if width else None
        self.layered = bool(shape.user_layers)
        self.biases, self.popularity = shape.biases, shape.popularity
        # Kept, because isinstance on a Protocol is slow and every query needs the result.
        self.timed = isinstance(self.history, TimedTower) and bool(self.history.timed)
        """True if the tower reads the time between the events of a history."""

    @property
    def causal(self) -> bool:
        """True if one pass gives a vector after every event of a history."""
        return self.history is not None and bool(self.history.causal)

    def forward(
        self,
        features: Features,
        history: Ragged,
        items: nn.Embedding | Tensor | None = None,
        place: Tensor | None = None,
        time: Tensor | None = None,
        asked: Tensor | None = None,
        past: Columns | None = None,
        context: Columns | None = None,
    ) -> Tensor:
        """Return user vectors, [B, D], or [B, K, D] for a tower of interests.

        features: encoded features and ids of the users, by name.
        history: item rows, oldest first.
        items: item table [N + 1, D] to look histories up in, if the towers share one.
        place: for a sequence tower or a pooled history, the event after which each vector is
        computed, [B], as a position in history.values. None means the last event of each list; an
        empty list adds nothing.
        time: time of each event, [total], for a tower that reads times.
        asked: time of each row's request, [B], for a tower with a clock. An unknown time is
        replaced by that of the last event read.
        past: encoded features of each event, [total] each, for a tower that reads them.
        context: encoded features of the requested event, [B] each, for a tower that reads them.
        """
        parts: list[Tensor] = []
        direct: list[Tensor] = []
        further: dict[str, Tensor | None] = {"time": time} if self.timed else {}
        if self.clock is not None:
            rows = len(history.offsets) - 1 if place is None else len(place)
            asked, last = _moments(time, history.offsets, place, asked, rows)
            moment = self.clock(asked, last)
            direct.append(moment)
            if self.layered:
                parts.append(moment)
            if self.timed and time is not None:
                further["anchor"] = anchors(time, history.offsets, place, asked)
        if self.history is not None:
            read, table = rows_read(history, self.table if items is None else items)
            if place is not None and not self.causal:
                further["place"] = place
            with torch.autocast(history.values.device.type, enabled=False):
                found = self.history(*self._with_past(read, table, past or {}), **further)
                if self.causal:
                    asked = _last(found, history) if place is None else found.index_select(0, place)
                    direct.append(asked)
                elif isinstance(self.history, InterestTower):
                    interests = dropout(found, self.dropout, self.training)  # [B, K, D]
                    direct.append(interests)
                    parts.append(interests)
                else:
                    pooled = dropout(found, self.dropout, self.training)  # [B, K, D]
                    direct.append(torch.einsum("bkd,k->bd", pooled, self.decay))
                    parts.append(pooled.flatten(1))
        parts += self._described(features, context or {})
        if self.id is not None:
            direct.append(self.id(features[ID]))
        if self.top is not None:
            direct.append(self.top(torch.cat(_for_each_interest(parts), dim=-1)))
        vectors = torch.stack(_for_each_interest(direct)).sum(dim=0)
        if self.popularity is not None:  # and a 1 for the item's popularity
            return torch.cat([normalize(vectors[..., :-1]), torch.ones_like(vectors[..., -1:])], -1)
        if not self.biases:
            return vectors
        # The last two coordinates are the user's bias and a 1 that the item's bias multiplies.
        return torch.cat([vectors[..., :-1], torch.ones_like(vectors[..., -1:])], dim=-1)

    def _with_past(self, history: Ragged, table: Tensor, past: Columns) -> tuple[Ragged, Tensor]:
        """Apply the features of past events, if the tower reads any, to histories and table."""
        if self.past is None:
            return history, table
        read: tuple[Ragged, Tensor] = self.past(history, table, self._sometimes_hidden(past))
        return read

    def _described(self, features: Features, context: Columns) -> list[Tensor]:
        """Return the fields of the users and of the requested events, [B, *] each."""
        parts = [] if self.fields is None else [self.fields(features)]
        if self.context is not None:
            parts.append(self.context(as_inputs(self._sometimes_hidden(context))))
        return parts

    def _sometimes_hidden(self, columns: Columns) -> Columns:
        """Return the features of events; in training a share HIDDEN of them becomes unknown."""
        return sometimes_unknown(columns, HIDDEN) if self.training else columns


class ItemTower(nn.Module):
    """Encodes an item as one vector: id embedding, that of its neighbours, perceptron of features.

    In training the id embedding of a share `id_dropout` of the items is left out (DropoutNet,
    Volkovs et al. 2017), so that vectors of items without one, such as new items, are trained too.

    users: the features and ids of users.
    items: the features and ids of items.
    shape: the [model] section.
    met (buffer): with shape.popularity, the logarithm of the number of events of each item row,
    [N + 1]; like the rows of the neighbours it is counted from the log before training.
    Errors: ModelError for a tower that would read nothing, and for features that it cannot read.
    """

    FROM_LOG: ClassVar = ("neighbours.rows", "neighbours.weights", "met")
    """Names of the buffers that are counted from the log and not learned."""

    def __init__(self, users: FeatureTable, items: FeatureTable, shape: CommonModel) -> None:
        super().__init__()
        self.dim = shape.dim
        encoders = chosen("item", shape.item_features, items.encoders, users.encoders)
        self.fields = Fields(encoders, shape.dim) if encoders else None
        self.id = item_table(items.trained + 1, shape.dim) if shape.item_id else None
        if self.fields is None and self.id is None:
            raise ModelError(
                "the item tower has no input: turn model.item_id on or give item features"
            )
        self.neighbours: NeighbourMean | None = None
        if shape.item_neighbours is not None:
            self.neighbours = NeighbourMean(items.trained, shape.item_neighbours)
        self.id_dropout = shape.id_dropout
        if self.id_dropout > 0 and (self.fields is None or self.id is None):
            raise ModelError(
                "model.id_dropout trains some items by their features alone: it needs item "
                "features and model.item_id"
            )
        if shape.item_layers and self.fields is None:
            raise ModelError(
                "model.item_layers read item features, and this item tower has none: leave "
                "item_layers out"
            )
        self.top = (
            mlp(self.fields.width, shape.item_layers, shape.dim, shape.dropout)
            if self.fields
            else None
        )
        self.popularity = shape.popularity
        self.met: Tensor
        if shape.popularity is not None:
            self.register_buffer("met", torch.zeros(items.trained + 1))
        self.biases = shape.biases
        self.mean: Tensor
        if shape.biases:
            self.register_buffer("mean", torch.zeros(()))

    def forward(self, features: Features) -> Tensor:
        """Return item vectors [B, D]. features: encoded features and ids of the items, by name."""
        parts: list[Tensor] = []
        if self.id is not None:
            own = self.id(features[ID])
            if self.neighbours is not None:
                own = own + self.neighbours(features[ID], self.id)
            if self.training and self.id_dropout > 0:
                own = own * (torch.rand(len(own), 1, device=own.device) >= self.id_dropout)
            parts.append(own)
        if self.fields is not None and self.top is not None:
            parts.append(self.top(self.fields(features)))
        vectors = torch.stack(parts).sum(dim=0)
        if self.popularity is not None:
            often = self.popularity * self.met[features[ID]]
            return torch.cat([normalize(vectors[:, :-1]), often.unsqueeze(1)], dim=1)
        if not self.biases:
            return vectors
        # The last two coordinates: a 1 that the user's bias multiplies; the item's bias + the mean.
        one = torch.ones_like(vectors[:, -1:])
        return torch.cat([vectors[:, :-2], one, vectors[:, -1:] + self.mean], dim=1)


class TwoTowers(nn.Module):
    """A query tower and an item tower. With ids alone (history 'none', no features) this is matrix
    factorisation.

    users: the features and ids of users.
    items: the features and ids of items.
    shape: the [model] section.
    steps: units of the log's times per second, for shape.request_time.
    events: the features of events; None for none.
    Errors: ModelError for a tower that would read nothing, and for features that it cannot read.
    """

    def __init__(
        self,
        users: FeatureTable,
        items: FeatureTable,
        shape: CommonModel,
        steps: float = 1.0,
        events: EventFeatures | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.query = QueryTower(users, items, shape, steps, events)
        self.item = ItemTower(users, items, shape)
        if self.reads_items and self.item.fields is None:
            raise ModelError(
                "model.history_reads = 'items' needs item features: without them an item's vector "
                "is its id embedding; use history_reads = 'ids'"
            )

    @property
    def reads_items(self) -> bool:
        """True if histories are sequences of the item tower's vectors."""
        return self.shape.history_reads == "items"

    def encode_queries(
        self,
        features: Features,
        history: Ragged,
        place: Tensor | None = None,
        catalogue: FeatureTable | None = None,
        time: Tensor | None = None,
        asked: Tensor | None = None,
        past: Columns | None = None,
        context: Columns | None = None,
    ) -> Tensor:
        """Return user vectors, [B, D], or [B, K, D] for a tower of interests.

        features: encoded features and ids of the users, by name.
        history: item rows, oldest first.
        catalogue: features of all items; needed with model.history_reads = 'items'.
        place, time, asked, past, context: as in QueryTower.forward.
        """
        shared: nn.Embedding | Tensor | None = self.item.id if self.shape.shares_items else None
        if self.reads_items:
            if catalogue is None:
                raise ModelError("history_reads = 'items' needs the features of the items")
            history, shared = self._read(history, catalogue)
        vectors: Tensor = self.query(features, history, shared, place, time, asked, past, context)
        return vectors

    def _read(self, history: Ragged, catalogue: FeatureTable) -> tuple[Ragged, Tensor]:
        """Encode each distinct item once; return histories as rows of a table, and the table.

        The table is [M + 1, D] for M distinct items; row 0 is zero.
        """
        rows, place = torch.unique(history.values, return_inverse=True)
        vectors = self.encode_items(catalogue.take(rows))
        unknown = vectors.new_zeros(1, vectors.shape[1])
        return Ragged(place + 1, history.offsets), torch.cat([unknown, vectors])

    def encode_items(self, features: Features) -> Tensor:
        """Return item vectors [B, D]. features: encoded features and ids of the items, by name."""
        vectors: Tensor = self.item(features)
        return vectors

    @property
    def reads_item_features(self) -> bool:
        """True if the item tower can encode items without events."""
        return self.item.fields is not None


def _moments(
    time: Tensor | None, offsets: Tensor, place: Tensor | None, asked: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Return the time of each row's request and of its last event, [B] each.

    An unknown time of a request is replaced by the time of the last event.
    """
    if time is None:
        kind = torch.int64 if asked is None else asked.dtype
        last = torch.full((rows,), unknown_time(kind), dtype=kind, device=offsets.device)
    else:
        last = last_times(time, offsets, place)
    return (last if asked is None else torch.where(is_known(asked), asked, last)), last


def _for_each_interest(parts: list[Tensor]) -> list[Tensor]:
    """Expand parts [B, *] to [B, K, *] if any part has K interests; else return them unchanged."""
    several = [part.shape[1] for part in parts if part.dim() == 3]
    if not several:
        return parts
    interests = max(several)
    return [
        part if part.dim() == 3 else part.unsqueeze(1).expand(-1, interests, -1) for part in parts
    ]


def _last(states: Tensor, history: Ragged) -> Tensor:
    """Return the state after the last event of each list, [B, D]; zeros for an empty list."""
    none = history.lengths == 0
    padded = torch.cat([states, states.new_zeros(1, states.shape[1])])
    return padded[(history.offsets[1:] - 1).masked_fill(none, len(states))]


def chosen(
    side: str,
    names: Sequence[str] | None,
    own: Mapping[str, Encoder],
    other: Mapping[str, Encoder],
) -> dict[str, Encoder]:
    """Return the encoders of the features that a tower reads. Errors: ModelError.

    side: "user" or "item".
    names: names of the features; None for all of the side.
    own: encoders of the side.
    other: encoders of the other side, for error messages.
    """
    check_features(side, names or (), own, other)
    return {name: own[name] for name in (own if names is None else names)}


def read_of_events(
    shape: CommonModel, events: EventFeatures
) -> tuple[dict[str, EventEncoder], dict[str, EventEncoder]]:
    """Return the encoders of the features that a query tower reads: of past events, and of the
    requested event. Errors: ModelError.
    """
    check_event_features(shape, events.encoders, events.after)
    past = events.encoders if shape.history_features is None else shape.history_features
    context = events.before if shape.context is None else shape.context
    if shape.history == "none":
        past = ()
    return (
        {name: events.encoders[name] for name in past},
        {name: events.encoders[name] for name in context},
    )


def check_event_features(
    shape: CommonModel, declared: Collection[str], after: Collection[str]
) -> None:
    """Refuse features of events that do not exist, and a context that is known too late.

    declared: names of the features of events.
    after: those that are known only after the event.
    Errors: ModelError.
    """
    for key, names in (("history_features", shape.history_features), ("context", shape.context)):
        for name in names or ():
            if name not in declared:
                hint = suggest(name, declared) if declared else " There is none."
                raise ModelError(f"model.{key}: no feature of events '{name}'.{hint}")
    for name in shape.context or ():
        if name in after:
            raise ModelError(
                f"model.context names '{name}', which is known after the event "
                f"(features.events.{name}), but a request comes before it: name it in "
                "model.history_features instead, which reads past events"
            )


def check_features(
    side: str, names: Iterable[str], own: Iterable[str], other: Iterable[str]
) -> None:
    """Refuse features of the other side, and features that do not exist. Errors: ModelError.

    side: "user" or "item".
    """
    for name in names:
        if name in own:
            continue
        if name in other:
            raise ModelError(
                f"model.{side}_features names '{name}', which belongs to the other side. A tower "
                "that reads both sides (early fusion) is a ranker: its vectors depend on the pair, "
                "so they cannot be computed once and indexed. Leave it to the ranking stage."
            )
        raise ModelError(f"model.{side}_features: no feature '{name}'.{suggest(name, own)}")
