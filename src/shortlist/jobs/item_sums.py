"""What do the events of each item count together? Popularity and inverted lists, on whole items."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from shortlist.data.dataset import Fit
from shortlist.data.interactions import Interactions
from shortlist.data.kinds import Kinds
from shortlist.durations import TimeUnit
from shortlist.jobs.counts import fitted_rows
from shortlist.jobs.engine import Engine, Frame
from shortlist.linear.posterior import weights_of_events


@dataclass(frozen=True)
class Summing:
    """What the steps must know: rows that are fitted on, kinds of events, and what ages count.

    half_life: None where all ages count alike; unit: of the times; newest: the time that ages are
    told from. segments: a Parquet file of `id` and `segment` of users, None for one sum an item.
    """

    fit: Fit
    kinds: Kinds | None
    half_life: float | str | None
    unit: TimeUnit | None
    newest: float | None = None
    segments: Path | None = None


def sums_of_items(
    engine: Engine, log: Frame, types: tuple[pa.DataType, pa.DataType, pa.DataType], asked: Summing
) -> pl.DataFrame:
    """Return what the targets of each item count: item, segment (null: of all users), sum.

    log: a prepared log. types: of its users, items and times. Each sum is made on one part, in the
    order of the log; sums of segments are there for those that users have.
    """
    user, item, time = types
    if asked.half_life is not None:
        newest = engine.collected(
            engine.each(log, partial(newest_of, asked=asked), pa.schema([("time", time)]))
        )
        asked = replace(asked, newest=max(newest["time"].to_pylist(), default=None))
    events = pa.schema(
        {"item": item, "user": user, "place": pa.int32(), "segment": pa.string()}
        | {"weight": pa.float64()}
    )
    weighed = engine.each(log, partial(weigh_events, asked=asked), events)
    summed = pa.schema({"item": item, "segment": pa.string(), "sum": pa.float64()})
    return pl.DataFrame(
        pl.from_arrow(engine.collected(engine.whole(weighed, "item", add_events, summed)))
    )


def newest_of(table: pa.Table, *, asked: Summing) -> pa.Table:
    """Step: the time of the newest target among whole users; no row where there is none."""
    frame = _targets(table, asked)
    return pa.table({"time": np.sort(frame["time"].to_numpy())[::-1][:1]})


def weigh_events(table: pa.Table, *, asked: Summing) -> pa.Table:
    """Step: what each target of whole users counts; added up by item where all count 1."""
    frame = _targets(table, asked)
    count = len(frame)
    log = Interactions(
        *(np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32), 1),
        time=None if asked.half_life is None else frame["time"].to_numpy(),
        kind=None if asked.kinds is None else frame["kind"].to_numpy(),
        kinds=asked.kinds,
    )
    weight = weights_of_events(log, asked.half_life, asked.unit, asked.newest)
    segment = pl.Series([None], dtype=pl.String).new_from_index(0, count)
    if asked.segments is not None:
        segment = frame.join(_segments(asked.segments), "user", "left", maintain_order="left")[
            "segment"
        ]
    found = frame.select("item", "user", "place").with_columns(
        segment=segment, weight=pl.Series(weight)
    )
    if asked.half_life is None and log.worth is None:  # whole numbers: any order is the same
        firsts = pl.col("user", "place").first()
        found = found.group_by("item", "segment").agg(firsts, pl.col("weight").sum())
    return found.select("item", "user", "place", "segment", "weight").to_arrow()


def add_events(table: pa.Table) -> pa.Table:
    """Step: the sums of whole items, in the order of users and places: of all, and by segment."""
    frame = pl.DataFrame(pl.from_arrow(table)).sort("user", "place")
    sums = [_summed(frame.with_columns(segment=pl.lit(None, pl.String)))]
    if (known := frame.filter(pl.col("segment").is_not_null())).height:
        sums.append(_summed(known))
    return pl.concat(sums).to_arrow()


def _summed(frame: pl.DataFrame) -> pl.DataFrame:
    keys = frame.select("item", "segment")
    groups = keys.unique(maintain_order=True).with_row_index("group")
    joined = keys.join(groups, ["item", "segment"], "left", nulls_equal=True, maintain_order="left")
    sums = np.bincount(joined["group"].to_numpy(), frame["weight"].to_numpy(), len(groups))
    return groups.select("item", "segment").with_columns(sum=pl.Series(sums.astype(np.float64)))


def _targets(table: pa.Table, asked: Summing) -> pl.DataFrame:
    """The positives among the rows that are fitted on, by user and place."""
    frame = fitted_rows(table, asked.fit)
    aimed = None if asked.kinds is None else asked.kinds.target(frame["kind"].to_numpy())
    return frame if aimed is None else frame.filter(pl.Series(aimed))


@lru_cache(maxsize=2)
def _segments(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path).rename({"id": "user"})
