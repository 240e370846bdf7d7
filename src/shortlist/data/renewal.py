"""Data for a model that continues training: new events, new row numbers, the newest held out."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.features import grown_table
from shortlist.data.impressions import Shows
from shortlist.data.interactions import BEFORE, Interactions, Role
from shortlist.data.log_features import Side
from shortlist.data.remembered import Remembered
from shortlist.data.training_data import FIT_BEFORE, TrainingData
from shortlist.data.updates import Update, features_of, grown
from shortlist.data.vocabulary import Ids, Vocabulary, hash_ids, mix
from shortlist.durations import in_units
from shortlist.errors import DataError, ModelError

Mask = NDArray[np.bool_]


class Renewed(NamedTuple):
    """Data with new events, and masks over its events, bool [n] each.

    data: held-out events have the role TEST, all others TRAIN.
    fresh: events that are new.
    unlearned: events that the old model has not learned, including the held-out ones.
    fresh_met: events of `data.met` that are new.
    gone: number of events dropped because they are older than the window.
    admit, described: as for `renewed`.
    """

    data: TrainingData
    fresh: Mask
    unlearned: Mask
    fresh_met: Mask
    gone: int = 0
    admit: int = 1
    described: tuple[Side, ...] = ()

    @property
    def held_out(self) -> Mask:
        """Which events are held out, bool [n]."""
        role = self.data.log.role
        assert role is not None
        mask: Mask = role == Role.TEST
        return mask

    def whole(self) -> "Renewed":
        """Return the same data to be trained on completely, held-out events included."""
        order, order_met, data = _renumbered(
            replace(self.data, fit="all"), self.admit, self.described
        )
        masks = self.fresh[order], self.unlearned[order], self.fresh_met[order_met]
        return Renewed(data, *masks, self.gone, self.admit, self.described)


def without_users(data: TrainingData, users: Ids) -> TrainingData:
    """Return the data without the events and the table rows of these users."""
    rows = data.users.rows(users)
    rows = rows[rows > 0]
    if not len(rows):
        return data
    gone = data.users.external(rows)

    def kept(log: Interactions) -> Interactions:
        return log.keep(~np.isin(log.user, rows))

    frame = data.user_frame
    return replace(
        data,
        log=kept(data.log),
        met=None if data.met is None else kept(data.met),
        user_frame=None if frame is None else frame.filter(~pl.col("id").is_in(gone.implode())),
    )


def with_table(data: TrainingData, side: Side, table: pl.DataFrame) -> TrainingData:
    """Return the data with newer rows of a side's table; other rows stay.

    The data must have this table. Errors: DataError for a missing column or another type.

    table: the new rows, with a column `id`.
    """
    own: pl.DataFrame | None = getattr(data, f"{side}_frame")
    assert own is not None
    if missing := [name for name in own.columns if name not in table.columns]:
        raise DataError(f"the table of {side}s lacks the column '{missing[0]}' of the bundle's")
    try:
        newer = table.select(own.columns).cast(own.schema)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the table of {side}s does not fit the bundle's, whose columns are {own.schema}: "
            f"{error!s:.200}"
        ) from error
    frame = pl.concat([own.join(newer, on="id", how="anti"), newer])
    ids, _ = grown(getattr(data, f"{side}s"), newer["id"])
    features = features_of(getattr(data, f"{side}_features"), frame, ids)
    changed: dict[str, Any] = {
        f"{side}s": ids,
        f"{side}_frame": frame,
        f"{side}_features": features,
        "remembered": Remembered(),
    }
    return replace(data, **changed)


def renewed(
    before: TrainingData,
    came: Update,
    *,
    admit: int = 1,
    window: float | str | None = None,
    held_out: float | None = 0.0,
    described: Collection[Side] = (),
) -> Renewed:
    """Number users and items again, and hold out the newest of the new events.

    before: the data that the old model was fitted on. Rows it held out are trained on now.
    came: the data with the new events.
    admit: the number of training events from which an item is trained. With fewer it has a row, but
        no embedding.
    window: events older than this, counted back from the newest, are dropped; so are users and
        items that then have no event and no table row. Needs times.
    held_out: the share of the new targets to hold out: the newest ones, or in a log without order
        those with the highest hash. None keeps the split.
    described: the sides whose features are columns of the log.

    Errors: DataError for a window without times; ModelError if nothing is left to learn.
    """
    data, log = came.data, came.data.log
    assert log.role is not None
    unlearned = came.fresh | (log.role >= BEFORE[FIT_BEFORE[before.fit]])
    roles = log.role
    if held_out is not None:
        roles = np.where(_held_out(data, came.fresh, held_out), Role.TEST, Role.TRAIN)
    log = replace(log, role=roles.astype(np.int8))
    met, fresh_met = data.met, came.fresh_met
    if met is not None and held_out is not None:
        met = replace(met, role=_beside(met, fresh_met, log))
    kept, kept_met = np.ones(len(log), dtype=np.bool_), np.ones(len(fresh_met), dtype=np.bool_)
    if window is not None:
        oldest = _oldest(data, window)
        assert log.time is not None
        kept = log.time >= oldest
        kept_met = kept_met if met is None or met.time is None else met.time >= oldest
    if not (kept & (roles == Role.TRAIN)).any():
        raise ModelError("no event would be left to learn from: take a longer window")
    data = replace(
        data,
        log=log.keep(kept),
        met=None if met is None else met.keep(kept_met),
        remembered=Remembered(),
    )
    if held_out is not None:
        data = replace(
            data,
            fit="train" if before.fit == "all" else before.fit,
            kind="global-time" if data.ordered else "random",
            notes=_notes(data.ordered, int((roles == Role.TEST).sum()), int(came.fresh.sum())),
        )
    order, order_met, data = _renumbered(data, admit, described)
    return Renewed(
        data,
        came.fresh[kept][order],
        unlearned[kept][order],
        fresh_met[kept_met][order_met],
        int((~kept).sum()),
        admit,
        tuple(described),
    )


def _notes(ordered: bool, held_out: int, fresh: int) -> tuple[str, ...]:
    """Return remarks for readers of the figures."""
    how = "the newest" if ordered else "drawn by a hash"
    said = f"a refresh held out {held_out:,} of {fresh:,} new events, {how}, and learned the others"
    return (said,) if ordered else (said, "no time column: histories are unordered sets")


def _held_out(data: TrainingData, fresh: Mask, share: float) -> Mask:
    """Return which new events are held out: the newest targets, and other new events since then.

    With two targets or more, at least one is held out and one is not. share: of the targets.
    """
    log, none = data.log, np.zeros(len(fresh), dtype=np.bool_)
    asked = np.flatnonzero(fresh if log.target is None else fresh & log.target)
    if share <= 0 or len(asked) < 2:
        return none
    with np.errstate(over="ignore"):
        users, items = hash_ids(data.users.ids), hash_ids(data.items.ids, 1)
        keys = mix(users[log.user[asked] - 1] * np.uint64(3) + items[log.item[asked] - 1])
    time = np.zeros(len(asked)) if log.time is None else log.time[asked]
    order = asked[np.lexsort((keys, time))]
    count = min(max(1, round(share * len(order))), len(order) - 1)
    held = none.copy()
    held[order[-count:]] = True
    if log.target is not None and log.time is not None:
        held |= fresh & ~log.target & (log.time >= log.time[order[-count]])
    return held


def _beside(met: Interactions, fresh: Mask, log: Interactions) -> NDArray[np.int8]:
    """Return the roles of `met`: new events from the first held-out event on are not yet known."""
    roles = np.zeros(len(met), dtype=np.int8)
    assert log.role is not None
    held = log.role == Role.TEST
    if met.time is not None and log.time is not None and held.any():
        roles[fresh & (met.time >= log.time[held].min())] = Role.TEST
    return roles


def _oldest(data: TrainingData, window: float | str) -> Any:
    """Return the time of the oldest event that stays."""
    if data.log.time is None:
        raise DataError("a window needs the times of events, and the log has none: leave it out")
    return data.log.time.max() - in_units(window, data.time_unit, "the window")


def _renumbered(
    data: TrainingData, admit: int, described: Collection[Side]
) -> tuple[NDArray[np.int64], NDArray[np.int64], TrainingData]:
    """Give rows anew: trained ids first, sorted, then other known ids; ids without data get none.

    Returns the new order of the events of the log and of `met`, and the data.
    """
    trained = data.training_log
    frames = {"user": data.user_frame, "item": data.item_frame}
    vocabularies = {
        "user": _vocabulary(data, data.users, trained.user, 1, frames["user"], "user" in described),
        "item": _vocabulary(
            data, data.items, trained.item, admit, frames["item"], "item" in described
        ),
    }
    users, items = vocabularies["user"], vocabularies["item"]
    user = np.concatenate([[0], users.rows(data.users.ids)]).astype(np.int32)
    item = np.concatenate([[0], items.rows(data.items.ids)]).astype(np.int32)
    order, log = _moved(data.log, user, item, len(users))
    order_met, met = np.zeros(0, dtype=np.int64), None
    if data.met is not None:
        order_met, met = _moved(data.met, user, item, len(users))
    for side, known in vocabularies.items():
        frame = frames[side]
        if frame is not None:
            frames[side] = frame.filter(pl.col("id").is_in(known.ids.implode()))
    tables = {
        side: grown_table(table, frames[side], known.ids, known.trained, admit)
        for side, table, known in (
            ("user", data.user_features, users),
            ("item", data.item_features, items),
        )
    }
    removed = {int(item[row]) for row in data.removed if item[row]}
    renumbered = replace(
        data,
        users=users,
        items=items,
        log=log,
        met=met,
        user_features=tables["user"],
        item_features=tables["item"],
        user_frame=frames["user"],
        item_frame=frames["item"],
        removed=frozenset(removed),
        shows=None if data.shows is None else _shows(data.shows, item, len(items)),
        remembered=Remembered(),
    )
    return order, order_met, renumbered


def _vocabulary(
    data: TrainingData,
    old: Vocabulary,
    trained: NDArray[np.int32],
    least: int,
    frame: pl.DataFrame | None,
    from_log: bool,
) -> Vocabulary:
    """Return the ids with an event or a row in their own table; trained ones first, sorted."""
    known = np.zeros(len(old) + 1, dtype=np.bool_)
    for log in (data.log, data.met):
        if log is not None:
            known[log.user if old.name == "user" else log.item] = True
    if frame is not None and not from_log:
        known[old.rows(frame["id"])] = True
    known[0] = False
    count = np.bincount(trained, minlength=len(old) + 1)
    rows = np.flatnonzero(known)
    rows = rows[old.external(rows).arg_sort().to_numpy()]
    learned = count[rows] >= max(least, 1)
    order = np.concatenate([rows[learned], rows[~learned]])
    return Vocabulary(old.external(order), int(learned.sum()), old.name)


def _moved(
    log: Interactions, user: NDArray[np.int32], item: NDArray[np.int32], users: int
) -> tuple[NDArray[np.int64], Interactions]:
    """Return the new order of the events, sorted by user row again, and the events in it."""
    renamed = replace(log, user=user[log.user], item=item[log.item], users=users + 1)
    order = np.argsort(renamed.user, kind="stable")
    return order, renamed.at_places(order)


def _shows(shows: Shows, item: NDArray[np.int32], items: int) -> Shows:
    """Return the counts of shown and clicked items under their new rows, [items + 1] each."""
    moved = []
    for old in (shows.shown, shows.clicked):
        new = np.zeros(items + 1, dtype=np.int64)
        new[item[: len(old)]] = old
        new[0] = 0
        moved.append(new)
    return Shows(*moved)
