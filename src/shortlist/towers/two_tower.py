"""The two-tower model: a query tower and an item tower that meet only at the score."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from shortlist.config import Model
from shortlist.data.features import ID, Encoder, Features, FeatureTable
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError, suggest
from shortlist.towers import TOWERS
from shortlist.towers.features import Fields, embedding, rows_read
from shortlist.towers.mlp import mlp
from shortlist.towers.noise import dropout


class QueryTower(nn.Module):
    """A user as one vector: id, features and history.

    Sum of what speaks the items' language directly (the weighted segments of a pooled history or
    the state of a sequence tower, and the id embedding) and of a perceptron over segments and
    features side by side.
    """

    def __init__(self, users: FeatureTable, items: FeatureTable, shape: Model) -> None:
        super().__init__()
        self.dim = shape.dim
        self.dropout = shape.dropout
        encoders = chosen("user", shape.user_features, users.encoders, items.encoders)
        self.fields = Fields(encoders, shape.dim) if encoders else None
        self.id = embedding(users.trained + 1, shape.dim) if shape.user_id else None
        self.history: nn.Module | None = None
        width = self.fields.width if self.fields else 0
        if shape.history != "none":
            if shape.history not in TOWERS:
                raise ModelError(
                    f"unknown history '{shape.history}'.{suggest(shape.history, [*TOWERS, 'none'])}"
                )
            tower = TOWERS[shape.history](shape)
            assert isinstance(tower, nn.Module)
            self.history = tower
            if not shape.shares_items:
                self.table = embedding(items.trained + 1, shape.dim)
            if not tower.causal:
                self.decay = nn.Parameter(2.0 ** (-0.5 * torch.arange(tower.segments)))
                width += tower.segments * shape.dim
        if width == 0 and self.id is None and self.history is None:
            raise ModelError(
                "the user tower has nothing to read: turn model.user_id on, give user features, "
                "or choose a model.history"
            )
        self.top = mlp(width, shape.user_layers, shape.dim, shape.dropout) if width else None

    @property
    def causal(self) -> bool:
        """Whether it can be asked at every event of a history, for the price of the last."""
        return self.history is not None and bool(self.history.causal)

    def forward(
        self,
        features: Features,
        history: Ragged,
        items: nn.Embedding | None = None,
        place: Tensor | None = None,
    ) -> Tensor:
        """Return user vectors [B, D].

        history: item rows, oldest first; items: the table of item embeddings, N + 1 rows, to read
        it with, where the towers share it. place: for a sequence tower, which events of the
        histories the vectors are asked after, [B], positions in history.values; without it after
        the last of each list, and a list without events adds nothing.
        """
        parts: list[Tensor] = []
        direct: list[Tensor] = []
        if self.history is not None and self.causal:
            read, table = rows_read(history, self.table if items is None else items)
            states = self.history(read, table)
            direct.append(
                _last(states, history) if place is None else states.index_select(0, place)
            )
        elif self.history is not None:
            read, table = rows_read(history, self.table if items is None else items)
            pooled = dropout(self.history(read, table), self.dropout, self.training)  # [B, K, D]
            direct.append(torch.einsum("bkd,k->bd", pooled, self.decay))
            parts.append(pooled.flatten(1))
        if self.fields is not None:
            parts.append(self.fields(features))
        if self.id is not None:
            direct.append(self.id(features[ID]))
        if self.top is not None:
            direct.append(self.top(torch.cat(parts, dim=1)))
        return torch.stack(direct).sum(dim=0)


class ItemTower(nn.Module):
    """An item as one vector: its id embedding plus a perceptron over its features."""

    def __init__(self, users: FeatureTable, items: FeatureTable, shape: Model) -> None:
        super().__init__()
        self.dim = shape.dim
        encoders = chosen("item", shape.item_features, items.encoders, users.encoders)
        self.fields = Fields(encoders, shape.dim) if encoders else None
        self.id = embedding(items.trained + 1, shape.dim) if shape.item_id else None
        if self.fields is None and self.id is None:
            raise ModelError(
                "the item tower has nothing to read: turn model.item_id on or give item features"
            )
        self.top = (
            mlp(self.fields.width, shape.item_layers, shape.dim, shape.dropout)
            if self.fields
            else None
        )

    def forward(self, features: Features) -> Tensor:
        """Return item vectors [B, D]."""
        parts: list[Tensor] = []
        if self.id is not None:
            parts.append(self.id(features[ID]))
        if self.fields is not None and self.top is not None:
            parts.append(self.top(self.fields(features)))
        return torch.stack(parts).sum(dim=0)


class TwoTowers(nn.Module):
    """Both towers. Matrix factorisation is the case of two ids: history 'none', no features."""

    def __init__(self, users: FeatureTable, items: FeatureTable, shape: Model) -> None:
        super().__init__()
        self.shape = shape
        self.query = QueryTower(users, items, shape)
        self.item = ItemTower(users, items, shape)

    def encode_queries(
        self, features: Features, history: Ragged, place: Tensor | None = None
    ) -> Tensor:
        """Return user vectors [B, D]; history: item rows, oldest first; place: as QueryTower."""
        shared = self.item.id if self.shape.shares_items else None
        vectors: Tensor = self.query(features, history, shared, place)
        return vectors

    def encode_items(self, features: Features) -> Tensor:
        """Return item vectors [B, D]."""
        vectors: Tensor = self.item(features)
        return vectors

    @property
    def reads_item_features(self) -> bool:
        """Whether the item tower can place an item nobody has touched yet."""
        return self.item.fields is not None


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
