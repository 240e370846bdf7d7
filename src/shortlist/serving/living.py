"""What do the changes of items make of a bundle? The same in every process, and after every start.

They are always made to the bundle as it was read: what came before, in which order and where does
not matter. A change that does not fit the bundle, as its item is not there any more or its column
is learned from, is left out and told, and all others are made.
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
from shortlist.data.dataset import TrainingData
from shortlist.data.item_updates import new_values, with_values
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
    """What is in effect of one item."""

    added: ItemValue | None = None
    removed: ItemValue | None = None
    window: ItemValue | None = None
    columns: dict[str, ItemValue] = field(default_factory=dict)

    def later(self) -> "Wanted":
        """Without what came before the row of the item was given anew."""
        if self.added is None:
            return self
        since = self.added.number
        newer = self.removed if self.removed is not None and self.removed.number > since else None
        columns = {name: v for name, v in self.columns.items() if v.number > since}
        return Wanted(self.added, newer, self.window, columns)


class _Hidden(NamedTuple):
    """Items that are answered in a window only, or never."""

    rows: list[int]
    windows: list[tuple[float, float]]


def with_changes(served: Served, changes: InEffect, learned: int = 0) -> Served:
    """Return the bundle as it was read with all changes after number `learned` in effect."""
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
    """Return what is in effect of each item."""
    found: dict[Id, Wanted] = {}
    for value in values:
        one = found.setdefault(value.item, Wanted())
        if value.part.startswith(COLUMN):
            one.columns[value.part.removeprefix(COLUMN)] = value
        else:
            setattr(one, value.part, value)
    return {item: one.later() for item, one in found.items()}


def _as_columns(wanted: Wanted) -> dict[str, ItemValue]:
    """What the row of an item that came says, as if each column had been changed."""
    assert wanted.added is not None
    row = wanted.added.value.items()
    return {name: wanted.added._replace(value=value) for name, value in row} | wanted.columns


class _Making:
    """A retriever that is changed step by step, and what had to be left out."""

    def __init__(self, retriever: Channel) -> None:
        self.retriever: Any = retriever
        self.left_out: list[LeftOut] = []
        self.hidden = _Hidden([], [])

    @property
    def data(self) -> TrainingData:
        """The data as they are now."""
        data: TrainingData = self.retriever.data
        return data

    def _rows(self, items: Iterable[Id]) -> dict[Id, int]:
        """The row of each item; 0 for an unknown one."""
        ids: Any = list(items)
        return dict(zip(ids, self.data.items.rows(ids).tolist(), strict=True))

    def leave_out(self, value: ItemValue | None, error: ShortlistError) -> None:
        """Note that a value does not fit."""
        if value is not None:
            self.left_out.append(LeftOut(value.number, value.item, error))

    def _leave_out_all(self, wanted: Wanted, error: ShortlistError) -> None:
        """Note that an item does not fit, once for each change that says something of it."""
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
        """Place the items that came; the columns that changed since are those of their rows."""
        coming = {item: one for item, one in wanted.items() if one.added is not None}
        rows = self._rows(coming)
        # One that the bundle was trained on has come, and what its table says of it holds.
        trained = {item for item, row in rows.items() if 0 < row <= self.data.items.trained}
        for item in trained - self._listed(trained):
            coming[item].columns = _as_columns(coming[item])
        placed = [item for item in coming if item not in trained]
        if not isinstance(self.retriever, ChangesItems):
            for item in placed:
                self.leave_out(coming[item].added, ModelError("this bundle places no new items"))
            return
        table = {item: self._row(item, coming[item]) for item in placed}

        def place(part: Sequence[Id]) -> Any:
            return self.retriever.change_items(add=[table[item] for item in part])

        fits, refused = _sound(placed, place)
        again = {item: error for item, error in refused if coming[item].columns}
        for item, error in again.items():  # is it for what has changed since?
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
        """Those that have a row in the table of items."""
        frame = self.data.item_frame
        if frame is None:
            return set()
        ids = pl.Series(list(items), dtype=frame["id"].dtype)
        return set(ids.filter(ids.is_in(frame["id"].implode())))

    def _row(self, item: Id, wanted: Wanted) -> dict[str, Any]:
        """The row of an item that came, without columns that are no longer there."""
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
        """Leave out what is said of items that are not there."""
        for item, row in self._rows(wanted).items():
            if row == 0:
                one = wanted.pop(item)
                # Of one that could not come the reason is told already.
                if one.added is None:
                    self._leave_out_all(one, DataError(f"item {item!r:.40} is unknown"))

    def remove(self, wanted: Mapping[Id, Wanted]) -> None:
        """Take items out of the candidates, or back; where that cannot be, hide them."""
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
            except ModelError:  # its index cannot: that of Milvus, say
                pass
        for item in gone:
            self._hide(rows[item], NEVER)
        for item in back:
            self.leave_out(said[item], ModelError("this bundle takes no items back"))

    def columns(self, wanted: Mapping[Id, Wanted]) -> None:
        """Change columns that nothing was learned from."""
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
        """Leave out all values of a column that something was learned from."""
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
        """Note when items are available."""
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
        """What has to be asked at every answer; None where nothing has."""
        if not self.hidden.rows:
            return None
        rows = np.array(self.hidden.rows, dtype=np.int64)
        windows = np.array(self.hidden.windows, dtype=np.float64)
        return Availability(len(self.data.items), rows, windows[:, 0], windows[:, 1])


def _sound(
    given: Sequence[Given], attempt: Callable[[Sequence[Given]], object]
) -> tuple[list[Given], list[tuple[Given, ShortlistError]]]:
    """Return those for which the attempt succeeds, and the others with the reason of each.

    All are tried at once, and halves of them only where that fails.
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
