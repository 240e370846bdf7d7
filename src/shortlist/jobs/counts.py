"""How many events and users does each item have? Counted per part of users, then summed."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shortlist.compiled import compiled
from shortlist.data.interactions import BEFORE, Interactions
from shortlist.data.kinds import Kinds
from shortlist.data.training_data import FIT_BEFORE, Fit
from shortlist.data.vocabulary import encoded, places_of
from shortlist.jobs.engine import Engine, Frame


def counted_items(
    engine: Engine, log: Frame, kind: pa.DataType, fit: Fit, kinds: Kinds | None = None
) -> pl.DataFrame:
    """Return the items of the rows that `fit` names, ordered by id.

    kind: type of the item ids.
    fit: which rows are counted.
    kinds: the kinds of events, or None.
    Columns: id; row, from 1 to n as in `Split.training_data`; events and users, the numbers of
    both; targets, the number of events of a target kind.
    """
    counts = ("events", "users", "targets")
    schema = pa.schema([("id", kind), *((name, pa.int64()) for name in counts)])
    counted = engine.each(log, partial(count_items, fit=fit, kinds=kinds), schema)
    summed = engine.collected(engine.whole(counted, "id", add_up, schema))
    items = pl.DataFrame(pl.from_arrow(summed)).sort("id")
    return items.select("id", pl.int_range(1, pl.len() + 1).alias("row"), *counts)


def count_items(table: pa.Table, *, fit: Fit, kinds: Kinds | None) -> pa.Table:
    """Step: count the events, users and targets of each item in a part of whole users."""
    frame = fitted_rows(table, fit)
    ids, row = encoded(frame["item"])
    user = frame["user"].rle_id().to_numpy()
    events, users = np.zeros((2, len(ids)), dtype=np.int64)
    _count(user, row, events, users)
    aimed = None if kinds is None else kinds.target(frame["kind"].to_numpy())
    targets = events if aimed is None else np.bincount(row[aimed], minlength=len(ids))
    counts = {"id": ids, "events": events, "users": users, "targets": targets}
    return pl.DataFrame(counts).to_arrow()


@compiled
def _count(user: Any, row: Any, events: Any, users: Any) -> None:
    """Add up the events and the distinct users of each item.

    user: [n], ascending.
    row: [n], the items from 0 on.
    events: [items], receives the number of events.
    users: [items], receives the number of users.
    """
    owner = np.full(len(users), -1, dtype=np.int64)
    for at in range(len(row)):
        here, who = row[at], np.int64(user[at])
        events[here] += 1
        if owner[here] != who:
            owner[here] = who
            users[here] += 1


def add_up(table: pa.Table) -> pa.Table:
    """Step: sum the counts of each id."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.group_by("id").agg(pl.all().sum()).to_arrow()


def fitted_rows(table: pa.Table, fit: Fit) -> pl.DataFrame:
    """Return the events that `fit` names, ordered by user and place."""
    frame = pl.DataFrame(pl.from_arrow(table))
    kept = pl.col("role") < BEFORE[FIT_BEFORE[fit]]
    if "met" in frame.columns:
        kept &= ~pl.col("met")
    found = frame.filter(kept)
    return found if _is_sorted(found) else found.sort("user", "place")


def _is_sorted(frame: pl.DataFrame) -> bool:
    """Return whether rows are ordered by user and place already; checking is faster than sorting.

    Rows marked `met` have places of their own and come after the other rows of their part.
    """
    if not frame["user"].is_sorted():
        return False
    falls = (pl.col("place").diff() <= 0) & (pl.col("user") == pl.col("user").shift())
    return not frame.select(falls.any()).item()


def interactions_of(frame: pl.DataFrame, items: Path, kinds: Kinds | None) -> Interactions:
    """Return the rows of `fitted_rows` as a log, with users numbered 0 to n - 1 in their order.

    items: a file with the result of `counted_items`, which numbers the items.
    kinds: the kinds of events, or None.
    """
    user = frame["user"].rle_id().to_numpy().astype(np.int32)
    given: dict[str, Any] = {
        name: frame[name].to_numpy(writable=name == "kind")  # Tensors share its memory.
        for name in ("time", "kind")
        if name in frame.columns
    }
    if "weight" in frame.columns:
        given["weight"] = frame["weight"].to_numpy().astype(np.float32)
    rows = item_rows(items, frame["item"])
    users = int(user.max(initial=-1)) + 1
    return Interactions(user, rows, users, kinds=kinds, part=True, **given)


def item_rows(path: Path, ids: pl.Series) -> NDArray[np.int32]:
    """Return the row of each id, int32 [n], from a file with the result of `counted_items`."""
    known = pl.read_parquet(path, columns=["id"])["id"]
    return places_of(known, ids) + np.int32(1)
