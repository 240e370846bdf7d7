"""What a model is trained with: a log in rows of its vocabularies, and encoded features."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.event_columns import EventFeatures
from shortlist.data.features import FeatureTable
from shortlist.data.histories import Histories, LoggedHistories
from shortlist.data.impressions import Shows
from shortlist.data.interactions import BEFORE, Cut, Interactions
from shortlist.data.ragged import Ragged
from shortlist.data.remembered import Remembered
from shortlist.data.text import TextFormat
from shortlist.data.times import is_of_clock
from shortlist.data.vocabulary import Vocabulary
from shortlist.durations import TimeUnit
from shortlist.errors import ModelError

Fit = Literal["train", "train+validation", "all"]
FIT_BEFORE: dict[Fit, Cut] = {"train": "validation", "train+validation": "test", "all": "end"}


@dataclass(frozen=True)
class TrainingData:
    """The log in rows of its vocabularies, with statistics of the rows they were fitted on.

    The log also holds later events with their roles, so that one object can answer what was known
    before each cut.

    users, items: the vocabularies, id <-> row.
    log: the events that are read; `log.targets` are the positives among them.
    fit: which rows the vocabularies and statistics were fitted on.
    ordered: whether the log has an order; without one a history is a set.
    user_features, item_features: encoded features by row.
    user_frame, item_frame: raw columns by id; None where a side has none.
    title: column of `item_frame` that is shown to people.
    kind: the kind of split.
    notes: remarks about the split and the data, for reports.
    time_unit: unit of one step of `log.time`.
    text: the format of the log; None if it is not a text file.
    logged: hard negatives by the name of their log: the item rows of each user row. A bundle does
        not keep them.
    shows: how often each item was shown and clicked before the cut; None without impressions.
    removed: item rows that must not be recommended.
    remembered: cache of the answers of `data.predicates`.
    met: events that are not read but count as seen, in rows: their items are left out of their
        users' answers, and nothing learns from them. None where the schema has no such events.
    follows: warnings about features that belong to the other side; a bundle does not keep them.
    counts: for data saved without their log: the number of training positives of each trained item
        row, [items.trained + 1]. The log is then empty.
    store: answers questions for histories instead of the log; a bundle does not keep it.
    event_features: the encoders of the columns of `log`.
    """

    users: Vocabulary
    items: Vocabulary
    log: Interactions
    fit: Fit
    ordered: bool
    user_features: FeatureTable
    item_features: FeatureTable
    user_frame: pl.DataFrame | None
    item_frame: pl.DataFrame | None
    title: str | None
    kind: str
    notes: tuple[str, ...] = ()
    time_unit: TimeUnit | None = None
    text: TextFormat | None = None
    logged: Mapping[str, Ragged] = field(default_factory=dict)
    shows: Shows | None = None
    removed: frozenset[int] = frozenset()
    remembered: Remembered = field(default_factory=Remembered, compare=False, repr=False)
    met: Interactions | None = None
    follows: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = None
    store: Histories | None = field(default=None, compare=False, repr=False)
    event_features: EventFeatures = field(default_factory=EventFeatures)

    @cached_property
    def histories(self) -> Histories:
        """The store of user histories: `store` if one is given, else the log."""
        return LoggedHistories(self.log) if self.store is None else self.store

    @property
    def knows_users(self) -> bool:
        """Whether the histories of users are available, from the log or from a store."""
        return self.counts is None or self.store is not None

    def without_log(self) -> "TrainingData":
        """Return the data without their events; ids, features and counts of items stay."""
        users = len(self.users) + 1
        no_events = self.log.keep(np.zeros(len(self.log), dtype=np.bool_))
        return replace(self, log=replace(no_events, users=users), met=None, counts=self.item_counts)

    def require_log(self, what: str) -> None:
        """Refuse an action that needs the events of data saved without them.

        what: the action, as the start of the error's sentence.
        """
        if self.counts is not None:
            raise ModelError(
                f"{what} needs the log, and this bundle was saved without it: train again, and "
                "keep the log"
            )

    @cached_property
    def newest_time(self) -> int | float:
        """The time of the newest event of the log; 0 without times."""
        newest: int | float = 0 if self.log.time is None else self.log.time.max(initial=0).item()
        return newest

    @cached_property
    def first_held_out(self) -> dict[Cut, NDArray[np.int64]]:
        """The log position of the first target of each user row at each cut, [users + 1]; or -1.

        A question "before" the cut is about this event.
        """
        found: dict[Cut, NDArray[np.int64]] = {}
        for cut in ("validation", "test"):
            first = np.full(self.log.users, -1, dtype=np.int64)
            if self.log.role is not None:
                held_out = self.log.role == BEFORE[cut]
                if self.log.target is not None:
                    held_out = held_out & self.log.target
                places = np.flatnonzero(held_out)[::-1]
                first[self.log.user[places]] = places  # the earliest is written last and stays
            found[cut] = first
        return found

    @cached_property
    def of_clock(self) -> bool:
        """Whether the times of the log have the magnitude of clock times."""
        return self.log.time is not None and is_of_clock(self.log.time, self.time_unit)

    @cached_property
    def training_log(self) -> Interactions:
        """The events that statistics and models may use."""
        return self.log.before(FIT_BEFORE[self.fit])

    @cached_property
    def training_targets(self) -> Interactions:
        """The positives among the training events; the same object where all are positives."""
        return self.training_log.targets

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """The number of training positives of each trained item row, [items.trained + 1]."""
        if self.counts is not None:
            return self.counts
        return self.training_targets.item_counts(self.items.trained)

    def candidates(self, *, with_features: bool) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, ascending, without those in `removed`.

        These are the trained items that were a positive. A model that reads item features can also
        recommend items of the catalogue without any event (`with_features`). The array is cached
        and shared by all requests: do not change it.
        """
        return self._placed_by_features if with_features else self._trained_candidates

    @cached_property
    def _targeted(self) -> NDArray[np.int64]:
        """The trained item rows that were a positive at least once."""
        if self.log.kinds is None or all(self.log.kinds.targets):
            return np.arange(1, self.items.trained + 1)
        return np.flatnonzero(self.item_counts)

    @cached_property
    def _trained_candidates(self) -> NDArray[np.int64]:
        return self._without_removed(self._targeted)

    @cached_property
    def _placed_by_features(self) -> NDArray[np.int64]:
        if self.item_frame is None or not self.item_features.columns:
            return self._trained_candidates
        rows = np.union1d(self._targeted, self.items.rows(self.item_frame["id"]))
        return self._without_removed(rows)

    def _without_removed(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.removed:
            rows = np.setdiff1d(rows, np.fromiter(self.removed, dtype=np.int64))
        return rows

    def targets(self, cut: Cut) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what is to be predicted at a cut: user rows [U], and their items as lists.

        users: each user with a held-out target, ascending.
        items, offsets [U + 1]: the distinct items of user i are items[offsets[i]:offsets[i + 1]].
        """
        self.require_log("measuring")
        held_out = self.log.at(cut)
        width = len(self.items) + 1
        pairs = np.unique(held_out.user.astype(np.int64) * width + held_out.item)
        users, counts = np.unique(pairs // width, return_counts=True)
        return users, pairs % width, np.concatenate([[0], np.cumsum(counts)])

    def times_of_targets(self, cut: Cut) -> NDArray[Any] | None:
        """Return the time of the first held-out target of each user that `targets` gives, [U].

        The unit is that of the log; None for a log without times.
        """
        held_out = self.log.at(cut)
        if held_out.time is None:
            return None
        users, place = np.unique(held_out.user, return_inverse=True)
        first = np.full(len(users), held_out.time.max(initial=0), dtype=held_out.time.dtype)
        np.minimum.at(first, place, held_out.time)
        return first

    def titles(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the title of each item row, or its id where it has none."""
        ids = self.items.external(rows)
        if self.title is None or self.item_frame is None:
            return [str(i) for i in ids]
        named = self.item_frame.select("id", pl.col(self.title).cast(pl.String).alias("title"))
        found = pl.DataFrame({"id": ids}).join(named, on="id", how="left", maintain_order="left")
        return [t if t is not None else str(i) for i, t in found.iter_rows()]
