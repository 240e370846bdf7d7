"""What is the result of an evaluation? Figures with intervals, as JSON, tables and HTML."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import polars as pl
from rich.table import Table

from shortlist.errors import DataError, QueryError
from shortlist.evaluation.ladder import SHOWN, Rung
from shortlist.evaluation.page import LISTS, report_page
from shortlist.evaluation.plots import new_figure
from shortlist.evaluation.searching import Searched
from shortlist.evaluation.significance import FEW, Interval
from shortlist.evaluation.slices import Slice
from shortlist.evaluation.verdict import in_short
from shortlist.metrics import PER_USER
from shortlist.showing import Facts, Showing, html_table

Figures = Mapping[str, Interval]

SAME_FOR_ONE = {"hit_rate": "recall", "map": "mrr"}
"""Metrics that are equal if each user has one held-out item: the table leaves out the first."""

SHOWN_SLICES = ("history", "items")
"""The slices of the short table; `to_dict` has all of them."""

SHOWN_OF_CATALOGUE = ("coverage", "gini", "popularity_percentile", "novelty", "diversity")
"""The figures of all lists together that the table shows, at the first k; `to_dict` has all."""

SAME = (
    f"A figure of fewer than {FEW} users, or one that is the same for all users, has no interval."
)
"""Stands below tables with such a figure."""

MODEL = "this model"
"""Name of the model beside the methods that it is compared with."""


class Cost(NamedTuple):
    """Cost of a method on this machine, in CPU time over all threads.

    fit: seconds of the fit; None if the fit was not measured.
    query: microseconds per query, when queries are asked in blocks.
    """

    fit: float | None
    query: float

    @classmethod
    def of(cls, seconds: float, queries: int, fit: float | None = None) -> "Cost":
        """Return the cost of `queries` queries that took `seconds` in total."""
        return cls(fit, seconds / max(queries, 1) * 1e6)


@dataclass(frozen=True, repr=False)
class Report(Showing):
    """Metrics of a retriever on the held-out rows of a cut, with popularity as the baseline.

    Figures map a name such as "recall@10" to the mean over users with its 95 % interval.

    Attributes:
        cut: the held-out rows that were measured, "validation" or "test".
        split: the kind of the split, such as "leave-last-out".
        fit: the rows that the retriever was fitted on.
        exclude_seen: True if items that users had met were left out of the lists.
        users: number of users with held-out events, each asked once.
        candidate_items: number of items that were ranked for each user.
        counts: events and users that limit the figures, such as held-out items that cannot be
            recommended; `lines` says them in words.
        metrics: figures of the retriever.
        catalogue: figures of all its lists together, such as coverage@10.
        popularity: figures of the most popular items for the same users.
        popularity_catalogue: as `catalogue`, for the most popular items.
        differences: retriever minus popularity, paired by user.
        notes: remarks of the split and the data.
        channels: how each channel of vectors was trained and searched.
        exact: `metrics` through exact indexes; None if all indexes are exact.
        without_clock: for a model with model.request_time, `metrics` when each query is asked at
            the time of the user's last known event; None for other models.
        gained_by_clock: `metrics` minus `without_clock`, paired by user.
        ladder: methods without training on the same rows; empty if they were not measured.
        slices: recall by groups of users and of items.
        diversity_by: the features, or the users, that diversity is computed from.
        targets: the kinds of events that are predicted; empty for a log without kinds.
        staying: the kinds of events whose items stay in the lists (seen = false).
        made_elsewhere: True for lists that another system made, whose cost is not known.
        costs: costs of the retriever and of each method, by name. They differ between runs, so
            that `to_dict`, a bundle and the equality of reports leave them out.
        over: "seed" or "fold" for a report of several trainings, whose figures are means over
            them (`evaluation.combined`); "" for the report of one training.
        each: the reports of these trainings, by the number of the seed or fold.
    """

    cut: str
    split: str
    fit: str
    exclude_seen: bool
    users: int
    candidate_items: int
    counts: Mapping[str, int]
    metrics: Figures
    catalogue: Mapping[str, float]
    popularity: Figures
    popularity_catalogue: Mapping[str, float]
    differences: Figures
    notes: tuple[str, ...] = ()
    channels: Mapping[str, Searched] = field(default_factory=dict)
    exact: Figures | None = None
    without_clock: Figures | None = None
    gained_by_clock: Figures | None = None
    ladder: tuple[Rung, ...] = ()
    slices: tuple[Slice, ...] = ()
    diversity_by: str = ""
    targets: tuple[str, ...] = ()
    staying: tuple[str, ...] = ()
    made_elsewhere: bool = False
    costs: Mapping[str, Cost] = field(default_factory=dict, compare=False)
    over: str = ""
    each: Mapping[int, "Report"] = field(default_factory=dict)

    def facts(self) -> Facts:
        """Return the split, the number of users, and recall and ndcg at the smallest k."""
        first = {name.partition("@")[0]: name for name in reversed([*self.metrics])}
        shown = [first[name] for name in ("recall", "ndcg") if name in first]
        return {"split": f"{self.split} {self.cut}", "users": self.users} | {
            name: self.metrics[name].mean for name in shown
        }

    def _repr_html_(self) -> str:
        """Show model, popularity and difference, one row per metric."""
        head = ("metric", "model", "95 % interval", "popular", "difference", "95 % interval")
        rows = [
            (name, own.mean, own.between(), self.popularity[name].mean, more.mean, more.between())
            for name, own in self.metrics.items()
            if name.partition("@")[0] not in self.same_for_one()
            for more in (self.differences[name],)
        ]
        return html_table(repr(self), head, rows)

    def to_frame(self) -> pl.DataFrame:
        """Return one row per method and metric: method, metric, k, mean, low, high.

        The methods are the model, popularity and those of the ladder. low and high are the ends of
        the 95 % interval over users, and null for a figure without an interval (`Interval.ends`).
        """
        methods = {MODEL: self.metrics, "popular": self.popularity}
        methods |= {rung.name: rung.metrics for rung in self.ladder if rung.name not in methods}
        rows = [
            (method, *_metric_and_k(name), *figure.to_dict().values())
            for method, figures in methods.items()
            for name, figure in figures.items()
        ]
        schema = {"method": pl.String, "metric": pl.String, "k": pl.Int64}
        return pl.DataFrame(
            rows, schema | dict.fromkeys(Interval._fields, pl.Float64), orient="row"
        )

    def plot(self, metric: str = "") -> Any:
        """Return a matplotlib figure that compares the model with the other methods on one metric.

        Args:
            metric: a name such as "recall@10". Default: recall at the smallest k.

        Raises:
            QueryError: for a metric that was not measured.
            ModelError: without the extra "plot".
        """
        frame = self.to_frame().with_columns(name=pl.format("{}@{}", "metric", "k"))
        if metric == "":
            metric = next((name for name in self.metrics if name.startswith("recall@")), "")
        of_it = frame.filter(
            pl.Series([name == metric for name in frame["name"]], dtype=pl.Boolean)
        )
        of_it = of_it.sort("mean")
        if not len(of_it):
            known = ", ".join(self.metrics)
            raise QueryError(f"there is no figure {metric!r:.60} in this report. Known: {known}")
        figure = new_figure(figsize=(6, 0.8 + 0.35 * len(of_it)))
        axes = figure.add_subplot()
        mean = of_it["mean"].to_numpy()
        low, high = (of_it[end].fill_null(of_it["mean"]).to_numpy() for end in ("low", "high"))
        around = [mean - low, high - mean]
        colours = ["tab:blue" if name == MODEL else "tab:gray" for name in of_it["method"]]
        axes.barh(of_it["method"].to_list(), mean, xerr=around, color=colours, capsize=3)
        axes.set_xlabel(f"{metric}, mean of {self.users:,} users, 95 % interval{self.interval_of}")
        return figure

    @classmethod
    def of_nothing(cls, note: str) -> Self:
        """Return a report without figures; the note says why there are none."""
        return cls("test", "", "", True, 0, 0, {}, {}, {}, {}, {}, {}, notes=(note,))

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; metrics map `recall@10` to mean, low and high.

        low and high are null for figures without an interval (`Interval.ends`).
        With an approximate index, `index` maps each metric to its mean through exact indexes and
        through the model's own. With model.request_time, `clock` maps each metric to its figure
        without the clock and to the difference.
        """
        beside = {
            name: {"exact": figure.mean, "indexed": self.metrics[name].mean}
            for name, figure in (self.exact or {}).items()
        }
        clock = {}
        if self.without_clock is not None and self.gained_by_clock is not None:
            clock = {
                name: {"without": figure, "difference": self.gained_by_clock[name]}
                for name, figure in self.without_clock.items()
            }
        return (
            ({"index": beside} if beside else {})
            | (
                {"clock": {name: _plain(figures) for name, figures in clock.items()}}
                if clock
                else {}
            )
        ) | {
            "split": {"kind": self.split, "cut": self.cut, "fit": self.fit}
            | ({"targets": list(self.targets)} if self.targets else {})
            | ({"staying": list(self.staying)} if self.staying else {}),
            "exclude_seen": self.exclude_seen,
            "users": self.users,
            "candidate_items": self.candidate_items,
            "counts": dict(self.counts),
            "metrics": _plain(self.metrics),
            "catalogue": _defined(self.catalogue),
            "diversity_by": self.diversity_by,
            "baseline": {
                "popularity": _plain(self.popularity),
                "popularity_catalogue": _defined(self.popularity_catalogue),
            },
            "difference": {"popularity": _plain(self.differences)},
            "notes": list(self.notes),
            "channels": {name: channel.to_dict() for name, channel in self.channels.items()},
            "ladder": [rung.to_dict() for rung in self.ladder],
            "slices": [part.to_dict() for part in self.slices],
        }

    @classmethod
    def of_dict(cls, told: Mapping[str, Any]) -> Self:
        """Return the report that `to_dict` wrote, as a bundle holds it; it has no costs.

        What `to_dict` gives without an interval, such as the figures through exact indexes, has
        none. Reports of older versions may have no ladder and no slices.

        Raises:
            DataError: if the object is not a report of `evaluate`.
        """
        try:
            made = cls(**_fields_of(told))
            made.in_short()  # it reads every part, so that a damaged one is found here
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"these figures are no report of evaluate: {error!r:.100}") from None
        return made

    def costs_dict(self) -> dict[str, Any]:
        """Return the costs as one JSON-safe object: CPU seconds of the fit, CPU µs per query."""
        return {
            name: {"fit_cpu_seconds": cost.fit, "query_cpu_us": cost.query}
            for name, cost in self.costs.items()
        }

    def told(self) -> dict[str, Any]:
        """Return `to_dict` with the summary `in_short` and the `costs`, as `--json` prints it.

        A bundle keeps `to_dict` alone: a summary follows from it, and costs are those of a machine.
        """
        return self.to_dict() | {"in_short": list(self.in_short()), "costs": self.costs_dict()}

    def to_html(self, title: str = "this model") -> str:
        """Return the report as one HTML page that explains its figures.

        The page needs no network and holds no script.

        Args:
            title: name of the model in the page's title.
        """
        return report_page(self, title)

    def table(self) -> Table:
        """Return a rich table: model, popularity, and the difference paired by user.

        With an approximate index the model has two columns, "exact" and "indexed". With
        model.request_time, the column "no clock" has the figures without the clock.
        """
        table = Table(
            title=f"{self.users:,} users × {self.candidate_items:,} items, "
            f"{'lists made elsewhere' if self.made_elsewhere else 'full ranking'}, "
            f"{self.split} {self.cut}, seen items {'left out' if self.exclude_seen else 'kept'}",
            caption="Mean over users ± half of the 95 % bootstrap interval; the difference is "
            f"paired. Fitted on: {self.fit}."
            + (f" {SAME}" if _same((self.metrics, self.differences)) else "")
            + "".join(
                f" Here {same} equals {shown}." for same, shown in self.same_for_one().items()
            )
            + (f" Diversity is computed from: {self.diversity_by}." if self.diversity_by else ""),
        )
        table.add_column("metric", no_wrap=True)
        model = ("model",) if self.exact is None else ("exact", "indexed")
        plain = self.without_clock
        for name in (*model, *(() if plain is None else ("no clock",)), "popular", "difference"):
            table.add_column(name, justify="right", no_wrap=True)
        left_out = self.same_for_one()
        for name, figure in self.metrics.items():
            if name.split("@")[0] in left_out:
                continue
            table.add_row(
                name,
                *(() if self.exact is None else (_interval(self.exact[name]),)),
                _interval(figure),
                *(() if plain is None else (_interval(plain[name]),)),
                f"{self.popularity[name].mean:.4f}",
                _interval(self.differences[name], "+"),
            )
        table.add_section()
        first = next(iter(self.catalogue), "").partition("@")[2]
        for name in (f"{kind}@{first}" for kind in SHOWN_OF_CATALOGUE if first):
            value = self.catalogue[name]
            beside = self.popularity_catalogue[name]
            blank = [""] * (len(model) - 1)
            last = () if plain is None else ("",)
            table.add_row(name, *blank, _number(value), *last, _number(beside), "")
        return table

    @property
    def fewest(self) -> int:
        """Number of users; over several folds that of the fold with the fewest."""
        return min([self.users, *(report.users for report in self.each.values())])

    @property
    def hold_everything(self) -> tuple[int, ...]:
        """The k whose lists hold every item of a small catalogue, so that all is found there."""
        if self.made_elsewhere:
            return ()
        ks = dict.fromkeys(_metric_and_k(name)[1] for name in self.metrics)
        return tuple(k for k in ks if k >= self.candidate_items > 0)

    @property
    def interval_of(self) -> str:
        """Words that follow "interval" and say what it covers besides users; "" for users alone."""
        return f" over {self.over}s and users" if self.over else ""

    @property
    def reaches_nothing(self) -> bool:
        """True if no held-out item can be recommended, as with cold items and a model of ids."""
        held = self.counts.get("held_out_events", 0)
        return 0 < held == self.counts.get("held_out_items_not_candidates")

    def same_for_one(self) -> dict[str, str]:
        """Return {metric: equal metric} for metrics that repeat another in every column.

        This is so if each user has one held-out item.
        """
        return repeated((self.metrics, self.popularity, self.exact or {}, self.without_clock or {}))

    def ladder_table(self) -> Table:
        """Return a rich table of the methods without training on the same rows, the model last."""
        table = Table(
            title="Comparison with methods without training",
            caption="Fitted on the same rows and measured on the same users. The difference is the "
            "model minus the method, paired by user, ± half of its 95 % interval"
            f"{self.interval_of}.",
        )
        table.add_column("method", no_wrap=True)
        shown = list(self.ladder[0].metrics)[: len(SHOWN)] if self.ladder else []
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
            table.add_column("difference", justify="right", no_wrap=True)
        for rung in self.ladder:
            cells = [rung.name]
            for name in shown:
                cells += [f"{rung.metrics[name].mean:.4f}", _interval(rung.difference[name], "+")]
            table.add_row(*cells)
        table.add_section()
        own = [cell for name in shown for cell in (f"{self.metrics[name].mean:.4f}", "")]
        table.add_row(MODEL, *own)
        return table

    def slices_table(self, *, whole: bool = False) -> Table:
        """Return a rich table of recall by groups of users and of items.

        Args:
            whole: False shows the groups by history length and by item popularity at the first k;
                True shows all groups at every k.
        """
        ks = [k for k in (self.slices[0].recall if self.slices else ())][: None if whole else 1]
        table = Table(
            title="Recall by groups of users and of items",
            caption=" ".join(
                [
                    "Share of the held-out events found, mean over the users of the slice ± half "
                    f"of its 95 % interval{self.interval_of}. Head, torso and tail of the items "
                    "have a third of the training events each.",
                    *self.slice_lines(whole=whole),
                ]
            ),
        )
        table.add_column("slice")
        for name in ("users", "events", *(c for k in ks for c in (f"recall@{k}", "popular"))):
            table.add_column(name, justify="right", no_wrap=True)
        last = ""
        for part in self._shown_slices(whole=whole):
            if last not in ("", part.by):
                table.add_section()
            last = part.by
            figures = [
                text for k in ks for text in (part.shown(k), f"{part.popularity[k].mean:.4f}")
            ]
            table.add_row(
                f"{part.by}: {part.name}", f"{part.users:,}", f"{part.events:,}", *figures
            )
        return table

    def _shown_slices(self, *, whole: bool) -> list[Slice]:
        return [part for part in self.slices if whole or part.by in SHOWN_SLICES]

    def slice_lines(self, *, whole: bool = True) -> Iterator[str]:
        """Yield what a reader of the slices must know beyond their figures, as sentences."""
        shown = self._shown_slices(whole=whole)
        if any(not part.half(k) for part in shown for k in part.recall):
            where = " in a fold" if self.over == "fold" else ""
            yield f"A slice of fewer than {FEW} users{where}, or of equal figures, has no interval."
        events = self.counts.get("held_out_events", 0)
        for by in dict.fromkeys(part.by for part in shown):
            if sum(part.events for part in shown if part.by == by) > events:
                yield f"The slices of {by} overlap: an event counts in each of its values."

    def in_short(self) -> tuple[str, ...]:
        """Return the report in a few sentences: what is found, what is added, and for whom."""
        return in_short(self)

    def lines(self) -> tuple[str, ...]:
        """Return the remarks that a reader of the figures needs, as sentences."""
        events = self.counts.get("held_out_events", 0)
        said = {
            "held_out_items_not_candidates": f"of {events:,} held-out events had an item that "
            "cannot be recommended (unseen in training, no features), which counts as a miss",
            "held_out_items_already_seen": f"of {events:,} held-out events had an item that the "
            "user had met before. It is left out of the lists, which counts as a miss",
            "held_out_items_met_before": f"of {events:,} held-out events had an item that the user "
            "had met before and that stays in the lists",
            "met_below_min_weight": "events below min_weight that these users had before the cut, "
            "or of kinds that the model does not read: their items are left out of the lists, too",
            "users_without_history": f"of {self.users:,} users had no event before the cut",
            "users_answered_by_fallback": f"of {self.users:,} users got popular items, because "
            "the model knows nothing of them",
        }
        if self.reaches_nothing:
            said["held_out_items_not_candidates"] = (
                f"of {events:,} held-out events had an item that this model cannot recommend: it "
                "has no training events, and the model reads no item features that would give it "
                "a vector"
            )
        counted = (f"{self.counts[n]:,} {text}." for n, text in said.items() if self.counts.get(n))
        channels = (channel.line(name) for name, channel in self.channels.items())
        return (
            *self._target_lines(),
            *(note if note.endswith(".") else f"{note}." for note in self.notes),
            *counted,
            *channels,
            *self._clock_lines(),
            *self._cost_lines(),
        )

    def _target_lines(self) -> Iterator[str]:
        if self.targets:
            yield f"only events{self.of_targets} are predicted and measured."

    @property
    def of_targets(self) -> str:
        """Words that follow "event" and name the kinds that are predicted; "" without kinds."""
        named = " or ".join(f'"{name}"' for name in self.targets)
        return f" of kind {named}" if named else ""

    def _clock_lines(self) -> Iterator[str]:
        if self.without_clock is None or self.gained_by_clock is None:
            return
        yield (
            "this model reads the time of a query: here that of the user's first held-out event. "
            'The column "no clock" has its figures when each query has the time of the user\'s '
            "last known event instead."
        )
        for name, gained in self.gained_by_clock.items():
            if name.split("@")[0] == "recall":
                yield (
                    f"{name}: {self.metrics[name].mean:.4f} with the clock, "
                    f"{self.without_clock[name].mean:.4f} without, difference {gained.mean:+.4f} "
                    f"{gained.between('+')}, paired by user."
                )
                break

    def _cost_lines(self) -> Iterator[str]:
        if (cost := self.costs.get(MODEL)) is None:
            return
        fit = "" if cost.fit is None else f"{cost.fit:,.1f} CPU seconds for the fit, "
        others = [f"{name} {each.query:,.0f}" for name, each in self.costs.items() if name != MODEL]
        beside = f" ({', '.join(others)})" if others else ""
        yield f"cost on this machine: {fit}{cost.query:,.0f} CPU µs a query in blocks{beside}."


def in_order(names: Iterable[str]) -> list[str]:
    """Return names such as "recall@10" by k, and then in the order of `evaluate`.

    A bundle keeps them in the order of the alphabet, where "recall@100" comes before "recall@20".
    """
    known = [*PER_USER, *LISTS]

    def place(name: str) -> tuple[int, int]:
        metric, k = _metric_and_k(name)
        return k, known.index(metric) if metric in known else len(known)

    return sorted(names, key=place)


def _fields_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a report by name, from what `Report.to_dict` gives."""
    split, users, clock = told["split"], int(told["users"]), told.get("clock")
    baseline = told.get("baseline", {})

    def read(figures: Mapping[str, Any]) -> dict[str, Interval]:
        return {name: Interval.of_dict(figures[name], users) for name in in_order(figures)}

    def numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
        known = {name: value for name, value in figures.items() if value is not None}
        return {name: known.get(name, float("nan")) for name in in_order(figures)}

    exact = told.get("index")
    return {
        "cut": split["cut"],
        "split": split["kind"],
        "fit": split["fit"],
        "exclude_seen": told["exclude_seen"],
        "users": users,
        "candidate_items": int(told["candidate_items"]),
        "counts": {name: int(count) for name, count in told["counts"].items()},
        "metrics": read(told["metrics"]),
        "catalogue": numbers(told.get("catalogue", {})),
        "popularity": read(baseline.get("popularity", {})),
        "popularity_catalogue": numbers(baseline.get("popularity_catalogue", {})),
        "differences": read(told.get("difference", {}).get("popularity", {})),
        "notes": tuple(told.get("notes", ())),
        "channels": {name: Searched(**how) for name, how in told.get("channels", {}).items()},
        "exact": exact and {n: Interval(exact[n]["exact"], None, None) for n in in_order(exact)},
        "without_clock": clock and read({n: each["without"] for n, each in clock.items()}),
        "gained_by_clock": clock and read({n: each["difference"] for n, each in clock.items()}),
        "ladder": tuple(Rung.of_dict(rung, users) for rung in told.get("ladder", ())),
        "slices": tuple(Slice.of_dict(part) for part in told.get("slices", ())),
        "diversity_by": told.get("diversity_by", ""),
        "targets": tuple(split.get("targets", ())),
        "staying": tuple(split.get("staying", ())),
    }


def _defined(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures for JSON: NaN, of lists without any item, becomes None."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _same(columns: Iterable[Figures]) -> bool:
    """Tell whether a figure has no interval."""
    return any(figure.ends is None for column in columns for figure in column.values())


def _plain(figures: Figures) -> dict[str, dict[str, float | None]]:
    return {name: figure.to_dict() for name, figure in figures.items()}


def _metric_and_k(name: str) -> tuple[str, int]:
    metric, _, k = name.partition("@")
    return metric, int(k)


def _interval(figure: Interval, sign: str = "") -> str:
    return f"{figure.mean:{sign}.4f} {figure.half}".rstrip()


def repeated(columns: Iterable[Figures]) -> dict[str, str]:
    """Return {metric: equal metric} of SAME_FOR_ONE for metrics that are equal in every column."""
    given = list(columns)
    return {
        same: shown
        for same, shown in SAME_FOR_ONE.items()
        if all(
            figure == column[f"{shown}@{name.split('@')[1]}"]
            for column in given
            for name, figure in column.items()
            if name.split("@")[0] == same
        )
    }
