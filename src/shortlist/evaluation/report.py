"""What an evaluation says: figures with intervals, for machines (dict) and for people (table)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import polars as pl
from rich.table import Table

from shortlist.errors import QueryError
from shortlist.evaluation.ladder import SHOWN, Rung
from shortlist.evaluation.page import report_page
from shortlist.evaluation.plots import new_figure
from shortlist.evaluation.searching import Searched
from shortlist.evaluation.significance import Interval
from shortlist.evaluation.slices import Slice
from shortlist.showing import Facts, Showing, html_table

Figures = Mapping[str, Interval]

SAME_FOR_ONE = {"hit_rate": "recall", "map": "mrr"}
"""Metrics that say the same where each user has one held-out item; the table shows one of them."""

SHOWN_SLICES = ("history", "items")
"""The slices that are always shown; `to_dict` has all of them."""

SHOWN_OF_CATALOGUE = ("coverage", "gini", "popularity_percentile", "novelty", "diversity")
"""What the table shows of the lists as a whole, at the first k; `to_dict` has all of it."""

MODEL = "this model"
"""The name of the model among the methods that it is compared with."""


class Cost(NamedTuple):
    """What something takes on this machine, in CPU time over all threads.

    fit: seconds of the fit, None where it was not seen; query: microseconds a query, where queries
    are asked together.
    """

    fit: float | None
    query: float

    @classmethod
    def of(cls, seconds: float, queries: int, fit: float | None = None) -> "Cost":
        """Return the cost of so many queries that took so many seconds together."""
        return cls(fit, seconds / max(queries, 1) * 1e6)


@dataclass(frozen=True, repr=False)
class Report(Showing):
    """Metrics of a retriever on one cut, beside the popularity baseline on the same cases.

    metrics, baselines: name@k -> mean with a 95 % interval over users. differences: retriever
    minus popularity, paired by user. catalogue: figures of the lists as a whole. counts: what the
    reader must know: users, candidate items, cases nobody could answer. channels: how each channel
    of vectors was trained and searched. exact: `metrics` once more, through exact indexes; None
    where all of them are exact. without_clock: of a model that reads when it is asked
    (model.request_time), `metrics` once more, asked as at the moment of the last known event;
    gained_by_clock: `metrics` minus those, paired by user; both None for others. ladder: methods
    without training beside it; empty where they were not asked for. slices: recall by kinds of
    users and of items.
    diversity_by: what tells the items of a list apart. costs: of the model and of each method
    beside it, by name; they differ from run to run, so that they are no part of `to_dict` (nor of a
    bundle), nor of what makes two reports equal.
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
    costs: Mapping[str, Cost] = field(default_factory=dict, compare=False)

    def facts(self) -> Facts:
        """Return the split, how many users, and recall and ndcg of the shortest list."""
        first = {name.partition("@")[0]: name for name in reversed([*self.metrics])}
        shown = [first[name] for name in ("recall", "ndcg") if name in first]
        return {"split": f"{self.split} {self.cut}", "users": self.users} | {
            name: self.metrics[name].mean for name in shown
        }

    def _repr_html_(self) -> str:
        """Show model, popularity and difference, a row a metric."""
        head = ("metric", "model", "95 % interval", "popular", "difference", "95 % interval")
        rows = [
            (name, own.mean, _ends(own), self.popularity[name].mean, more.mean, _ends(more))
            for name, own in self.metrics.items()
            if name.partition("@")[0] not in self.same_for_one()
            for more in (self.differences[name],)
        ]
        return html_table(repr(self), head, rows)

    def to_frame(self) -> pl.DataFrame:
        """Return a row a method and metric: method, metric, k, mean, low, high.

        The methods are the model, popularity and the ladder; low and high are the ends of the 95 %
        interval over users.
        """
        methods = {MODEL: self.metrics, "popular": self.popularity}
        methods |= {rung.name: rung.metrics for rung in self.ladder if rung.name not in methods}
        rows = [
            (method, *_metric_and_k(name), *figure)
            for method, figures in methods.items()
            for name, figure in figures.items()
        ]
        schema = {"method": pl.String, "metric": pl.String, "k": pl.Int64}
        return pl.DataFrame(
            rows, schema | dict.fromkeys(Interval._fields, pl.Float64), orient="row"
        )

    def plot(self, metric: str = "") -> Any:
        """Return a matplotlib figure: the model and each method beside it, with their intervals.

        metric: such as "recall@10"; by default recall of the shortest list. Errors: QueryError for
        a metric that was not measured, ModelError without the extra "plot".
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
        around = [mean - of_it["low"].to_numpy(), of_it["high"].to_numpy() - mean]
        colours = ["tab:blue" if name == MODEL else "tab:gray" for name in of_it["method"]]
        axes.barh(of_it["method"].to_list(), mean, xerr=around, color=colours, capsize=3)
        axes.set_xlabel(f"{metric}, mean of {self.users:,} users, 95 % interval")
        return figure

    @classmethod
    def of_nothing(cls, note: str) -> Self:
        """Return a report without figures, and why there are none."""
        return cls("test", "", "", True, 0, 0, {}, {}, {}, {}, {}, {}, notes=(note,))

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; metrics map `recall@10` to mean, low and high.

        Where an index is approximate, `index` maps each metric to its mean through the exact
        indexes and through its own, which is that of `metrics`. For a model that reads when it is
        asked, `clock` maps each metric to what it is without the clock and to the difference.
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
            "split": {"kind": self.split, "cut": self.cut, "fit": self.fit},
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

    def costs_dict(self) -> dict[str, Any]:
        """Return the costs as one JSON-safe object: CPU seconds of the fit, µs a query."""
        return {
            name: {"fit_cpu_seconds": cost.fit, "query_cpu_us": cost.query}
            for name, cost in self.costs.items()
        }

    def to_html(self, title: str = "this model") -> str:
        """Return the report as one HTML file, for readers who have never seen one.

        It says what the model is worth, for whom and at what cost; it needs no network, and holds
        no script. title: what the model is called.
        """
        return report_page(self, title)

    def table(self) -> Table:
        """Return a table for people: model, popularity, and the difference paired by user.

        With an approximate index the model has two columns, its exact figures first; one that reads
        when it is asked has a column of its figures without the clock.
        """
        table = Table(
            title=f"{self.users:,} users × {self.candidate_items:,} items, full ranking, "
            f"{self.split} {self.cut}, seen items {'out' if self.exclude_seen else 'in'}",
            caption="Mean over users ± half of the 95 % bootstrap interval; the difference is "
            f"paired. Fitted on: {self.fit}."
            + "".join(
                f" Here {same} equals {shown}." for same, shown in self.same_for_one().items()
            )
            + (f" Diversity is by {self.diversity_by}." if self.diversity_by else ""),
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
    def reaches_nothing(self) -> bool:
        """Whether no held-out item can be recommended, as by a model of ids of cold items."""
        held = self.counts.get("held_out_events", 0)
        return 0 < held == self.counts.get("held_out_items_not_candidates")

    def same_for_one(self) -> dict[str, str]:
        """Return metrics that repeat another in every column, as with one held-out item a user."""
        columns = (self.metrics, self.popularity, self.exact or {}, self.without_clock or {})
        return {
            same: shown
            for same, shown in SAME_FOR_ONE.items()
            if all(
                figure == column[f"{shown}@{name.split('@')[1]}"]
                for column in columns
                for name, figure in column.items()
                if name.split("@")[0] == same
            )
        }

    def ladder_table(self) -> Table:
        """Return a table for people: what trivial methods get on the same rows, the model last."""
        table = Table(
            title="What it adds to methods without training",
            caption="Fitted on the same rows and asked for the same users; the difference is the "
            "model minus the method, paired by user, ± half of its 95 % interval.",
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
        """Return a table of the slices for people: whom the model serves, and what it finds.

        By history and by popularity of the items, at the first k; whole: all slices at every k.
        """
        ks = [k for k in (self.slices[0].recall if self.slices else ())][: None if whole else 1]
        table = Table(
            title="For whom, and of which items",
            caption="Share of the held-out events found, mean over the users of the slice ± half "
            "of its interval. Head, torso and tail of the items have a third of the training "
            "events each.",
        )
        table.add_column("slice")
        for name in ("users", "events", *(c for k in ks for c in (f"recall@{k}", "popular"))):
            table.add_column(name, justify="right", no_wrap=True)
        last = ""
        for part in self.slices:
            if not whole and part.by not in SHOWN_SLICES:
                continue
            if last not in ("", part.by):
                table.add_section()
            last = part.by
            figures = [
                text
                for k in ks
                for text in (_interval(part.recall[k]), f"{part.popularity[k].mean:.4f}")
            ]
            table.add_row(
                f"{part.by}: {part.name}", f"{part.users:,}", f"{part.events:,}", *figures
            )
        return table

    def lines(self) -> tuple[str, ...]:
        """Return what a reader of the figures must know beside them, as sentences."""
        said = {
            "held_out_items_not_candidates": "held-out events name an item that cannot be "
            "recommended (unseen in training, no features): misses",
            "held_out_items_already_seen": "held-out events repeat an item the user had met, "
            "which is left out of the lists: misses",
            "met_below_min_weight": "events below min_weight that these users had before the cut, "
            "or of kinds of events that are not read: their items are left out of the lists, too",
            "users_without_history": "users had no event before the cut",
            "users_answered_by_fallback": "users were unknown and got popular items",
        }
        if self.reaches_nothing:
            said["held_out_items_not_candidates"] = (
                "held-out events, all there are, name an item that this model cannot recommend: "
                "it has no training events, and the model reads no features of items that would "
                "place it"
            )
        counted = (f"{self.counts[n]:,} {text}." for n, text in said.items() if self.counts.get(n))
        channels = (channel.line(name) for name, channel in self.channels.items())
        return (*self.notes, *counted, *channels, *self._clock_lines(), *self._cost_lines())

    def _clock_lines(self) -> Iterator[str]:
        if self.without_clock is None or self.gained_by_clock is None:
            return
        yield (
            "this model reads when it is asked: at the time of the first event held out of a user. "
            "Without the clock (no clock) it is asked as at the moment of the user's last known "
            "event."
        )
        for name, gained in self.gained_by_clock.items():
            if name.split("@")[0] == "recall":
                yield (
                    f"{name}: {self.metrics[name].mean:.4f} with the clock, "
                    f"{self.without_clock[name].mean:.4f} without, difference {gained.mean:+.4f} "
                    f"[{gained.low:+.4f}, {gained.high:+.4f}], paired by user."
                )
                break

    def _cost_lines(self) -> Iterator[str]:
        if (cost := self.costs.get(MODEL)) is None:
            return
        fit = "" if cost.fit is None else f"{cost.fit:,.1f} CPU seconds for the fit, "
        others = [f"{name} {each.query:,.0f}" for name, each in self.costs.items() if name != MODEL]
        beside = f" ({', '.join(others)})" if others else ""
        yield f"cost here: {fit}{cost.query:,.0f} CPU µs a query asked in blocks{beside}."


def _defined(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures for JSON; None where nothing was recommended, so that there is no figure."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _plain(figures: Figures) -> dict[str, dict[str, float]]:
    return {name: figure._asdict() for name, figure in figures.items()}


def _ends(figure: Interval) -> str:
    return f"[{figure.low:.4f}, {figure.high:.4f}]"


def _metric_and_k(name: str) -> tuple[str, int]:
    metric, _, k = name.partition("@")
    return metric, int(k)


def _interval(figure: Interval, sign: str = "") -> str:
    return f"{figure.mean:{sign}.4f} ± {(figure.high - figure.low) / 2:.4f}"
