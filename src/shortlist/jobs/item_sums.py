"""What is the sum of the weights of each item's events? Used by popularity and inverted lists."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from shortlist.data.interactions import Interactions
from shortlist.data.kinds import Kinds
from shortlist.data.training_data import Fit
from shortlist.durations import TimeUnit
from shortlist.jobs.counts import fitted_rows
from shortlist.jobs.engine import Engine, Frame
from shortlist.linear.posterior import weights_of_events


@dataclass(frozen=True)
class Summing:
    """Parameters of the steps.

    fit: which rows are summed.
    kinds: the kinds of events, or None.
    half_life: half-life of an event's weight, or None for no decay.
    unit: unit of the log's times.
    newest: the time that ages are measured from.
    segments: Parquet file with columns id and segment of users; None for sums over all users only.
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
    """Return the sum of the weights of each item's targets: columns item, segment, sum.

    Rows with a null segment are sums over all users. Each sum is computed within one part, in the
    order of the log, so that its rounding does not depend on the parts.

    log: a prepared log.
    types: types of its users, items and times.
    asked: parameters of the steps.
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
    """Step: return the time of the newest target of a part, or no row without targets."""
    frame = _targets(table, asked)
    return pa.table({"time": np.sort(frame["time"].to_numpy())[::-1][:1]})


def weigh_events(table: pa.Table, *, asked: Summing) -> pa.Table:
    """Step: return the weight of each target; summed by item already if all weights are 1."""
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
    if asked.half_life is None and log.worth is None:  # Whole numbers: any order is exact.
        firsts = pl.col("user", "place").first()
        found = found.group_by("item", "segment").agg(firsts, pl.col("weight").sum())
    return found.select("item", "user", "place", "segment", "weight").to_arrow()


def add_events(table: pa.Table) -> pa.Table:
    """Step: sum the weights of whole items, in total and by segment.

    Weights are added in the order of users and places.
    """
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
    """Return the targets among the fitted rows, ordered by user and place."""
    frame = fitted_rows(table, asked.fit)
    aimed = None if asked.kinds is None else asked.kinds.target(frame["kind"].to_numpy())
    return frame if aimed is None else frame.filter(pl.Series(aimed))


@lru_cache(maxsize=2)
def _segments(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path).rename({"id": "user"})
