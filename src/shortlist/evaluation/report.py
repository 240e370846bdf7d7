"""What an evaluation says: figures with intervals, for machines (dict) and for people (table)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from shortlist.evaluation.significance import Interval

Figures = Mapping[str, Interval]


@dataclass(frozen=True)
class Report:
    """Metrics of a retriever on one cut, beside the popularity baseline on the same cases.

    metrics, baselines: name@k -> mean with a 95 % interval over users. differences: retriever
    minus popularity, paired by user. catalogue: figures of the lists as a whole. counts: what the
    reader must know: users, candidate items, cases nobody could answer.
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

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; metrics map `recall@10` to mean, low and high."""
        return {
            "split": {"kind": self.split, "cut": self.cut, "fit": self.fit},
            "exclude_seen": self.exclude_seen,
            "users": self.users,
            "candidate_items": self.candidate_items,
            "counts": dict(self.counts),
            "metrics": _plain(self.metrics),
            "catalogue": dict(self.catalogue),
            "baseline": {
                "popularity": _plain(self.popularity),
                "popularity_catalogue": dict(self.popularity_catalogue),
            },
            "difference": {"popularity": _plain(self.differences)},
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """Return a table for people: retriever, baseline, and the paired difference."""
        table = Table(
            title=f"{self.users:,} users × {self.candidate_items:,} items, full ranking, "
            f"{self.split} {self.cut}, seen items {'out' if self.exclude_seen else 'in'}",
            caption="mean over users, 95 % bootstrap interval; "
            f"the model is fitted on: {self.fit}",
        )
        table.add_column("metric")
        for name in ("model", "popularity", "difference"):
            table.add_column(name, justify="right")
        for name, figure in self.metrics.items():
            table.add_row(
                name, _shown(figure), _shown(self.popularity[name]), _shown(self.differences[name])
            )
        for name, value in self.catalogue.items():
            table.add_row(name, f"{value:.4f}", f"{self.popularity_catalogue[name]:.4f}", "")
        return table


def _plain(figures: Figures) -> dict[str, dict[str, float]]:
    return {name: figure._asdict() for name, figure in figures.items()}


def _shown(figure: Interval) -> str:
    return f"{figure.mean:.4f} [{figure.low:.4f}, {figure.high:.4f}]"
