"""Logs of negatives: items that were shown and not clicked, or recalled and dropped later."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.data.id_columns import align_ids
from shortlist.data.interactions import BEFORE, Cut, Interactions
from shortlist.data.ragged import Ragged
from shortlist.data.readers import is_text, read_roles
from shortlist.data.schema import Schema
from shortlist.data.tables import Source
from shortlist.data.times import refuse_far
from shortlist.durations import TimeUnit
from shortlist.errors import DataError


@dataclass(frozen=True)
class Shown:
    """n rows of items that a user was shown, or that a later stage dropped.

    name: "impressions" or "dropped".
    where: the file it came from.
    user, item: [n] int32, codes of the log they belong to.
    time: [n], in the unit of that log.
    clicked: [n] bool; None for dropped items, which have no clicks.
    unknown: number of rows left out because their user or item is in no other table.
    """

    name: str
    where: str
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[Any]
    clicked: NDArray[np.bool_] | None
    unknown: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.user)

    def line(self) -> str:
        """Return a sentence about what was read and what was left out."""
        text = f"{self.where}: {len(self) + self.unknown:,} rows read, {len(self):,} kept."
        if self.unknown:
            text += f" {self.unknown:,} left out, as their user or item is in no other table."
        return text

    def rows(self, kept: NDArray[np.bool_]) -> "Shown":
        """Return the rows where `kept` [n] is true."""
        return replace(
            self,
            user=self.user[kept],
            item=self.item[kept],
            time=self.time[kept],
            clicked=None if self.clicked is None else self.clicked[kept],
        )

    def negatives(self, log: Interactions, cut: Cut, *, one_moment: bool) -> "LoggedPairs":
        """Return the distinct pairs that lie before a cut and were not clicked before it.

        A row counts if it is no later than the last training event and earlier than the first
        held-out event, both of its user, or of all users if the log was cut at `one_moment`. So a
        held-out click leaves no trace: neither as a row, nor by its absence from the negatives. If
        nothing is held out, every row counts.
        """
        known = self._known_at(log, cut, one_moment)
        width = int(self.item.max(initial=0)) + 1
        pairs = self.user.astype(np.int64) * width + self.item
        clicked = np.zeros(len(self), dtype=np.bool_) if self.clicked is None else self.clicked
        found = np.setdiff1d(pairs[known], pairs[known & clicked])
        return LoggedPairs(self.name, found // width, found % width, len(self), int(known.sum()))

    def counts(
        self, log: Interactions, cut: Cut, item_rows: NDArray[np.int32], *, one_moment: bool
    ) -> "Shows | None":
        """Return how often each item was shown and clicked before a cut; None without clicks.

        The same rows count as for `negatives`, so that held-out events leave no trace here either.

        item_rows: the row of each code.
        """
        if self.clicked is None:
            return None
        known = self._known_at(log, cut, one_moment)
        rows, size = item_rows[self.item[known]], len(item_rows) + 1
        clicks = np.bincount(rows[self.clicked[known]], minlength=size)
        return Shows(np.bincount(rows, minlength=size).astype(np.int64), clicks.astype(np.int64))

    def _known_at(self, log: Interactions, cut: Cut, one_moment: bool) -> NDArray[np.bool_]:
        if log.role is None or log.time is None:
            raise DataError(
                f"{self.where}: needs a log with times and a split, to know which rows are past"
            )
        held_out = log.role >= BEFORE[cut]
        if not held_out.any():
            return np.ones(len(self), dtype=np.bool_)
        whose = np.zeros_like(log.user) if one_moment else log.user
        mine = np.zeros_like(self.user) if one_moment else self.user
        low, high = _limits(log.time)
        last = np.full(log.users, low, dtype=log.time.dtype)
        np.maximum.at(last, whose[~held_out], log.time[~held_out])
        first = np.full(log.users, high, dtype=log.time.dtype)
        np.minimum.at(first, whose[held_out], log.time[held_out])
        return (self.time <= last[mine]) & (self.time < first[mine])


@dataclass(frozen=True)
class Shows:
    """How often each item row was shown and clicked before the cut: [items + 1] int64 each."""

    shown: NDArray[np.int64]
    clicked: NDArray[np.int64]


@dataclass(frozen=True)
class LoggedPairs:
    """Distinct (user, item) pairs of logged negatives.

    name: the name of their log.
    user, item: [p], codes.
    rows: number of rows of that log.
    rows_before: number of those rows that lie before the cut.
    """

    name: str
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rows: int
    rows_before: int

    def note(self) -> str:
        """Return a sentence about how much of the log lies before the cut."""
        return (
            f"{self.name}: {self.rows_before:,} of {self.rows:,} rows lie before the cut; pairs of "
            f"user and item they give as negatives: {len(self.user):,}"
        )

    def lists(
        self, user_rows: NDArray[np.int32], item_rows: NDArray[np.int32], users: int
    ) -> Ragged:
        """Return the item rows of each user row 0..users, ascending.

        user_rows, item_rows: the row of each code.
        """
        user, item = user_rows[self.user].astype(np.int64), item_rows[self.item].astype(np.int64)
        order = np.lexsort((item, user))
        counts = np.bincount(user, minlength=users + 1)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Ragged(torch.from_numpy(item[order]), torch.from_numpy(offsets))


def read_shown(
    source: Source,
    name: str,
    schema: Schema,
    *,
    users: pl.Series,
    items: pl.Series,
    unit: TimeUnit | None,
    times: NDArray[Any],
    click: str | None = None,
) -> Shown:
    """Read a log of shown or dropped items. Its columns are named like those of the main log.

    name: what errors call a frame.
    users, items: the sorted ids whose positions are the codes.
    unit, times: of the main log.
    click: the column that is above 0 for a click; None for dropped items.

    Errors: DataError for a log without times, since nobody could tell which of its rows came before
    the held-out events.
    """
    roles = roles_of(name, schema, click)
    frame, own_unit, where = read_roles(source, roles, name, schema, unit or "auto")
    if own_unit != unit:
        raise DataError(
            f"{where}: column '{schema.time}': its times are in units of {own_unit}, those of the "
            f"interactions in {unit}; give both the same type"
        )
    refuse_far(where, roles["time"], frame["time"], times, own_unit)
    user = _codes(frame["user"], users, source, where)
    item = _codes(frame["item"], items, source, where)
    known = (user >= 0) & (item >= 0)
    return Shown(
        name,
        where,
        user[known],
        item[known],
        frame["time"].to_numpy()[known],
        None if click is None else (frame["weight"].to_numpy() > 0)[known],
        int((~known).sum()),
    )


def roles_of(name: str, schema: Schema, click: str | None) -> dict[str, str]:
    """Return role -> column of a log of shown or dropped items. Errors: DataError, as there."""
    if schema.time is None:
        raise DataError(
            f"{name}: without a time nobody can tell which of its rows came before the events "
            "that are held out, and using later ones leaks them; name the time column (data.time)"
        )
    roles = {"user": schema.user, "item": schema.item, "time": schema.time}
    if click is not None:
        roles["weight"] = click
    if len(set(roles.values())) < len(roles):
        raise DataError(f"{name}: the click column '{click}' has another role, too")
    return roles


def _codes(column: pl.Series, ids: pl.Series, source: Source, where: str) -> NDArray[np.int32]:
    """Return the position of each id among the sorted `ids`; -1 for an id that is not there."""
    _, wanted = align_ids(ids, column, left_text=False, right_text=is_text(source), where=where)
    place = np.asarray(ids.search_sorted(wanted), dtype=np.int64)
    place[place == len(ids)] = 0
    found = (ids.gather(place) == wanted).to_numpy()
    return np.where(found, place, -1).astype(np.int32)


def _limits(times: NDArray[Any]) -> tuple[Any, Any]:
    """Return the lowest and the highest value of a time column's type."""
    if times.dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(times.dtype).min, np.iinfo(times.dtype).max


def every_shown(
    impressions: Any,
    dropped: Any,
    schema: Schema,
    users: pl.Series,
    items: pl.Series,
    log: Interactions,
    unit: TimeUnit | None,
) -> dict[str, Shown]:
    """Read the given logs of negatives; the keys are the names of hard negatives in a recipe.

    impressions, dropped: the sources; None for one that is not given.
    users, items: the sorted ids whose positions are the codes of `log`.
    unit: unit of the times of `log`.
    """
    if (impressions is None) != (schema.click is None):
        raise DataError(
            "impressions and the column that says what was clicked (data.click, Schema.click) "
            "need each other: give both"
        )
    sources = {"exposed": (impressions, "impressions"), "dropped": (dropped, "dropped")}
    return {
        use: read_shown(
            source,
            name,
            schema,
            users=users,
            items=items,
            times=log.time if log.time is not None else np.zeros(0),
            unit=unit,
            click=schema.click if use == "exposed" else None,
        )
        for use, (source, name) in sources.items()
        if source is not None
    }
