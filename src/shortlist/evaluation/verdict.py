"""What does a report say in a few sentences? What is found, what is added, and for whom."""

from collections.abc import Iterator, Sequence
from statistics import stdev
from typing import TYPE_CHECKING

from shortlist.evaluation.significance import FEW, Interval

if TYPE_CHECKING:
    from shortlist.evaluation.ladder import Rung
    from shortlist.evaluation.report import Report
    from shortlist.evaluation.slices import Slice

NAMED = 8
"""Most groups that a sentence names; it counts the others."""

SHORT = "users_with_shorter_lists"
"""Count of a report on lists made elsewhere: users with fewer items than the largest k."""

NOTABLE = 0.05
"""Share of the held-out events from which the summary says what happened to them."""


def in_short(report: "Report") -> tuple[str, ...]:
    """Return what a reader needs first: the share found, the verdict, its limits, and for whom."""
    recalls = [name for name in report.metrics if name.startswith("recall@")]
    if not recalls or recalls[0] not in report.popularity:
        return ()
    telling = [name for name in recalls if _k(name) not in report.hold_everything] or recalls[:1]
    first, deepest = telling[0], telling[-1]
    lines = [_found(report, first, deepest), _verdict(report, first)]
    if deepest != first and not report.reaches_nothing and report.fewest >= FEW:
        more = _verdict(report, deepest, again=True)
        if more == _verdict(report, first, again=True):
            lines[-1] += f" The same holds among the first {_k(deepest)}."
        else:
            lines.append(f"Among the first {_k(deepest)}, {more[0].lower()}{more[1:]}")
    lines += _limits(report)
    if report.without_clock is not None:
        lines.append(
            "The model was given the time of the held-out event. Without that time it finds "
            f"{report.without_clock[first].mean:.1%}, which is the figure to compare with models "
            "that do not read the time."
        )
    if not report.reaches_nothing:
        lines += _by_slice(report, _k(first))
    return (*lines, *_of_several(report, first), *_cost(report, first))


def too_few(users: int) -> str:
    """Return the start of a sentence about users that are too few for a verdict."""
    return f"{'1 user is' if users == 1 else f'{users:,} users are'} too few to say"


def _k(recall: str) -> int:
    return int(recall.partition("@")[2])


def _among(k: int) -> str:
    return f"among the first {k}" if k > 1 else "at the top"


def _found(report: "Report", first: str, deepest: str) -> str:
    """Say what share the model finds, and what the most popular items find."""
    own, popular = report.metrics[first].mean, report.popularity[first].mean
    if report.counts.get("held_out_events") == report.users:
        said = (
            f"For {own:.1%} of the users the item that was held out is {_among(_k(first))} "
            f"of the model's list. A list of the most popular items has it for {popular:.1%}."
        )
    else:
        said = (
            f"On average {own:.1%} of a user's held-out items are {_among(_k(first))} of "
            f"the model's list for that user. A list of the most popular items has {popular:.1%} "
            "of them."
        )
    if deepest != first:
        own, popular = report.metrics[deepest].mean, report.popularity[deepest].mean
        said += f" Among the first {_k(deepest)} the shares are {own:.1%} and {popular:.1%}."
    return said


def _limits(report: "Report") -> list[str]:
    """Say which held-out events cannot be found, and which are found without a model."""
    events = report.counts.get("held_out_events", 0)
    if report.reaches_nothing:
        return []
    whole = report.hold_everything
    everything = [
        f"A list of {k:,} items holds all {report.candidate_items:,} items, so that figures at "
        f"{' and '.join(map(str, whole))} tell nothing."
        for k in whole[:1]
    ]
    said = {
        "held_out_items_not_candidates": "had an item that this model cannot recommend: "
        "it has no training events, and no features that the model reads",
        "held_out_items_already_seen": "had an item that the user had met before, which is left "
        "out of the lists: no model can find it",
        "held_out_items_met_before": "had an item that the user had met before and that stays in "
        "the lists: a list of the user's own last items would find many of them",
    }
    deepest = max(_k(name) for name in report.metrics if name.startswith("recall@"))
    short = [
        f"{count:,} of {report.users:,} users had a list of fewer than {deepest:,} items, so that "
        f"figures at {deepest:,} are of shorter lists."
        for count in (report.counts.get(SHORT, 0),)
        if count
    ]
    return [
        *short,
        *everything,
        *(
            f"{count:,} of the {events:,} held-out events {text}."
            for name, text in said.items()
            if (count := report.counts.get(name, 0)) >= NOTABLE * max(events, 1)
        ),
    ]


def _chance_alone(report: "Report") -> bool:
    """Tell whether no held-out item has training events, so that counting cannot find them."""
    groups = {part.name for part in report.slices if part.by == "items"}
    return groups == {"new"}


def _verdict(report: "Report", recall: str, *, again: bool = False) -> str:
    """Say which methods without training the model is better than.

    again: leave out what the verdict at another list length has said already.
    """
    if report.reaches_nothing:
        return (
            "It cannot recommend any of the held-out items: they have no training events, and it "
            "reads no item features that would give them vectors."
        )
    if report.fewest < FEW:
        where = " in each fold" if report.over == "fold" else ""
        return (
            f"{too_few(report.fewest)} whether it is better than methods without training: {FEW} "
            f"or more are needed{where}."
        )
    if _chance_alone(report):
        return _beside_chance(report, recall, again=again)
    rungs = [(rung.name, rung.difference[recall]) for rung in report.ladder]
    if not rungs:
        rungs = [("popular", report.differences[recall])]
    alike = all(more.ends is None for _, more in rungs if more.side() == 0)
    zero = "the difference is 0 for each user"
    if not alike:
        zero = "the 95 % interval of the difference contains 0"
    ahead = [name for name, more in rungs if more.side() < 0]
    level = [name for name, more in rungs if more.side() == 0]
    behind = [name for name, more in rungs if more.side() > 0]
    none = "" if report.ladder or again else " Other methods without training were not measured."
    better = f" It is better than {_listed(behind, 'and')}." if behind else ""
    if ahead:
        undecided = (
            f" It is not shown to be better or worse than {_listed(level)}." if level else ""
        )
        worse = f"It is worse than {_listed(ahead, 'and')}, {_untrained(ahead)}."
        return f"{worse}{better}{undecided}{none}"
    if level:
        return (
            f"It is not shown to be better than {_listed(level)}, {_untrained(level)}: "
            f"{zero}.{better}{none}"
        )
    name, least = min(rungs, key=lambda each: each[1].mean)
    if not report.ladder:
        return f"It is better than {name}, {_untrained([name])}, by {_points(least)}.{none}"
    return (
        "It is better than every method without training that was measured: the closest, "
        f"{name}, is behind by {_points(least)}."
    )


def _beside_chance(report: "Report", recall: str, *, again: bool) -> str:
    """Compare with lists drawn at random, which is what counting comes to for cold items."""
    chance, own = min(1.0, _k(recall) / max(report.candidate_items, 1)), report.metrics[recall]
    verdict = "It is not shown to be better or worse than"
    if own.side(chance) > 0:
        verdict = "It is better than"
    elif own.side(chance) < 0:
        verdict = "It is worse than"
    why = (
        " No held-out item has training events, so that methods without training, which count "
        "events, cannot find it."
    )
    return (
        f"{verdict} lists drawn at random, which would find about {chance:.1%}."
        f"{'' if again else why}"
    )


def _by_slice(report: "Report", k: int) -> list[str]:
    """Say for which users and items the model finds nothing, or adds nothing to popular items."""
    events = report.counts.get("held_out_events")
    parts = [
        part
        for part in report.slices
        if part.events != events and (part.enough or part.by in _OWN)  # the whole says nothing more
    ]
    lines = []
    missed = [part for part in parts if part.recall[k].mean == 0]
    if missed:
        lines.append(f"It finds none of the held-out items, {_among(k)}, for {_names(missed)}.")
    some = [part for part in parts if part.enough and part not in missed]
    better = [part for part in some if part.difference[k].side() > 0]
    weak = [part for part in some if part not in better]
    if _chance_alone(report):
        return lines
    if weak and report.differences[f"recall@{k}"].side() > 0:
        lines.append(f"It is not shown to be better than popular items for {_names(weak)}.")
    elif weak and better:
        lines.append(f"It is better than popular items only for {_names(better)}.")
    return lines


def _of_several(report: "Report", recall: str) -> Iterator[str]:
    """Say what the intervals cover, and how much of a figure is the luck of a seed or a time."""
    over, count = report.over, len(report.each)
    if not over:
        return
    others, decided = "other seeds" if over == "seed" else "other times", report.fewest >= FEW
    covers = f", and its 95 % interval covers {others} and other users of this kind"
    yield f"Each figure is the mean over {count} {over}s{covers if decided else ''}."
    shares = [each.metrics[recall].mean for each in report.each.values()]
    deviation = stdev(shares)
    said = (
        f"From {over} to {over} the share {_among(_k(recall))} varies between {min(shares):.1%} "
        f"and {max(shares):.1%} (standard deviation {deviation * 100:.1f} percentage points)"
    )
    if over == "seed":
        luck = LUCK * deviation
        said += (
            f": two single trainings less than {luck * 100:.1f} points apart may differ by the "
            "luck of their seeds alone"
        )
    yield f"{said}."
    best = _best(report, recall)
    if best is None or not decided or report.reaches_nothing or _chance_alone(report):
        return
    rungs = [{rung.name: rung for rung in each.ladder} for each in report.each.values()]
    more = sum(rung[best.name].difference[recall].mean > 0 for rung in rungs)
    times = {count: "each", 0: "none"}.get(more, f"{more}") + f" of the {count}"
    how = "With" if over == "seed" else "In"
    yield (
        f"{how} {times} {over}s the model finds a larger share than {best.name}, the best of the "
        "methods without training."
    )


LUCK = 1.96 * 2**0.5
"""Two trainings that differ by their seeds alone differ by fewer standard deviations in 95 %."""


def _best(report: "Report", recall: str) -> "Rung | None":
    """Return the method without training that finds most; None if none finds anything."""
    finding = [rung for rung in report.ladder if rung.metrics[recall].mean > 0]
    return max(finding, key=lambda rung: rung.metrics[recall].mean, default=None)


def _cost(report: "Report", recall: str) -> Iterator[str]:
    """Say what the model costs, and the best method without training beside it."""
    own = report.costs.get("this model")
    if own is None:
        return
    fit = f"the fit of a {report.over} took" if report.over else "the fit took"
    fitted = "" if own.fit is None else f"{fit} {_seconds(own.fit)}, and "
    said = f"On this machine {fitted}a query takes {own.query:,.0f} CPU µs"
    best = None if report.reaches_nothing or _chance_alone(report) else _best(report, recall)
    beside = None if best is None else report.costs.get(best.name)
    if best is None or beside is None or beside.fit is None:
        yield f"{said}."
        return
    yield (
        f"{said}. The fit of {best.name}, the best of the methods without training, took "
        f"{_seconds(beside.fit)}, and a query takes {beside.query:,.0f} CPU µs."
    )


def _seconds(cpu: float) -> str:
    if cpu < 0.01:
        return "less than 0.01 CPU seconds"
    return f"{cpu:,.0f} CPU seconds" if cpu >= 10 else f"{cpu:.2f} CPU seconds"


def _names(parts: Sequence["Slice"]) -> str:
    named = [_named(part) for part in parts[:NAMED]]
    more = len(parts) - len(named)
    return "; ".join([*named, *([f"{more} more group{'' if more == 1 else 's'}"] if more else [])])


def _named(part: "Slice") -> str:
    """Return words for the users or items of a slice, and the number of its held-out events."""
    who = _OWN_NAMES.get((part.by, part.name)) or _who(part)
    return f"{who} ({part.events:,} held-out event{'' if part.events == 1 else 's'})"


def _who(part: "Slice") -> str:
    if part.by == "history":
        return f"users with {part.name} known events"
    return f"{part.by} = {part.name}"


_OWN = ("history", "users", "items")
"""Groups that every report has; their names follow."""

_OWN_NAMES = {
    ("history", "none"): "users without a known event",
    ("users", "trained"): "users with training events",
    ("users", "new"): "users without training events",
    ("items", "head"): "the most popular items (the head)",
    ("items", "torso"): "items of middling popularity (the torso)",
    ("items", "tail"): "the least popular items (the tail)",
    ("items", "new"): "new items",
}


def _points(more: Interval) -> str:
    interval = "" if more.ends is None else " (95 % interval {:.1%} to {:.1%})".format(*more.ends)
    return f"{more.mean:.1%} of the held-out items{interval}"


def _untrained(names: Sequence[str]) -> str:
    return "which needs no training" if len(names) == 1 else "which need no training"


def _listed(names: Sequence[str], last: str = "or") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
