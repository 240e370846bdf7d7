"""HOW TO VECTORS: towers turn features and histories into vectors that only meet at the score."""

from shortlist.towers.attention import Attention
from shortlist.towers.base import HistoryPooling, InterestTower, SequenceTower
from shortlist.towers.gru import GRU
from shortlist.towers.interests import RoutedInterests, SelfAttentiveInterests
from shortlist.towers.pooling import MeanPooling, RecencyPooling

TOWERS: dict[str, type[HistoryPooling] | type[SequenceTower] | type[InterestTower]] = {
    "mean": MeanPooling,
    "recency": RecencyPooling,
    "attention": Attention,
    "gru": GRU,
    "comirec": SelfAttentiveInterests,
    "mind": RoutedInterests,
}
"""What `model.history` may name, beside 'none'; each is built from the [model] section."""
