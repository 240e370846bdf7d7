"""Several bundles of one recipe, by seed or by fold: what are their figures together?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.table import Table

from shortlist.bundle.bundle import Bundle, load
from shortlist.config import Recipe
from shortlist.errors import BundleError
from shortlist.evaluation.ladder import SHOWN
from shortlist.evaluation.report import SAME_FOR_ONE
from shortlist.metrics import PER_USER
from shortlist.runs.pipeline import settled

WIDTH = 1.96
"""Standard errors on each side of a 95 % interval."""

Of = Literal["seed", "fold"]
"""What the bundles differ by: each lies in a folder SEED-NUMBER or FOLD-NUMBER."""


class Spread(NamedTuple):
    """A figure over S seeds or folds.

    mean: over them. deviation: the standard deviation of the figure of one. low, high: a 95 %
    interval for other seeds (or times) and other users together: the variance of the mean over
    users, as each report's own interval tells it, plus that of the mean over seeds or folds.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Several:
    """Bundles of one recipe, and the figures over them.

    of: what they differ by. bundles: where each lies, by its number; reports: what each one's
    report says, by the same number. users: of each report. figures, popularity, differences: over
    all of them, the model's, those of the popular items and the paired difference.
    """

    of: Of
    bundles: Mapping[int, Path]
    reports: Mapping[int, Mapping[str, Any]]
    users: tuple[int, ...]
    figures: Mapping[str, Spread]
    popularity: Mapping[str, Spread]
    differences: Mapping[str, Spread]

    @classmethod
    def of_reports(
        cls, of: Of, bundles: Mapping[int, Path], reports: Mapping[int, Mapping[str, Any]]
    ) -> "Several":
        """Return what several reports say together, as their `to_dict` has them."""
        told = list(reports.values())
        same_users = of == "seed"
        figures, popularity, differences = (
            spreads(each, same_users=same_users)
            for each in (
                [report["metrics"] for report in told],
                [report["baseline"]["popularity"] for report in told],
                [report["difference"]["popularity"] for report in told],
            )
        )
        users = tuple(report["users"] for report in told)
        return cls(of, bundles, reports, users, figures, popularity, differences)

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; `reports` has each bundle's own."""
        return {
            f"{self.of}s": {str(number): str(path) for number, path in self.bundles.items()},
            "users": self.users[0] if self.of == "seed" else list(self.users),
            "metrics": _plain(self.figures),
            "baseline": {"popularity": _plain(self.popularity)},
            "difference": {"popularity": _plain(self.differences)},
            "reports": {str(number): dict(report) for number, report in self.reports.items()},
        }

    def table(self) -> Table:
        """Return a table for people."""
        users = f"{self.users[0]:,}" if self.of == "seed" else f"{sum(self.users):,} cases of"
        table = Table(
            title=f"{len(self.bundles)} {self.of}s, {users} users",
            caption=f"Mean over the {self.of}s ± half of a 95 % interval over {self.of}s and "
            f"users; the deviation is that of one {self.of}.",
        )
        table.add_column("metric", no_wrap=True)
        for name in ("mean", "deviation", "popular", "difference"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in self._shown():
            table.add_row(
                name,
                _mean(self.figures[name]),
                f"{self.figures[name].deviation:.4f}",
                f"{self.popularity[name].mean:.4f}",
                _mean(self.differences[name], "+"),
            )
        return table

    def each_table(self) -> Table:
        """Return a table for people: the first figures of each seed or fold."""
        table = Table(
            title=f"Each {self.of}",
            caption="Beside each figure that of the popular items.",
        )
        table.add_column(self.of, no_wrap=True)
        shown = [name for name in self._shown() if name.split("@")[0] in SHOWN][: len(SHOWN)]
        for head in ("users", *(head for name in shown for head in (name, "popular"))):
            table.add_column(head, justify="right", no_wrap=True)
        for number, report in self.reports.items():
            cells = [
                f"{side[name]['mean']:.4f}"
                for name in shown
                for side in (report["metrics"], report["baseline"]["popularity"])
            ]
            table.add_row(str(number), f"{report['users']:,}", *cells)
        return table

    def _shown(self) -> list[str]:
        """The metrics of the table, by k and then as PER_USER has them; none that repeats one."""
        known = list(PER_USER)

        def place(name: str) -> tuple[int, int, str]:
            metric, _, k = name.partition("@")
            return int(k), known.index(metric) if metric in known else len(known), metric

        return [
            name
            for name in sorted(self.figures, key=place)
            for metric, _, k in (name.partition("@"),)
            if self.figures[name] != self.figures.get(f"{SAME_FOR_ONE.get(metric, '')}@{k}")
        ]


def train_several(
    of: Of,
    out: Path,
    wanted: Mapping[int, Recipe],
    train: Callable[[int, Recipe, Path], object],
    *,
    overwrite: bool = False,
) -> Several:
    """Train what is wanted, each in its folder below `out`.

    train: makes the bundle of a number, and of its recipe, at a path. A bundle of the same recipe
    that is there already is taken as it is, so that a stopped command goes on; another one is
    refused (BundleError) unless `overwrite` is set. What is there is checked before anything is
    trained.
    """
    places = {number: out / f"{of}-{number}" for number in wanted}
    missing = [
        number
        for number, recipe in wanted.items()
        if overwrite or not _is_there(places[number], recipe)
    ]
    for number in missing:
        train(number, wanted[number], places[number])
    bundles = {number: load(place) for number, place in places.items()}
    return Several.of_reports(
        of,
        {number: bundle.manifest.directory for number, bundle in bundles.items()},
        {number: _metrics(bundle) for number, bundle in bundles.items()},
    )


def bundles_in(folder: Path) -> tuple[Of, dict[int, Path]] | None:
    """Return the bundles that a training of several left in a folder; None where it did not."""
    found: dict[Of, dict[int, Path]] = {"seed": {}, "fold": {}}
    for path in folder.iterdir() if folder.is_dir() else ():
        for of, places in found.items():
            number = path.name.removeprefix(f"{of}-")
            if number != path.name and number.isdecimal() and path.is_dir():
                places[int(number)] = path
    if (folder / "manifest.json").exists():
        return None
    of = max(found, key=lambda each: len(found[each]))
    return (of, dict(sorted(found[of].items()))) if len(found[of]) > 1 else None


def spreads(
    reports: Sequence[Mapping[str, Mapping[str, float]]], *, same_users: bool
) -> dict[str, Spread]:
    """Return each figure over seeds or folds, from the mean, low and high that each report gives.

    same_users: whether all reports are of the same cases, as those of seeds are; otherwise the
    errors of their users are taken as independent.
    """
    found = {}
    for name in reports[0]:
        figures = [report[name] for report in reports]
        count = len(figures)
        mean = math.fsum(figure["mean"] for figure in figures) / count
        variance = math.fsum((figure["mean"] - mean) ** 2 for figure in figures) / (count - 1)
        halves = [(figure["high"] - figure["low"]) / 2 / WIDTH for figure in figures]
        of_users = math.fsum(half**2 for half in halves) / count
        half = WIDTH * math.sqrt((of_users if same_users else of_users / count) + variance / count)
        found[name] = Spread(mean, math.sqrt(variance), mean - half, mean + half)
    return found


def _plain(figures: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    return {name: spread._asdict() for name, spread in figures.items()}


def _mean(spread: Spread, sign: str = "") -> str:
    return f"{spread.mean:{sign}.4f} ± {(spread.high - spread.low) / 2:.4f}"


def _metrics(bundle: Bundle) -> Mapping[str, Any]:
    """The report that a bundle keeps. Errors: BundleError where it keeps none."""
    if bundle.metrics is None:
        raise BundleError(f"{bundle.manifest.directory} was saved without figures")
    return bundle.metrics


def _is_there(path: Path, recipe: Recipe) -> bool:
    """Whether the bundle of this recipe is at a path. Errors: BundleError for another."""
    if not path.exists():
        return False
    there = load(path)
    if there.recipe != settled(recipe, there.retriever).to_dict():
        raise BundleError(
            f"{path} is a bundle of another recipe: take another --out, or --overwrite"
        )
    return True
