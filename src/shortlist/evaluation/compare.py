"""Which of several retrievers is better for the same users, and is the difference significant?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from shortlist.asking.capabilities import Answers
from shortlist.data.interactions import Cut
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.evaluate import SEED, checked_data, met_below_min_weight, user_figures
from shortlist.evaluation.ladder import SHOWN
from shortlist.evaluation.page import comparison_page
from shortlist.evaluation.report import Figures, repeated
from shortlist.evaluation.searching import Searched, searched
from shortlist.evaluation.significance import FEW, Interval, holm, p_text, paired_p, user_intervals
from shortlist.evaluation.verdict import too_few

NAMES = ("first", "second", "third", "fourth", "fifth")
"""Default names of retrievers; further ones are called by their number."""


class Difference(NamedTuple):
    """The first retriever minus another, paired by user.

    mean: mean difference over users.
    low, high: ends of its 95 % bootstrap interval, as in `significance.Interval`.
    p: p-value of the paired t-test; None for fewer than `significance.FEW` users.
    holm: p corrected for the number of comparisons (`significance.holm`); None likewise.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    holm: float | None

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)

    def to_dict(self) -> dict[str, float | None]:
        """Return one JSON-safe object; low and high are None without an interval."""
        return self.interval.to_dict() | {"p": self.p, "holm": self.holm}


@dataclass(frozen=True)
class Comparison:
    """Figures of several retrievers for the same users, and the differences to the first one.

    users: number of users.
    figures: {retriever: its figures}, the first retriever first.
    differences: {other retriever: {metric: first minus other}}.
    channels: {retriever: {channel: how it was trained and searched}}.
    met: number of events below min_weight before the cut; their items are left out, too.
    clocked: retrievers with model.request_time, asked at the time of the held-out event.
    items: number of items that a retriever ranks; the largest of all retrievers.
    """

    users: int
    figures: Mapping[str, Figures]
    differences: Mapping[str, Mapping[str, Difference]]
    channels: Mapping[str, Mapping[str, Searched]]
    met: int = 0
    clocked: tuple[str, ...] = ()
    items: int = 0

    @property
    def first(self) -> str:
        """Name of the retriever that the others are compared with."""
        return next(iter(self.figures))

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; each metric maps to mean, low and high.

        `difference` holds the first retriever minus each other, with p and its Holm correction.
        """
        return ({"clocked": list(self.clocked)} if self.clocked else {}) | {
            "users": self.users,
            "counts": {"met_below_min_weight": self.met},
            "first": self.first,
            "metrics": _plain(self.figures),
            "difference": _plain(self.differences),
            "channels": {
                name: {channel: how.to_dict() for channel, how in each.items()}
                for name, each in self.channels.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield what a reader must know: too few users for a verdict, or too few items for a k."""
        if self.users < FEW:
            yield f"{too_few(self.users)} which is better: {FEW} or more are needed."
        ks = dict.fromkeys(int(name.partition("@")[2]) for name in self.figures[self.first])
        if whole := [k for k in ks if k >= self.items > 0]:
            yield (
                f"Lists of {whole[0]:,} items hold all {self.items:,} items, so that recall@"
                f"{whole[0]} tells nothing."
            )

    def same_for_one(self) -> dict[str, str]:
        """Return {metric: equal metric}, as `Report.same_for_one` does."""
        return repeated(self.figures.values())

    def to_html(self, title: str = "") -> str:
        """Return the comparison as one HTML page; see `Report.to_html`."""
        return comparison_page(self, title or f"Is {self.first} better?")

    def table(self) -> Table:
        """Return a rich table: recall and ndcg of each retriever, and the differences."""
        others = len(self.differences)
        corrected = f", corrected by Holm for {others} comparisons" if others > 1 else ""
        table = Table(
            title=f"{self.users:,} users, full ranking",
            caption=" ".join(
                [
                    f"The difference is {self.first} minus the other, paired by user, with its "
                    f"95 % bootstrap interval; p is that of the paired t-test{corrected}.",
                    *(
                        [
                            f"The items of {self.met:,} events below min_weight are left out of "
                            "the lists, too."
                        ]
                        * bool(self.met)
                    ),
                    *(
                        f"{name} reads the time of a query: here that of the held-out event."
                        for name in self.clocked
                    ),
                    *(
                        f"{name}: {channel.line(part)}"
                        for name, each in self.channels.items()
                        for part, channel in each.items()
                    ),
                    *self.lines(),
                ]
            ),
        )
        table.add_column("metric", no_wrap=True)
        table.add_column("bundle")
        for head in ("mean", "difference", "p"):
            table.add_column(head, justify="right", no_wrap=True)
        for metric in next(iter(self.figures.values())):
            if metric.split("@")[0] not in SHOWN:
                continue
            table.add_section()
            for name, figures in self.figures.items():
                cells = ["", ""]
                if name in self.differences:
                    found = self.differences[name][metric]
                    interval = found.interval.between("+")
                    cells = [f"{found.mean:+.4f} {interval}".rstrip(), p_text(found.holm)]
                shown = metric if name == self.first else ""
                table.add_row(shown, name, f"{figures[metric].mean:.4f}", *cells)
        return table


def compare(
    first: Answers,
    *others: Answers,
    names: Sequence[str] = (),
    on: Cut = "test",
    k: Sequence[int] = (10, 20, 100),
    exclude_seen: bool = True,
) -> Comparison:
    """Measure retrievers on the held-out rows of one log, and compare the first with the others.

    With several others, p is corrected by Holm's method within each metric.

    Args:
        first: the fitted retriever that the others are compared with.
        others: fitted retrievers, at least one.
        names: names of all retrievers, in order; by default "first", "second" and so on.
        on: the held-out rows, "test" or "validation".
        k: depths of the lists.
        exclude_seen: leave items out that the user met before the cut.

    Raises:
        ModelError: if the logs or splits differ, or a retriever was fitted on the rows.
        QueryError: for an invalid argument.
    """
    retrievers = (first, *others)
    if not others:
        raise QueryError("a comparison needs two retrievers or more, got one")
    names = _names(names, len(retrievers))
    datas = [checked_data(each, on, exclude_seen) for each in retrievers]
    for name, data in zip(names, datas, strict=True):
        data.require_log(f"comparing {name!r}")
    for name, data in zip(names[1:], datas[1:], strict=True):
        if (why := rows_differ(datas[0], data)) is not None:
            raise ModelError(f"{names[0]!r} and {name!r} cannot be compared: {why}")
    figures = [user_figures(each, k=k, on=on, exclude_seen=exclude_seen) for each in retrievers]
    users = datas[0].targets(on)[0]
    return Comparison(
        users=len(users),
        figures={
            name: user_intervals(mine, SEED) for name, mine in zip(names, figures, strict=True)
        },
        differences=_differences(names, figures),
        channels={
            name: searched(each, users, max(k), on, exclude_seen=exclude_seen)
            for name, each in zip(names, retrievers, strict=True)
        },
        met=met_below_min_weight(datas[0], users, on) if exclude_seen else 0,
        items=max(len(each.candidate_rows()) for each in retrievers),
        clocked=tuple(n for n, each in zip(names, retrievers, strict=True) if each.reads_clock),
    )


def _differences(
    names: Sequence[str], figures: Sequence[Mapping[str, NDArray[np.float64]]]
) -> dict[str, dict[str, Difference]]:
    """Return {other: {metric: first minus other}}, with p corrected within each metric."""
    first, others = figures[0], dict(zip(names[1:], figures[1:], strict=True))
    few = len(next(iter(first.values()))) < FEW
    gained = {
        name: {metric: first[metric] - mine[metric] for metric in first}
        for name, mine in others.items()
    }
    chances = {
        name: {metric: paired_p(value) for metric, value in mine.items()}
        for name, mine in gained.items()
    }
    corrected = {
        metric: dict(zip(others, holm([chances[name][metric] for name in others]), strict=True))
        for metric in first
    }
    return {
        name: {
            metric: Difference(
                *interval,
                None if few else chances[name][metric],
                None if few else corrected[metric][name],
            )
            for metric, interval in user_intervals(mine, SEED).items()
        }
        for name, mine in gained.items()
    }


def rows_differ(a: TrainingData, b: TrainingData) -> str | None:
    """Say why the queries, held-out events or left-out items differ; None if they do not."""
    mine, other = a.log, b.log
    kinds = a.kind if a.kind == b.kind else f"{a.kind} and {b.kind}"
    split = f"their splits ({kinds}) hold out different events"
    for name, one, two in (("users", a.users, b.users), ("items", a.items, b.items)):
        if one.ids.equals(two.ids):
            continue
        if one.ids.sort().equals(two.ids.sort()):  # A split numbers the ids it trains on first.
            return split
        return f"their logs have different {name} ({len(one):,} and {len(two):,})"
    if len(mine) != len(other) or not np.array_equal(mine.item, other.item):
        return f"their logs have different events ({len(mine):,} and {len(other):,})"
    if not np.array_equal(mine.role, other.role):  # type: ignore[arg-type]
        return split
    if not np.array_equal(mine.target, other.target):  # type: ignore[arg-type]
        return "they predict different kinds of events"
    met, also_met = (np.zeros(0) if data.met is None else data.met.item for data in (a, b))
    if not (np.array_equal(mine.hides, other.hides) and np.array_equal(met, also_met)):  # type: ignore[arg-type]
        return "they leave out different items that a user had met"
    return None


def _names(names: Sequence[str], count: int) -> list[str]:
    """Return the names of `count` retrievers. Errors: QueryError."""
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise QueryError(f"names must be a list of texts, got {names!r:.60}")
    if names and (len(names) != count or len(set(names)) != count):
        raise QueryError(f"{count} retrievers need as many different names, got {list(names)}")
    numbered = (*NAMES, *(str(number + 1) for number in range(len(NAMES), count)))
    return list(names or numbered[:count])


def _plain(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {metric: figure.to_dict() for metric, figure in each.items()}
        for name, each in figures.items()
    }
