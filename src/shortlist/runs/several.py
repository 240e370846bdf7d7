"""How do the figures of several bundles of one recipe, one per seed or fold, combine?"""

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
"""Half-width of a 95 % interval, in standard errors."""

Of = Literal["seed", "fold"]
"""The difference between the bundles; their folders are named seed-NUMBER or fold-NUMBER."""


class Spread(NamedTuple):
    """A figure over several seeds or folds.

    mean: the mean over seeds or folds.
    deviation: the standard deviation of the figure between seeds or folds.
    low, high: a 95 % interval that covers other seeds (or times) and other users. Its variance is
    the sum of two: that of the mean over users, from the intervals of the reports, and that of the
    mean over seeds or folds.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Several:
    """Several bundles of one recipe, with their combined figures.

    of: "seed" or "fold".
    bundles: the folder of each bundle, by seed or fold number.
    reports: the report of each bundle as a dict, by the same number.
    users: number of users of each report.
    figures: the model's figures over all bundles.
    popularity: the figures of the most popular items over all bundles.
    differences: model minus popularity, paired by user, over all bundles.
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
        """Combine reports, given as `Report.to_dict` returns them."""
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
        """Return one JSON-safe object; its `reports` holds the report of each bundle."""
        return {
            f"{self.of}s": {str(number): str(path) for number, path in self.bundles.items()},
            "users": self.users[0] if self.of == "seed" else list(self.users),
            "metrics": _plain(self.figures),
            "baseline": {"popularity": _plain(self.popularity)},
            "difference": {"popularity": _plain(self.differences)},
            "reports": {str(number): dict(report) for number, report in self.reports.items()},
        }

    def table(self) -> Table:
        """Return the combined figures as a rich table."""
        users = f"{self.users[0]:,}" if self.of == "seed" else f"{sum(self.users):,} cases of"
        table = Table(
            title=f"{len(self.bundles)} {self.of}s, {users} users",
            caption=f"Mean over the {self.of}s ± half of a 95 % interval over {self.of}s and "
            f"users; deviation is the standard deviation between {self.of}s.",
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
        """Return the first figures of each seed or fold as a rich table."""
        table = Table(
            title=f"Each {self.of}",
            caption="Each column 'popular' has the figure of the most popular items.",
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
        """Return the metrics of the table, by k and then in the order of PER_USER.

        A metric that equals another one is left out.
        """
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
    """Train several recipes, each into its own folder below `out`.

    A bundle of the same recipe that exists already is used as it is, so that a stopped command can
    be repeated. All folders are checked before the first training.

    of: "seed" or "fold"; names the folders.
    wanted: the recipe of each seed or fold number.
    train: called with a number, its recipe and a path; writes the bundle there.
    overwrite: trains all again, and replaces bundles that exist.
    Errors: BundleError for a folder that holds the bundle of another recipe.
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
    """Find the bundles that `train_several` has written into a folder.

    Returns: "seed" or "fold" and the bundles by number; None for another folder.
    """
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
    """Combine the figures of several reports.

    reports: for each seed or fold, the mean, low and high of each figure by its name.
    same_users: whether all reports measure the same users, as with seeds. If not, the errors of
    the reports are treated as independent.
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
    """Return the report in a bundle. Errors: BundleError for a bundle without one."""
    if bundle.metrics is None:
        raise BundleError(
            f"{bundle.manifest.directory} was saved without the figures of its test rows"
        )
    return bundle.metrics


def _is_there(path: Path, recipe: Recipe) -> bool:
    """Tell whether a path holds the bundle of this recipe.

    Errors: BundleError for the bundle of another recipe.
    """
    if not path.exists():
        return False
    there = load(path)
    if there.recipe != settled(recipe, there.retriever).to_dict():
        raise BundleError(
            f"{path} is a bundle of another recipe: take another --out, or --overwrite"
        )
    return True
