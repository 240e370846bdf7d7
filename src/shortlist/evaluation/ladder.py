"""What does a trivial method get here? The rungs below a model, fitted on the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from shortlist.channels.counting.base import Counting
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.transitions import Transitions
from shortlist.data.dataset import TrainingData
from shortlist.durations import STEPS
from shortlist.evaluation.significance import Interval

RECENT = 20
"""The half-life of recent popularity: the span of the training events over this."""

SHOWN = ("recall", "ndcg")
"""The metrics of a rung."""


Method: TypeAlias = Popular | Counting[Any]
"""A method without training."""


@dataclass(frozen=True)
class Rung:
    """A method without training beside the model, on the same users.

    name: which one. metrics: recall@k and ndcg@k, with their intervals. difference: the model minus
    this, paired by user.
    """

    name: str
    metrics: Mapping[str, Interval]
    difference: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            "name": self.name,
            "metrics": {name: figure._asdict() for name, figure in self.metrics.items()},
            "difference": {name: figure._asdict() for name, figure in self.difference.items()},
        }


def rungs(data: TrainingData) -> dict[str, Method]:
    """Return the methods that a log allows, by name, to be fitted on its training rows.

    The items popular of late need times with a unit, the items that follow the last ones met need
    an order, and co-counts of item-cf need neither. The popular items themselves are measured in
    every report.
    """
    made: dict[str, Method] = {}
    if (half_life := _half_life(data)) is not None:
        made["popular of late"] = Popular(half_life=half_life)
    if data.ordered:
        made["transitions"] = Transitions()
    made["item-cf"] = ItemCF()
    return made


def _half_life(data: TrainingData) -> float | None:
    """A twentieth of the span of the training events, as `Popular` takes it; None without times."""
    time = data.training_log.time
    if time is None or not len(time) or data.time_unit == "line":
        return None
    steps = float(time.max() - time.min()) / RECENT
    unit = data.time_unit
    return (steps / STEPS[unit] if unit in STEPS else steps) or None
