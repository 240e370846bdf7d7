"""How do the reports of several trainings of one recipe combine into one?"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from shortlist.evaluation.ladder import Rung
from shortlist.evaluation.report import Cost, Figures, Report
from shortlist.evaluation.significance import Interval
from shortlist.evaluation.slices import ORDER, Slice
from shortlist.linear.from_scipy import stdtrit

Key = TypeVar("Key")
Part = TypeVar("Part")

Of = Literal["seed", "fold"]
"""The difference between the trainings."""

WIDTH = 1.96
"""Half-width of a 95 % interval, in standard errors that are known well."""


class Spread(NamedTuple):
    """A figure over several seeds or folds.

    mean: the mean over seeds or folds.
    deviation: the standard deviation of the figure between seeds or folds.
    low, high: a 95 % interval that covers other seeds (or times) and other users; None if one of
    the reports has no interval. Its variance is the sum of two: that of the mean over users, from
    the intervals of the reports, and that of the mean over seeds or folds. Its width is a quantile
    of Student's t, with the degrees of freedom of such a sum (Satterthwaite 1946), because a few
    seeds say little of their variance.
    """

    mean: float
    deviation: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)

    def to_dict(self) -> dict[str, float | None]:
        """Return one JSON-safe object; low and high are None without an interval."""
        return {"mean": self.mean, "deviation": self.deviation} | self.interval.to_dict()


def spread(figures: Sequence[Interval], *, same_users: bool) -> Spread:
    """Combine a figure of several reports.

    figures: the figure of each seed or fold.
    same_users: whether all reports measure the same users, as with seeds. If not, the errors of
    the reports are treated as independent.
    """
    count = len(figures)
    mean = math.fsum(figure.mean for figure in figures) / count
    squares = math.fsum((figure.mean - mean) ** 2 for figure in figures)
    variance = squares / (count - 1) if count > 1 else 0.0
    ends = [(f.low, f.high) for f in figures if f.low is not None and f.high is not None]
    if len(ends) < count or count < 2:
        return Spread(mean, math.sqrt(variance), None, None)
    of_users = math.fsum(((high - low) / 2 / WIDTH) ** 2 for low, high in ends) / count
    of_users = of_users if same_users else of_users / count
    whole = of_users + variance / count
    freedom = (count - 1) * (whole / (variance / count)) ** 2 if variance > 0 else math.inf
    half = width_of(freedom) * math.sqrt(whole)
    return Spread(mean, math.sqrt(variance), mean - half, mean + half)


def spreads(reports: Sequence[Figures], *, same_users: bool) -> dict[str, Spread]:
    """Return `spread` of each figure that all reports have, by its name."""
    names = [name for name in reports[0] if all(name in report for report in reports)]
    return {
        name: spread([report[name] for report in reports], same_users=same_users) for name in names
    }


def width_of(freedom: float) -> float:
    """Return half the width of a 95 % interval of Student's t, in standard errors.

    >>> round(width_of(2), 3), round(width_of(30), 3), width_of(1e9)
    (4.303, 2.042, 1.96)
    """
    return WIDTH if freedom > 10_000 else stdtrit(freedom, 0.975)


def combined(of: Of, reports: Mapping[int, Report]) -> Report:
    """Return one report whose figures are means over seeds or folds, with their intervals.

    A slice over folds has the mean over the folds that have it, and the sums of their users and
    events. Costs are means over the reports that have them.

    reports: the report of each seed or fold, at least two, by its number.
    """
    each = list(reports.values())
    first, same = each[0], of == "seed"

    def together(figures: Iterable[Figures]) -> dict[str, Interval]:
        found = spreads(list(figures), same_users=same)
        return {name: figure.interval for name, figure in found.items()}

    clocks = [r.without_clock for r in each if r.without_clock is not None]
    gains = [r.gained_by_clock for r in each if r.gained_by_clock is not None]
    exact = [r.exact for r in each if r.exact is not None]
    return Report(
        cut=first.cut,
        split=first.split if same else "rolling",
        fit=first.fit,
        exclude_seen=first.exclude_seen,
        users=first.users if same else sum(report.users for report in each),
        candidate_items=round(sum(report.candidate_items for report in each) / len(each)),
        counts=_counts([report.counts for report in each], same),
        metrics=together(report.metrics for report in each),
        catalogue=_means([report.catalogue for report in each]),
        popularity=together(report.popularity for report in each),
        popularity_catalogue=_means([report.popularity_catalogue for report in each]),
        differences=together(report.differences for report in each),
        notes=tuple(dict.fromkeys(note for report in each for note in report.notes)),
        channels=each[-1].channels,
        exact=together(exact) if len(exact) == len(each) else None,
        without_clock=together(clocks) if len(clocks) == len(each) else None,
        gained_by_clock=together(gains) if len(gains) == len(each) else None,
        ladder=tuple(
            Rung(name, together(r.metrics for r in rungs), together(r.difference for r in rungs))
            for name, rungs in _by_name({r.name: r for r in report.ladder} for report in each)
            if len(rungs) == len(each)
        ),
        slices=_slices([report.slices for report in each], same),
        diversity_by=first.diversity_by,
        targets=first.targets,
        staying=first.staying,
        costs=_costs([report.costs for report in each if report.costs]),
        over=of,
        each=dict(reports),
    )


def _slices(slices: Sequence[Sequence[Slice]], same: bool) -> tuple[Slice, ...]:
    """Combine slices of one name, and keep those of one group together, in the usual order."""
    found = [
        _slice(parts, same)
        for _, parts in _by_name({(part.by, part.name): part for part in each} for each in slices)
    ]
    groups = list(dict.fromkeys(part.by for part in found))
    names = {name: place for place, name in enumerate(ORDER)}
    found.sort(key=lambda part: (groups.index(part.by), names.get(part.name, len(names))))
    return tuple(found)


def _slice(parts: Sequence[Slice], same: bool) -> Slice:
    first = parts[0]
    recall, popularity, difference = (
        {k: spread([f[k] for f in figures], same_users=same).interval for k in figures[0]}
        for figures in (
            [part.recall for part in parts],
            [part.popularity for part in parts],
            [part.difference for part in parts],
        )
    )
    share = len(parts) if same else 1
    return Slice(
        first.by,
        first.name,
        first.users if same else sum(part.users for part in parts),
        first.events if same else sum(part.events for part in parts),
        {k: sum(part.found[k] for part in parts) / share for k in first.found},
        recall,
        popularity,
        difference,
    )


def _by_name(reports: Iterable[Mapping[Key, Part]]) -> Iterable[tuple[Key, list[Part]]]:
    """Return each name with its parts, in the order of their first appearance."""
    found: dict[Key, list[Part]] = {}
    for parts in reports:
        for name, part in parts.items():
            found.setdefault(name, []).append(part)
    return found.items()


def _counts(counts: Sequence[Mapping[str, int]], same: bool) -> dict[str, int]:
    """Return the sum of counts over folds, or their mean over seeds."""
    share = len(counts) if same else 1
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: round(sum(each.get(name, 0) for each in counts) / share) for name in names}


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure that all reports have; those of older versions lack some."""
    names = [name for name in figures[0] if all(name in each for each in figures)]
    return {name: math.fsum(each[name] for each in figures) / len(figures) for name in names}


def _costs(measured: Sequence[Mapping[str, Cost]]) -> dict[str, Cost]:
    """Return mean costs; the fit of a method has one only if it was measured somewhere."""
    found = {}
    for name, costs in _by_name(measured):
        fits = [cost.fit for cost in costs if cost.fit is not None]
        fit = sum(fits) / len(fits) if fits else None
        found[name] = Cost(fit, sum(cost.query for cost in costs) / len(costs))
    return found
