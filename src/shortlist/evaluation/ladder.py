"""How good are methods without training on the same rows? They are the ladder of a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from shortlist.channels.counting.base import Counting
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.transitions import Transitions
from shortlist.data.training_data import TrainingData
from shortlist.durations import STEPS
from shortlist.evaluation.significance import Interval

RECENT = 20
"""The half-life of recent popularity is the time span of the training events divided by this."""

SHOWN = ("recall", "ndcg")
"""The metrics that each method of the ladder has."""


Method: TypeAlias = Popular | Counting[Any]
"""A method without training."""


@dataclass(frozen=True)
class Rung:
    """One method without training, measured on the same users as the model.

    name: name of the method.
    metrics: recall@k and ndcg@k with their intervals.
    difference: the model minus the method, paired by user.
    """

    name: str
    metrics: Mapping[str, Interval]
    difference: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            "name": self.name,
            "metrics": {name: figure.to_dict() for name, figure in self.metrics.items()},
            "difference": {name: figure.to_dict() for name, figure in self.difference.items()},
        }

    @classmethod
    def of_dict(cls, told: Mapping[str, Any], users: int) -> "Rung":
        """Return the method that `to_dict` wrote, measured on this number of users."""
        metrics, difference = (
            {
                name: Interval.of_dict(told[key][name], users)
                for name in sorted(told[key], key=_by_k)
            }
            for key in ("metrics", "difference")
        )
        return cls(str(told["name"]), metrics, difference)


def _by_k(name: str) -> tuple[int, int]:
    metric, _, k = name.partition("@")
    return int(k), SHOWN.index(metric)


def rungs(data: TrainingData) -> dict[str, Method]:
    """Return the unfitted methods that a log allows, by name.

    "popular of late" (recent popularity) needs times, "transitions" needs an order of events, and
    "item-cf" needs neither. Plain popularity is in every report and is not among them.
    """
    made: dict[str, Method] = {}
    if (half_life := _half_life(data)) is not None:
        made["popular of late"] = Popular(half_life=half_life)
    if data.ordered:
        made["transitions"] = Transitions()
    made["item-cf"] = ItemCF()
    return made


def _half_life(data: TrainingData) -> float | None:
    """Return the time span of the training events / RECENT for `Popular`; None without times."""
    time = data.training_log.time
    if time is None or not len(time) or data.time_unit == "line":
        return None
    steps = float(time.max() - time.min()) / RECENT
    unit = data.time_unit
    return (steps / STEPS[unit] if unit in STEPS else steps) or None
