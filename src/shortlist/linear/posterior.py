"""How is the metric of an item computed from its events? Counts, decayed counts, smoothed rates."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.data.interactions import Interactions
from shortlist.data.training_data import TrainingData
from shortlist.durations import TimeUnit, in_units
from shortlist.errors import ModelError

Metric = Literal["count", "recent", "ctr", "conversion"]
"""count: training events. recent: training events, weighted by age. ctr: clicks per impression.
conversion: training events per impression."""

PRIOR_STRENGTH = 100.0
"""Default weight of the prior of a rate, in impressions."""


def posterior(
    data: TrainingData,
    metric: Metric,
    *,
    half_life: float | str | None = None,
    prior_strength: float = PRIOR_STRENGTH,
) -> NDArray[np.float64]:
    """Return the metric of each trained item row, [items.trained + 1]; row 0 has 0.

    Only events and impressions before the cut count.
    half_life: for "recent", see `in_units`.
    prior_strength: for "ctr" and "conversion".
    Errors: ModelError if the data lacks what the metric needs.
    """
    log, items = data.training_targets, data.items.trained
    events = data.item_counts[: items + 1]  # events after the fit may have later rows
    if metric == "recent":
        if half_life is None:
            raise ModelError("metric = 'recent' needs half_life, such as '7d'")
        return decayed_counts(log, items, half_life, data.time_unit)
    if metric == "count":
        return counted(log, items)
    if data.shows is None:
        raise ModelError(
            f"metric = '{metric}' divides by how often an item was shown: give the impressions "
            "and their column of clicks (data.impressions, data.click)"
        )
    shows, clicks = data.shows.shown[: items + 1], data.shows.clicked[: items + 1]
    if metric == "conversion":
        # Items that were never shown have no rate, so their events do not count.
        clicks = np.where(shows > 0, events, 0)
    return smoothed_rate(clicks, shows, prior_strength, metric)


def counted(log: Interactions, items: int) -> NDArray[np.float64]:
    """Return the sum of event weights of each item row, [items + 1]: 1 or the weight of the kind.

    >>> counted(Interactions(np.ones(3, int), np.array([1, 1, 2]), 2), 2)
    array([0., 2., 1.])
    """
    summed = np.bincount(log.item, weights=log.worth, minlength=items + 1)[: items + 1]
    counts: NDArray[np.float64] = summed.astype(np.float64)
    counts[0] = 0
    return counts


def decayed_counts(
    log: Interactions, items: int, half_life: float | str, unit: TimeUnit | None
) -> NDArray[np.float64]:
    """Return the sum of 2^(-age / half_life) over the events of each item row, [items + 1].

    The age of an event is the time between it and the newest event of the log.
    half_life: seconds, or text such as "7d".
    unit: the unit of log.time.
    Errors: ModelError for a log without times.

    >>> log = Interactions(np.ones(3, int), np.array([1, 1, 2]), 2, time=np.array([0, 20, 10]))
    >>> decayed_counts(log, 2, half_life=10, unit=None)
    array([0.  , 1.25, 0.5 ])
    """
    weights = weights_of_events(log, half_life, unit)
    counts = np.bincount(log.item, weights=weights, minlength=items + 1)[: items + 1]
    counts[0] = 0
    return counts.astype(np.float64)


def weights_of_events(
    log: Interactions,
    half_life: float | str | None,
    unit: TimeUnit | None,
    newest: float | None = None,
) -> NDArray[np.float64]:
    """Return the weight of each event by its kind and, with a half-life, its age, [n].

    newest: the time from which ages are measured, if `log` is only a part; None: its newest event.
    """
    weights = np.ones(len(log)) if half_life is None else decay(log, half_life, unit, newest)
    return weights if log.worth is None else weights * log.worth


def decay(
    log: Interactions, half_life: float | str, unit: TimeUnit | None, newest: float | None = None
) -> NDArray[np.float64]:
    """Return the weight of each event by its age, [n] in (0, 1]; see `decayed_counts`."""
    if log.time is None:
        raise ModelError("half_life needs data.time, from which the age of an event is computed")
    if not len(log):
        return np.zeros(0)
    with np.errstate(over="ignore", under="ignore"):
        newest = log.time.max() if newest is None else log.time.dtype.type(newest)
        age = (newest - log.time) / in_units(half_life, unit, "half_life")
        weights: NDArray[np.float64] = np.exp2(-age)
    return weights


def smoothed_rate(
    hits: NDArray[np.int64], tries: NDArray[np.int64], strength: float, name: str = "ctr"
) -> NDArray[np.float64]:
    """Return (hits + strength · global rate) / (tries + strength), [n]; row 0 has 0.

    That is the mean of a Beta posterior whose prior counts as `strength` tries at the global rate.
    Errors: ModelError without any try or any hit, as all rates would be equal.

    >>> smoothed_rate(np.array([0, 3, 1]), np.array([0, 10, 30]), 10)
    array([0.  , 0.2 , 0.05])
    """
    if tries.sum() == 0 or hits.sum() == 0:
        missing = "item was shown" if tries.sum() == 0 else "shown item was chosen"
        raise ModelError(f"metric = '{name}': no {missing} before the cut, so no rate is known")
    rates: NDArray[np.float64] = (hits + strength * (hits.sum() / tries.sum())) / (tries + strength)
    rates[0] = 0
    return rates
