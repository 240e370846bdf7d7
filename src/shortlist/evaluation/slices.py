"""For which users and items is a model good? Recall by groups of users and of items."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist.data.interactions import Cut
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError, suggest
from shortlist.evaluation.column_values import ColumnValues, column_values
from shortlist.evaluation.significance import FEW, Interval, user_intervals

HISTORIES = ((0, "none"), (1, "1 to 4"), (5, "5 to 19"), (20, "20 and more"))
"""(smallest number of known events, name) of each slice by length of history."""

ORDER = (*(name for _, name in HISTORIES), "trained", "head", "torso", "tail", "new")
"""The names of the slices that every report has, in their order."""

MOST_VALUES = 10
"""At most this many values of a column have their own slice: those with most held-out events."""

Rows = NDArray[np.int64]


class Cases(NamedTuple):
    """The users to ask and their held-out items.

    users: user rows, [U].
    items: distinct held-out item rows of all users, [E].
    offsets: [U + 1]; user u has items[offsets[u]:offsets[u + 1]].
    """

    users: Rows
    items: Rows
    offsets: Rows

    @property
    def owners(self) -> Rows:
        """The position in `users` of the user of each held-out event, [E]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))


@dataclass(frozen=True)
class Slice:
    """Figures of a group of held-out events.

    by: what the events are grouped by: "history", "users", "items" or a column.
    name: name of the group.
    users: number of users with such events.
    events: number of held-out events.
    found: number of these events in the first k, by k; over several seeds the mean number.
    recall: mean over these users of the share that is found, by k, with its interval.
    popularity: recall of the most popular items, by k.
    difference: recall minus that of the most popular items, paired by user, by k.
    """

    by: str
    name: str
    users: int
    events: int
    found: Mapping[int, float]
    recall: Mapping[int, Interval]
    popularity: Mapping[int, Interval]
    difference: Mapping[int, Interval]

    @property
    def enough(self) -> bool:
        """True if the users, over several folds those of each fold, are enough for an interval."""
        return self.users >= FEW and all(figure.low is not None for figure in self.recall.values())

    def half(self, k: int) -> str:
        """Half of the interval of recall@k as text, after "±"; "" if it has none."""
        return self.recall[k].half if self.enough else ""

    def shown(self, k: int) -> str:
        """Recall@k with its interval, as text."""
        return f"{self.recall[k].mean:.4f} {self.half(k)}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object; figures are keyed as in the report, such as recall@10."""
        figures = {
            f"recall@{k}": self.recall[k].to_dict()
            | {
                "found": self.found[k],
                "popularity": self.popularity[k].mean,
                "difference": self.difference[k].to_dict(),
            }
            for k in self.recall
        }
        counts = {"users": self.users, "events": self.events}
        return {"by": self.by, "slice": self.name, **counts, "metrics": figures}

    @classmethod
    def of_dict(cls, told: Mapping[str, Any]) -> "Slice":
        """Return the slice that `to_dict` wrote; its popular items have no interval."""
        users = int(told["users"])
        by_k = {int(name.partition("@")[2]): each for name, each in told["metrics"].items()}
        figures = {k: by_k[k] for k in sorted(by_k)}  # a bundle keeps them in another order
        return cls(
            str(told["by"]),
            str(told["slice"]),
            users,
            int(told["events"]),
            {k: each["found"] for k, each in figures.items()},
            {k: Interval.of_dict(each, users) for k, each in figures.items()},
            {k: Interval(float(each["popularity"]), None, None) for k, each in figures.items()},
            {k: Interval.of_dict(each["difference"], users) for k, each in figures.items()},
        )


class Part(NamedTuple):
    """The held-out events of a slice, as bool [E]; `by` and `name` as in `Slice`."""

    by: str
    name: str
    events: NDArray[np.bool_]


def parts_of(data: TrainingData, cases: Cases, cut: Cut, by: Iterable[str]) -> list[Part]:
    """Group the held-out events by history, by users, by items, and by columns of their tables.

    The counts of each of the first three sum to the whole. Those of a column need not, because an
    item can have several values.

    by: columns of the items' or users' table.
    Errors: ModelError for an unknown column, or one whose values cannot be grouped.
    """
    if isinstance(by, str):
        raise ModelError(f"by must be a list of columns, got the text {by!r}: write [{by!r}]")
    columns = list(by) if isinstance(by, Iterable) else [by]
    if not all(isinstance(column, str) for column in columns):
        raise ModelError(f"by must be a list of columns, got {by!r:.60}")
    parts = [*_by_history(data, cases, cut), *_by_training(data, cases)]
    for column in dict.fromkeys(columns):
        parts += _by_column(data, cases, column)
    return parts


def sliced(
    parts: Iterable[Part], cases: Cases, places: Rows, popular: Rows, ks: Sequence[int], seed: int
) -> tuple[Slice, ...]:
    """Return the figures of each part with at least one event.

    places: place of each held-out item in its user's list, from 1; 0 if absent, [E].
    popular: the same for the list of popular items.
    """
    return tuple(
        _figures(part, cases, places, popular, ks, seed) for part in parts if part.events.any()
    )


def _figures(
    part: Part, cases: Cases, places: Rows, popular: Rows, ks: Sequence[int], seed: int
) -> Slice:
    users, owner = np.unique(cases.owners[part.events], return_inverse=True)
    counts = np.bincount(owner)
    columns: dict[str, NDArray[np.float64]] = {}
    found = {}
    for k in ks:
        ours, theirs = (
            np.bincount(owner, (place[part.events] > 0) & (place[part.events] <= k)) / counts
            for place in (places, popular)
        )
        columns |= {f"ours@{k}": ours, f"theirs@{k}": theirs, f"more@{k}": ours - theirs}
        found[k] = int(((places > 0) & (places <= k) & part.events).sum())
    intervals = user_intervals(columns, seed)
    kinds = ({k: intervals[f"{kind}@{k}"] for k in ks} for kind in ("ours", "theirs", "more"))
    return Slice(part.by, part.name, len(users), int(part.events.sum()), found, *kinds)


def _by_history(data: TrainingData, cases: Cases, cut: Cut) -> list[Part]:
    """Group the events by the number of events of their user before the cut."""
    known = np.bincount(data.log.before(cut).user, minlength=len(data.users) + 1)
    least = np.array([start for start, _ in HISTORIES])
    group = np.searchsorted(least, known[cases.users], side="right")[cases.owners] - 1
    return [Part("history", name, group == n) for n, (_, name) in enumerate(HISTORIES)]


def _by_training(data: TrainingData, cases: Cases) -> list[Part]:
    """Group the events by whether their user has training events, and by item popularity.

    The head is the most popular items that together have a third of the training events, the torso
    has the next third, and the tail the rest. New items have no training event.
    """
    trained = (cases.users <= data.users.trained)[cases.owners]
    counts = np.zeros(len(data.items) + 1, dtype=np.int64)
    counts[: data.items.trained + 1] = data.item_counts
    order = np.argsort(-counts, kind="stable")
    before = np.empty(len(counts))
    before[order] = np.concatenate([[0], np.cumsum(counts[order])[:-1]])
    third = np.minimum(before * 3 / max(int(counts.sum()), 1), 2).astype(np.int64)
    third[counts == 0] = 3
    group = third[cases.items]
    return [
        Part("users", "trained", trained),
        Part("users", "new", ~trained),
        *(
            Part("items", name, group == number)
            for number, name in enumerate(("head", "torso", "tail", "new"))
        ),
    ]


def _by_column(data: TrainingData, cases: Cases, column: str) -> list[Part]:
    """Group the events by the values of a column of items or users."""
    sides = [
        (frame, features, vocabulary, rows)
        for frame, features, vocabulary, rows in (
            (data.item_frame, data.item_features, data.items, cases.items),
            (data.user_frame, data.user_features, data.users, cases.users[cases.owners]),
        )
        if frame is not None
    ]
    with_column = [side for side in sides if column in side[0].columns and column != "id"]
    if not with_column:
        known = [name for side in sides for name in side[0].columns if name != "id"]
        raise ModelError(
            f"by: no table of items or users has a column '{column}'."
            + (suggest(column, known) if known else " The model has no such table.")
        )
    parts: list[Part] = []
    for frame, features, vocabulary, rows in with_column:
        found = column_values(column, frame, features, vocabulary, rows, MOST_VALUES)
        by = f"{column} of {vocabulary.name}s" if len(with_column) > 1 else column
        parts += _of_values(by, found, rows)
    return parts


def _of_values(by: str, found: ColumnValues, rows: Rows) -> list[Part]:
    """Group events by the values of their rows, [E]."""
    starts, codes = found.starts, found.codes
    length = (starts[1:] - starts[:-1])[rows]
    event = np.repeat(np.arange(len(rows)), length)
    code = codes[np.repeat(starts[rows + 1] - np.cumsum(length), length) + np.arange(len(event))]
    counts = np.bincount(code, minlength=len(found.names))
    common = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    parts = []
    for value in np.sort(common) if found.ordered else common:
        mine = np.zeros(len(rows), dtype=np.bool_)
        mine[event[code == value]] = True
        parts.append(Part(by, found.names[value], mine))
    other = np.zeros(len(rows), dtype=np.bool_)
    other[event[~np.isin(code, common)]] = True
    return [*parts, Part(by, "(others)", other), Part(by, "(none)", length == 0)]
