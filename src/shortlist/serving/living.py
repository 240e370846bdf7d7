"""How are changes of items applied to a bundle? With the same result in every process.

All changes in effect are applied to the bundle as it was read, so the result does not depend on
earlier states. A change that does not fit the bundle is left out and reported, for example if its
item is missing or a model has learned from its column. All others are applied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from shortlist.asking.capabilities import ChangesItems, Channel
from shortlist.blending.retrievers import parts
from shortlist.data.item_updates import new_values, with_values
from shortlist.data.training_data import TrainingData
from shortlist.errors import DataError, ModelError, ShortlistError
from shortlist.histories.events import Id
from shortlist.histories.items import COLUMN, InEffect, ItemValue
from shortlist.serving.availability import Availability
from shortlist.serving.served import LeftOut, Served

ALWAYS = (-np.inf, np.inf)
NEVER = (np.inf, np.inf)

Given = TypeVar("Given")


@dataclass
class Wanted:
    """The values in effect for one item.

    added: its row, if it was added.
    removed: whether it is removed.
    window: when it is available.
    columns: changed columns by name.
    """

    added: ItemValue | None = None
    removed: ItemValue | None = None
    window: ItemValue | None = None
    columns: dict[str, ItemValue] = field(default_factory=dict)

    def later(self) -> "Wanted":
        """Return it without removals and columns from before the item was added again."""
        if self.added is None:
            return self
        since = self.added.number
        newer = self.removed if self.removed is not None and self.removed.number > since else None
        columns = {name: v for name, v in self.columns.items() if v.number > since}
        return Wanted(self.added, newer, self.window, columns)


class _Hidden(NamedTuple):
    """Items that are available in a time window only, or never."""

    rows: list[int]
    windows: list[tuple[float, float]]


def with_changes(served: Served, changes: InEffect, learned: int = 0) -> Served:
    """Apply all changes after number `learned` to the bundle as it was read."""
    base = served.as_read
    wanted = by_item(value for value in changes.values if value.number > learned)
    if not wanted:
        return replace(base, change=changes.number)
    making = _Making(base.retriever)
    wanted = making.fitting(wanted)
    making.add(wanted)
    making.known(wanted)
    making.remove(wanted)
    making.columns(wanted)
    making.windows(wanted)
    return replace(
        base,
        bundle=replace(base.bundle, retriever=making.retriever),
        base=base.bundle,
        change=changes.number,
        left_out=tuple(making.left_out),
        availability=making.availability(),
    )


def by_item(values: Iterable[ItemValue]) -> dict[Id, Wanted]:
    """Group the values in effect by item."""
    found: dict[Id, Wanted] = {}
    for value in values:
        one = found.setdefault(value.item, Wanted())
        if value.part.startswith(COLUMN):
            one.columns[value.part.removeprefix(COLUMN)] = value
        else:
            setattr(one, value.part, value)
    return {item: one.later() for item, one in found.items()}


def _as_columns(wanted: Wanted) -> dict[str, ItemValue]:
    """The row of an added item as changes of its columns, with later changes."""
    assert wanted.added is not None
    row = wanted.added.value.items()
    return {name: wanted.added._replace(value=value) for name, value in row} | wanted.columns


class _Making:
    """A retriever that is changed step by step, with the values that were left out."""

    def __init__(self, retriever: Channel) -> None:
        self.retriever: Any = retriever
        self.left_out: list[LeftOut] = []
        self.hidden = _Hidden([], [])

    @property
    def data(self) -> TrainingData:
        """The data with the changes so far."""
        data: TrainingData = self.retriever.data
        return data

    def _rows(self, items: Iterable[Id]) -> dict[Id, int]:
        """The row of each item; 0 for an unknown one."""
        ids: Any = list(items)
        return dict(zip(ids, self.data.items.rows(ids).tolist(), strict=True))

    def leave_out(self, value: ItemValue | None, error: ShortlistError) -> None:
        """Record that a value does not fit."""
        if value is not None:
            self.left_out.append(LeftOut(value.number, value.item, error))

    def _leave_out_all(self, wanted: Wanted, error: ShortlistError) -> None:
        """Record that an item does not fit, once for each change that mentions it."""
        values = (wanted.added, wanted.removed, wanted.window, *wanted.columns.values())
        by_change = {value.number: value for value in values if value is not None}
        for number in sorted(by_change):
            self.leave_out(by_change[number], error)

    def fitting(self, wanted: Mapping[Id, Wanted]) -> dict[Id, Wanted]:
        """Leave out the items whose ids are of another type than those of the data."""
        own = int if self.data.items.ids.dtype == pl.Int64 else str
        kind = "integers" if own is int else "strings"
        for item in wanted:
            if type(item) is not own:
                error = DataError(f"item ids of this data are {kind}, got {item!r:.40}")
                self._leave_out_all(wanted[item], error)
        return {item: one for item, one in wanted.items() if type(item) is own}

    def add(self, wanted: Mapping[Id, Wanted]) -> None:
        """Add new items, with later changes of their columns in their rows."""
        coming = {item: one for item, one in wanted.items() if one.added is not None}
        rows = self._rows(coming)
        # If the bundle was trained on an item, it is not added, and its table row counts.
        trained = {item for item, row in rows.items() if 0 < row <= self.data.items.trained}
        for item in trained - self._listed(trained):
            coming[item].columns = _as_columns(coming[item])
        placed = [item for item in coming if item not in trained]
        if not isinstance(self.retriever, ChangesItems):
            for item in placed:
                self.leave_out(coming[item].added, ModelError("this bundle cannot add items"))
            return
        table = {item: self._row(item, coming[item]) for item in placed}

        def place(part: Sequence[Id]) -> Any:
            return self.retriever.change_items(add=[table[item] for item in part])

        fits, refused = _sound(placed, place)
        again = {item: error for item, error in refused if coming[item].columns}
        for item, error in again.items():  # try again without the changed columns
            for value in coming[item].columns.values():
                self.leave_out(value, error)
            table[item] = self._row(item, Wanted(coming[item].added))
        more, still = _sound(list(again), place)
        for item, error in (*(one for one in refused if one[0] not in again), *still):
            self.leave_out(coming[item].added, error)
        fits += more
        if fits:
            self.retriever = place(fits)
        for item in placed:
            coming[item].columns = {}

    def _listed(self, items: Iterable[Id]) -> set[Id]:
        """The items that have a row in the items table."""
        frame = self.data.item_frame
        if frame is None:
            return set()
        ids = pl.Series(list(items), dtype=frame["id"].dtype)
        return set(ids.filter(ids.is_in(frame["id"].implode())))

    def _row(self, item: Id, wanted: Wanted) -> dict[str, Any]:
        """The row of an added item, without columns that the table no longer has."""
        frame, added = self.data.item_frame, wanted.added
        assert added is not None
        row = {name: (value, added) for name, value in added.value.items()}
        row |= {name: (value.value, value) for name, value in wanted.columns.items()}
        found = {"id": item}
        for name, (value, by) in row.items():
            if frame is not None and name not in frame.columns:
                try:
                    new_values(self.data, name, [item], [value])
                except DataError as error:
                    self.leave_out(by, error)
            else:
                found[name] = value
        return found

    def known(self, wanted: dict[Id, Wanted]) -> None:
        """Leave out changes of unknown items."""
        for item, row in self._rows(wanted).items():
            if row == 0:
                one = wanted.pop(item)
                # If it could not be added, that is recorded already.
                if one.added is None:
                    self._leave_out_all(one, DataError(f"item {item!r:.40} is unknown"))

    def remove(self, wanted: Mapping[Id, Wanted]) -> None:
        """Remove or restore candidates; if the index cannot remove them, hide them."""
        said = {item: one.removed for item, one in wanted.items() if one.removed is not None}
        rows = self._rows(said)
        candidates = set(self.retriever.candidate_rows().tolist())
        gone = [item for item, one in said.items() if one.value and rows[item] in candidates]
        removed = self.data.removed
        back = [item for item, one in said.items() if not one.value and rows[item] in removed]
        if not gone and not back:
            return
        if len(gone) == len(candidates) and not back:
            for item in gone:
                self.leave_out(said[item], DataError("no item would be left to recommend"))
            return
        changing: Any = self.retriever
        if isinstance(self.retriever, ChangesItems):
            try:
                self.retriever = changing.change_items(remove=gone, restore=back)
                return
            except ModelError:  # its index cannot remove items, for example in a server
                pass
        for item in gone:
            self._hide(rows[item], NEVER)
        for item in back:
            self.leave_out(said[item], ModelError("this bundle cannot restore items"))

    def columns(self, wanted: Mapping[Id, Wanted]) -> None:
        """Change columns that no model has learned from."""
        by_name: dict[str, list[ItemValue]] = {}
        for one in wanted.values():
            for name, value in one.columns.items():
                by_name.setdefault(name, []).append(value)
        changed = {}
        for name, values in by_name.items():
            kept = self._unlearned(name, values)
            fits, refused = _sound(kept, partial(self._values, name))
            for value, error in refused:
                self.leave_out(value, error)
            if fits:
                rows = np.array(list(self._rows(value.item for value in fits).values()))
                changed[name] = (rows, self._values(name, fits))
        if changed:
            self.retriever = copy(self.retriever)
            self.retriever.data = with_values(self.data, changed)

    def _values(self, name: str, values: Sequence[ItemValue]) -> pl.Series:
        items = [value.item for value in values]
        return new_values(self.data, name, items, [value.value for value in values])

    def _unlearned(self, name: str, values: list[ItemValue]) -> list[ItemValue]:
        """Leave out all values of a column that a model has learned from."""
        reading = [part for part, one in parts(self.retriever).items() if name in one.item_columns]
        if not reading:
            return values
        trained = self.data.items.trained
        rows = self._rows(value.item for value in values)
        for value in values:
            said = (
                f"item {value.item!r:.40} was trained on, and {reading[0]} has learned from the "
                f"column '{name}': it changes with the next training"
                if rows[value.item] <= trained
                else f"{reading[0]} reads the column '{name}', which places item "
                f"{value.item!r:.40}: give the whole item to `add`"
            )
            self.leave_out(value, DataError(said))
        return []

    def windows(self, wanted: Mapping[Id, Wanted]) -> None:
        """Record the time windows of items."""
        said = {item: one.window.value for item, one in wanted.items() if one.window is not None}
        rows = self._rows(said)
        for item, window in said.items():
            if window is not None:
                start, stop = (
                    end if limit is None else float(limit)
                    for end, limit in zip(ALWAYS, window, strict=True)
                )
                self._hide(rows[item], (start, stop))

    def _hide(self, row: int, window: tuple[float, float]) -> None:
        self.hidden.rows.append(row)
        self.hidden.windows.append(window)

    def availability(self) -> Availability | None:
        """The time windows for each answer; None without any."""
        if not self.hidden.rows:
            return None
        rows = np.array(self.hidden.rows, dtype=np.int64)
        windows = np.array(self.hidden.windows, dtype=np.float64)
        return Availability(len(self.data.items), rows, windows[:, 0], windows[:, 1])


def _sound(
    given: Sequence[Given], attempt: Callable[[Sequence[Given]], object]
) -> tuple[list[Given], list[tuple[Given, ShortlistError]]]:
    """Return the members for which the attempt succeeds, and the others with their errors.

    All are tried at once; if that fails, each half is tried.
    """
    if not given:
        return [], []
    try:
        attempt(given)
    except ShortlistError as error:
        if len(given) == 1 or isinstance(error, ModelError):
            return [], [(each, error) for each in given]
    else:
        return list(given), []
    half = len(given) // 2
    halves = [_sound(part, attempt) for part in (given[:half], given[half:])]
    return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]
