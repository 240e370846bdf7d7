"""The two-tower model: a query tower and an item tower that meet only at the score."""

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
"""Share of the events that train as if none of their features were known."""


class QueryTower(nn.Module):
    """A user as one vector, or as K of them: id, features, history and the time of the question.

    Sum of what speaks the items' language directly (the weighted segments of a pooled history, the
    state of a sequence tower or an interest, the id embedding and the clock) and of a perceptron
    over segments or interest and features side by side, those of the user and those of the event
    asked for (its context), and with hidden layers over the clock. Features of past events change
    the vectors that its history reads.

    steps: of the log's times in a second, for shape.request_time.
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
                "the user tower has nothing to read: turn model.user_id on, name features of users "
                "in model.user_features, or choose a model.history"
            )
        self.clock: Clock | None = None
        if shape.request_time:
            self.clock = Clock(shape.dim, steps, since=self.history is not None)
            width += shape.dim if shape.user_layers else 0
        if shape.user_layers and width == 0:
            raise ModelError(
                "model.user_layers are over user features, features of the event, a pooled "
                "history, interests or the time of the request, and this user tower reads none of "
                "them: leave them out"
            )
        self.top = mlp(width, shape.user_layers, shape.dim, shape.dropout) if width else None
        self.layered = bool(shape.user_layers)
        self.biases, self.popularity = shape.biases, shape.popularity
        # Asked for each query: looking through a protocol takes longer than some of the answer.
        self.timed = isinstance(self.history, TimedTower) and bool(self.history.timed)
        """Whether it reads how much time lies between the events of a history."""

    @property
    def causal(self) -> bool:
        """Whether it can be asked at every event of a history, for the price of the last."""
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
        """Return user vectors [B, D], or [B, K, D] of a tower of interests.

        history: item rows, oldest first; items: the table to read it with, N + 1 rows, where the
        towers share one. place: for a sequence tower or a pooled history, which events of the
        histories the vectors are asked after, [B], positions in history.values; without it after
        the last of each list, and a list without events adds nothing. time: [total], of the events,
        for a tower that reads it (timed, clock); asked: [B], when each row is asked, for a clock;
        unknown, it is when the event came after which the row is asked. past: features of the
        events, [total] each; context: of the event asked for, [B] each; for a tower that reads
        them.
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
        if self.popularity is not None:  # ..., 1, which the item's popularity is multiplied with
            return torch.cat([normalize(vectors[..., :-1]), torch.ones_like(vectors[..., -1:])], -1)
        if not self.biases:
            return vectors
        # ..., bias of the user, 1, which the item's bias is multiplied with.
        return torch.cat([vectors[..., :-1], torch.ones_like(vectors[..., -1:])], dim=-1)

    def _with_past(self, history: Ragged, table: Tensor, past: Columns) -> tuple[Ragged, Tensor]:
        """The histories and the table to read them with, where features of events change it."""
        if self.past is None:
            return history, table
        read: tuple[Ragged, Tensor] = self.past(history, table, self._told(past))
        return read

    def _described(self, features: Features, context: Columns) -> list[Tensor]:
        """What the features of the users, and of the events asked for, become."""
        parts = [] if self.fields is None else [self.fields(features)]
        if self.context is not None:
            parts.append(self.context(as_inputs(self._told(context))))
        return parts

    def _told(self, columns: Columns) -> Columns:
        """Features of events as they are; in training some of them are hidden."""
        return sometimes_unknown(columns, HIDDEN) if self.training else columns


class ItemTower(nn.Module):
    """An item as one vector: its id embedding, that of its neighbours, a perceptron over features.

    In training a share `id_dropout` of the items comes without the id embedding (DropoutNet,
    Volkovs et al. 2017): the vector of an item that has none is then one that was trained.

    met: with shape.popularity, the logarithm of the events of each item row, [N + 1], found in the
    log before training like the rows of the neighbours.
    """

    FROM_LOG: ClassVar = ("neighbours.rows", "neighbours.weights", "met")
    """What is found in the log, and not learned."""

    def __init__(self, users: FeatureTable, items: FeatureTable, shape: CommonModel) -> None:
        super().__init__()
        self.dim = shape.dim
        encoders = chosen("item", shape.item_features, items.encoders, users.encoders)
        self.fields = Fields(encoders, shape.dim) if encoders else None
        self.id = item_table(items.trained + 1, shape.dim) if shape.item_id else None
        if self.fields is None and self.id is None:
            raise ModelError(
                "the item tower has nothing to read: turn model.item_id on or give item features"
            )
        self.neighbours: NeighbourMean | None = None
        if shape.item_neighbours is not None:
            self.neighbours = NeighbourMean(items.trained, shape.item_neighbours)
        self.id_dropout = shape.id_dropout
        if self.id_dropout > 0 and (self.fields is None or self.id is None):
            raise ModelError(
                "model.id_dropout leaves an item to its features: it needs item features and "
                "model.item_id"
            )
        if shape.item_layers and self.fields is None:
            raise ModelError(
                "model.item_layers are over item features, and this item tower reads none: leave "
                "them out"
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
        """Return item vectors [B, D]."""
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
        # ..., 1, which the user's bias is multiplied with, bias of the item and the mean of all.
        one = torch.ones_like(vectors[:, -1:])
        return torch.cat([vectors[:, :-2], one, vectors[:, -1:] + self.mean], dim=1)


class TwoTowers(nn.Module):
    """Both towers. Matrix factorisation is the case of two ids: history 'none', no features.

    steps: of the log's times in a second, for shape.request_time.
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
                "is its id embedding, history_reads = 'ids'"
            )

    @property
    def reads_items(self) -> bool:
        """Whether histories are read with the item tower's vectors."""
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
        """Return user vectors, [B, D] or [B, K, D] of a tower of interests.

        history: item rows, oldest first; place, time, asked, past, context: as QueryTower;
        catalogue: the features of all items, where histories are read with the item tower's
        vectors.
        """
        shared: nn.Embedding | Tensor | None = self.item.id if self.shape.shares_items else None
        if self.reads_items:
            if catalogue is None:
                raise ModelError("history_reads = 'items' needs the features of the items")
            history, shared = self._read(history, catalogue)
        vectors: Tensor = self.query(features, history, shared, place, time, asked, past, context)
        return vectors

    def _read(self, history: Ragged, catalogue: FeatureTable) -> tuple[Ragged, Tensor]:
        """Encode each distinct item once: the histories as rows of a table, and that [M + 1, D]."""
        rows, place = torch.unique(history.values, return_inverse=True)
        vectors = self.encode_items(catalogue.take(rows))
        unknown = vectors.new_zeros(1, vectors.shape[1])
        return Ragged(place + 1, history.offsets), torch.cat([unknown, vectors])

    def encode_items(self, features: Features) -> Tensor:
        """Return item vectors [B, D]."""
        vectors: Tensor = self.item(features)
        return vectors

    @property
    def reads_item_features(self) -> bool:
        """Whether the item tower can place an item nobody has touched yet."""
        return self.item.fields is not None


def _moments(
    time: Tensor | None, offsets: Tensor, place: Tensor | None, asked: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Return when each row is asked, and when the event before was, both [B], as far as known."""
    if time is None:
        kind = torch.int64 if asked is None else asked.dtype
        last = torch.full((rows,), unknown_time(kind), dtype=kind, device=offsets.device)
    else:
        last = last_times(time, offsets, place)
    return (last if asked is None else torch.where(is_known(asked), asked, last)), last


def _for_each_interest(parts: list[Tensor]) -> list[Tensor]:
    """Parts [B, *] beside one of [B, K, *] as [B, K, *] all; unchanged where there is none."""
    several = [part.shape[1] for part in parts if part.dim() == 3]
    if not several:
        return parts
    interests = max(several)
    return [
        part if part.dim() == 3 else part.unsqueeze(1).expand(-1, interests, -1) for part in parts
    ]


def _last(states: Tensor, history: Ragged) -> Tensor:
    """The state after the last event of each list [B, D]; zeros where there is none."""
    none = history.lengths == 0
    padded = torch.cat([states, states.new_zeros(1, states.shape[1])])
    return padded[(history.offsets[1:] - 1).masked_fill(none, len(states))]


def chosen(
    side: str,
    names: Sequence[str] | None,
    own: Mapping[str, Encoder],
    other: Mapping[str, Encoder],
) -> dict[str, Encoder]:
    """Return the features a tower reads, all of its side by default."""
    check_features(side, names or (), own, other)
    return {name: own[name] for name in (own if names is None else names)}


def read_of_events(
    shape: CommonModel, events: EventFeatures
) -> tuple[dict[str, EventEncoder], dict[str, EventEncoder]]:
    """Return the features of events that a query tower reads of the past, and of the request."""
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
    """Refuse features of events that a tower cannot read: unknown ones, and what is known too late.

    after: those of the declared ones that are known after the event.
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
                f"(features.events.{name}), and a request comes before it: leave it to "
                "model.history_features, which reads it of past events"
            )


def check_features(
    side: str, names: Iterable[str], own: Iterable[str], other: Iterable[str]
) -> None:
    """Refuse features that a tower cannot read: unknown ones, and those of the other side."""
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
