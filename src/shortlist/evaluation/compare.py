"""Which of two retrievers is better, on the same users, and is it more than luck?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from shortlist.asking.capabilities import Answers
from shortlist.data.interactions import Cut
from shortlist.errors import ModelError
from shortlist.evaluation.evaluate import SEED, checked_data, met_below_min_weight, user_figures
from shortlist.evaluation.report import Figures
from shortlist.evaluation.searching import Searched, searched
from shortlist.evaluation.significance import bootstrap_intervals


@dataclass(frozen=True)
class Comparison:
    """Figures of two retrievers on the same cases, and the first minus the second, by user.

    channels: how the channels of vectors of each of the two were trained and searched. met: events
    below min_weight before the cut, whose items are left out of the lists of their users, too.
    """

    users: int
    first: Figures
    second: Figures
    difference: Figures
    channels: tuple[Mapping[str, Searched], Mapping[str, Searched]] = ({}, {})
    met: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; each metric maps to mean, low and high."""
        plain = {
            name: {metric: figure._asdict() for metric, figure in figures.items()}
            for name, figures in (
                ("first", self.first),
                ("second", self.second),
                ("difference", self.difference),
            )
        }
        channels = [{n: c.to_dict() for n, c in each.items()} for each in self.channels]
        counts = {"met_below_min_weight": self.met}
        return {"users": self.users, "counts": counts, **plain, "channels": channels}

    def table(self) -> Table:
        """Return a table for people."""
        table = Table(
            "metric",
            "first",
            "second",
            "difference",
            title=f"{self.users:,} users, full ranking",
            caption=" ".join(
                [
                    "The difference is paired by user, with its 95 % bootstrap interval.",
                    *([f"Left out, too: {self.met:,} events below min_weight."] * bool(self.met)),
                    *(
                        f"The {side} retriever's {channel.line(name)}"
                        for side, each in zip(("first", "second"), self.channels, strict=True)
                        for name, channel in each.items()
                    ),
                ]
            ),
        )
        for name, figure in self.difference.items():
            table.add_row(
                name,
                f"{self.first[name].mean:.4f}",
                f"{self.second[name].mean:.4f}",
                f"{figure.mean:+.4f} [{figure.low:+.4f}, {figure.high:+.4f}]",
            )
        return table


def compare(
    first: Answers,
    second: Answers,
    *,
    on: Cut = "test",
    k: Sequence[int] = (10, 20, 100),
    exclude_seen: bool = True,
) -> Comparison:
    """Measure both on the held-out rows of one log, and the difference paired by user.

    Raises ModelError if their logs or splits are not the same, or either was fitted on the rows.
    """
    a, b = (checked_data(r, on, exclude_seen) for r in (first, second))
    same = a.log is b.log or (
        a.users.ids.equals(b.users.ids)
        and a.items.ids.equals(b.items.ids)
        and len(a.log) == len(b.log)
        and (a.log.item == b.log.item).all()
        and (a.log.role is b.log.role or (a.log.role == b.log.role).all())  # type: ignore[union-attr]
    )
    for mine, other in ((a.log.target, b.log.target), (a.log.hides, b.log.hides)):
        same = same and (mine is other or np.array_equal(mine, other))  # type: ignore[arg-type]
    met, also_met = (np.zeros(0) if data.met is None else data.met.item for data in (a, b))
    if not same or not np.array_equal(met, also_met):
        raise ModelError(
            "the two have other logs, splits or fits, or leave out other items: figures of other "
            "cases cannot be compared"
        )
    figures = [user_figures(r, k=k, on=on, exclude_seen=exclude_seen) for r in (first, second)]
    users = a.targets(on)[0]
    channels = [searched(r, users, max(k), on, exclude_seen=exclude_seen) for r in (first, second)]
    return Comparison(
        met=met_below_min_weight(a, users, on) if exclude_seen else 0,
        channels=(channels[0], channels[1]),
        users=len(next(iter(figures[0].values()))),
        first=bootstrap_intervals(figures[0], SEED),
        second=bootstrap_intervals(figures[1], SEED),
        difference=bootstrap_intervals(
            {name: value - figures[1][name] for name, value in figures[0].items()}, SEED
        ),
    )
