"""How do the figures of several bundles of one recipe, one per seed or fold, combine?"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from shortlist.blending.retrievers import parts
from shortlist.bundle.bundle import Bundle, load
from shortlist.channels.learned.base import Learner
from shortlist.config import Recipe
from shortlist.errors import BundleError, DataError
from shortlist.evaluation.combined import Of, Spread, combined, spreads
from shortlist.evaluation.compare import rows_differ
from shortlist.evaluation.ladder import SHOWN
from shortlist.evaluation.report import SAME, Cost, Report, in_order
from shortlist.evaluation.significance import FEW
from shortlist.runs.pipeline import settled
from shortlist.runs.tracking import flat
from shortlist.runs.whole import Run
from shortlist.sections.base import AUTO


@dataclass(frozen=True)
class Several:
    """Several bundles of one recipe, with their combined figures.

    of: "seed" or "fold".
    bundles: the folder of each bundle, by seed or fold number.
    reports: the report of each bundle, by the same number.
    figures: the model's figures over all bundles.
    popularity: the figures of the most popular items over all bundles.
    differences: model minus popularity, paired by user, over all bundles.
    whole: the combined report, with its methods without training, its slices and its summary.
    """

    of: Of
    bundles: Mapping[int, Path]
    reports: Mapping[int, Report]
    figures: Mapping[str, Spread]
    popularity: Mapping[str, Spread]
    differences: Mapping[str, Spread]
    whole: Report

    @classmethod
    def of_reports(
        cls, of: Of, bundles: Mapping[int, Path], reports: Mapping[int, Report]
    ) -> "Several":
        """Combine the reports of bundles."""
        told, same_users = list(reports.values()), of == "seed"
        figures, popularity, differences = (
            spreads(each, same_users=same_users)
            for each in (
                [report.metrics for report in told],
                [report.popularity for report in told],
                [report.differences for report in told],
            )
        )
        whole = combined(of, reports)
        return cls(of, bundles, reports, figures, popularity, differences, whole)

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; its `reports` holds the report of each bundle.

        `ladder`, `slices`, `in_short` and `costs` are those of all together. Each low and high is
        an end of an interval over seeds (or folds) and users.
        """
        users = [report.users for report in self.reports.values()]
        whole = self.whole.told()
        return {
            f"{self.of}s": {str(number): str(path) for number, path in self.bundles.items()},
            "users": users[0] if self.of == "seed" else users,
            "metrics": _plain(self.figures),
            "baseline": {"popularity": _plain(self.popularity)},
            "difference": {"popularity": _plain(self.differences)},
            "ladder": whole["ladder"],
            "slices": whole["slices"],
            "in_short": whole["in_short"],
            "costs": whole["costs"],
            "reports": {str(number): each.to_dict() for number, each in self.reports.items()},
        }

    def table(self) -> Table:
        """Return the combined figures as a rich table."""
        whole = f"{self.whole.users:,}"
        users = f"{whole} users" if self.of == "seed" else f"{whole} queries of users"
        table = Table(
            title=f"{len(self.bundles)} {self.of}s, {users}",
            caption=f"Mean over the {self.of}s ± half of a 95 % interval over {self.of}s and "
            f"users; deviation is the standard deviation between {self.of}s."
            + ("" if self.whole.fewest >= FEW else f" {SAME}")
            + "".join(
                f" Here {one} equals {two}." for one, two in self.whole.same_for_one().items()
            ),
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
                f"{side[name].mean:.4f}"
                for name in shown
                for side in (report.metrics, report.popularity)
            ]
            table.add_row(str(number), f"{report.users:,}", *cells)
        return table

    def _shown(self) -> list[str]:
        """Return the metrics of the table; one that equals another is left out."""
        same = self.whole.same_for_one()
        return [name for name in in_order(self.figures) if name.partition("@")[0] not in same]


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
    train: called with a number, its recipe and a path; writes the bundle there. The costs of the
    `Run` that it returns are in the combined report.
    overwrite: trains all again, and replaces bundles that exist.
    Errors: BundleError for a folder that holds the bundle of another recipe, and for seeds whose
    rows differ because the log has changed between two trainings.
    """
    places = {number: out / f"{of}-{number}" for number in wanted}
    missing = [
        number
        for number, recipe in wanted.items()
        if overwrite or not _is_there(places[number], recipe)
    ]
    costs: dict[int, Mapping[str, Cost]] = {}
    bundles, alike = {}, Alike(of)
    for number in sorted(places, key=missing.__contains__):  # a changed log shows at the first one
        if number in missing:
            made = train(number, wanted[number], places[number])
            if isinstance(made, Run):
                costs[number] = made.report.costs
        bundles[number] = load(places[number])
        alike.check(bundles[number])
    return Several.of_reports(
        of,
        {number: bundles[number].manifest.directory for number in places},
        {n: replace(_report(bundles[n]), costs=costs.get(n, {})) for n in places},
    )


class Alike:
    """Refuses bundles that differ in more than their seed or fold, so that a mean over them is one.

    of: "seed" or "fold".
    """

    def __init__(self, of: Of) -> None:
        self.of = of
        self._first: Bundle | None = None

    def check(self, bundle: Bundle) -> None:
        """Compare a bundle with the first one that was checked. Errors: BundleError."""
        if self._first is None:
            self._first = bundle
            return
        first, one, other = self._first, *(_asked(each) for each in (self._first, bundle))
        own = {"training.seed"} if self.of == "seed" else set()
        why = [
            f"{key} is {other.get(key, 'unset')} and {one.get(key, 'unset')}"
            for key in dict.fromkeys([*one, *other])
            if key not in own and one.get(key) != other.get(key)
        ]
        if not why and self.of == "seed":
            rows = rows_differ(first.retriever.data, bundle.retriever.data)
            why = [] if rows is None else [rows]
        if why:
            raise BundleError(
                f"{bundle.manifest.directory} and {first.manifest.directory} are not {self.of}s of "
                f"one training: {why[0]}. Evaluate each bundle by itself, or train all of them "
                "again (--overwrite)."
            )


def _asked(bundle: Bundle) -> dict[str, str]:
    """Return the recipe of a bundle by dotted key; "auto" where the fit chose the number."""
    said: dict[str, Any] = deepcopy(dict(bundle.recipe or {}))
    of_channels = [*said.get("channels", {}).values()]
    for number, part in enumerate(parts(bundle.retriever).values()):
        for key in part.auto if isinstance(part, Learner) else ():
            own = (
                [of_channels[number]] if of_channels else [said.get("model"), said.get("training")]
            )
            for table in own:
                if table and key in table:
                    table[key] = AUTO
    return flat(said)


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


def _plain(figures: Mapping[str, Spread]) -> dict[str, dict[str, float | None]]:
    return {name: spread.to_dict() for name, spread in figures.items()}


def _mean(spread: Spread, sign: str = "") -> str:
    return f"{spread.mean:{sign}.4f} {spread.interval.half}".rstrip()


def _report(bundle: Bundle) -> Report:
    """Return the report in a bundle. Errors: BundleError for a bundle without one."""
    if bundle.metrics is None:
        raise BundleError(
            f"{bundle.manifest.directory} was saved without the figures of its test rows"
        )
    try:
        return Report.of_dict(bundle.metrics)
    except DataError as error:
        raise BundleError(f"{bundle.manifest.directory}: {error}") from None


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
