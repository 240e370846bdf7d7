"""HOW TO VECTORS: towers turn features and histories into vectors that only meet at the score."""

from collections.abc import Callable

from shortlist.towers.base import HistoryPooling
from shortlist.towers.pooling import MeanPooling, RecencyPooling

TOWERS: dict[str, Callable[..., HistoryPooling]] = {
    "mean": MeanPooling,
    "recency": RecencyPooling,
}
"""What `model.history` may name, beside 'none'; each is built as (length, dropout)."""
