"""TOWERS: turn features and histories into vectors, which meet only in the score."""

import inspect
from typing import Any

from shortlist.errors import ModelError, suggest_part
from shortlist.sections.model import CommonModel
from shortlist.towers.attention import Attention
from shortlist.towers.base import HistoryPooling, InterestTower, SequenceTower
from shortlist.towers.gru import GRU
from shortlist.towers.hstu import HSTU
from shortlist.towers.interests import RoutedInterests, SelfAttentiveInterests
from shortlist.towers.pooling import MeanPooling, RecencyPooling

TOWERS: dict[str, type[HistoryPooling] | type[SequenceTower] | type[InterestTower]] = {
    "mean": MeanPooling,
    "recency": RecencyPooling,
    "attention": Attention,
    "gru": GRU,
    "hstu": HSTU,
    "comirec": SelfAttentiveInterests,
    "mind": RoutedInterests,
}
"""The towers of histories by their name in `model.history`, which may also be 'none'."""


def build_history(shape: CommonModel) -> HistoryPooling | SequenceTower | InterestTower:
    """Build the tower that shape.history names, with the options that it declares.

    shape: the [model] section. Errors: ModelError for an unknown name.
    """
    if shape.history not in TOWERS:
        known = [*TOWERS, "none"]
        raise ModelError(f"unknown history '{shape.history}'.{suggest_part(shape.history, known)}")
    kind: Any = TOWERS[shape.history]
    own = {name: getattr(shape, name) for name in list(inspect.signature(kind).parameters)[1:]}
    tower: HistoryPooling | SequenceTower | InterestTower = kind(shape, **own)
    return tower
