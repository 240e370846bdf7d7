"""HOW TO VECTORS: towers turn features and histories into vectors that only meet at the score."""

from shortlist.towers.attention import Attention
from shortlist.towers.base import HistoryPooling, SequenceTower
from shortlist.towers.pooling import MeanPooling, RecencyPooling

TOWERS: dict[str, type[HistoryPooling] | type[SequenceTower]] = {
    "mean": MeanPooling,
    "recency": RecencyPooling,
    "attention": Attention,
}
"""What `model.history` may name, beside 'none'; each is built from the [model] section."""
