"""Which items are nearest to each item? ItemCF, computed in blocks of items.

A block gets the lists of all users who met one of its items.
"""

import heapq
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shortlist.channels.counting.item_cf import ItemCFOptions
from shortlist.channels.counting.similarities import (
    Weighed,
    found_neighbours,
    lengths_of,
    sides,
    sums_of_items,
    sums_values,
    weighed,
)
from shortlist.compiled import compiled
from shortlist.data.interactions import only_zeros
from shortlist.data.kinds import Kinds
from shortlist.data.training_data import Fit
from shortlist.data.vocabulary import hash_ids
from shortlist.durations import TimeUnit
from shortlist.errors import JobError
from shortlist.jobs.counts import fitted_rows, interactions_of
from shortlist.jobs.engine import Engine, Frame, blocks_of, offsets_of
from shortlist.linear.neighbours import Neighbours, Pairs

HEAD = 20
"""Heaviest items per block that are assigned one by one to the block with the least work."""

MOST_WORK = 2**32
"""Sum of the lengths of the lists of one item's users from which the item is refused."""

NEIGHBOURS = pa.schema(
    [("row", pa.int32()), ("rank", pa.int32()), ("near", pa.int32()), ("score", pa.float32())]
)


@dataclass(frozen=True)
class Parameters:
    """Parameters of the steps.

    options: options of item-cf.
    fit: which rows are fitted on.
    unit: unit of the log's times, or None.
    items: Parquet file of the fitted items (`counts.counted_items`). For later steps it has the
    column length, or the columns left, right and block.
    trained: number of fitted items.
    kinds: the kinds of events, or None.
    """

    options: ItemCFOptions
    fit: Fit
    unit: TimeUnit | None
    items: Path
    trained: int
    kinds: Kinds | None = None


def item_cf(engine: Engine, log: Frame, kind: pa.DataType, asked: Parameters, blocks: int) -> Frame:
    """Return the neighbours of all items, in parts, with the schema NEIGHBOURS.

    log: a prepared log.
    kind: type of its user ids.
    asked: parameters of the steps.
    blocks: number of blocks of items.
    Errors: JobError for an item that is too heavy for one block.
    """
    options = asked.options
    if options.item_weighting == "bm25":
        plain_values = replace(asked, options=options.model_copy(update={"item_weighting": "none"}))
        pairs = engine.each(log, *_pairs(plain_values, kind))
        lengths = _sums(engine, pairs, asked, by="length")
        asked = _extended(asked, length=lengths)
    pairs = engine.kept(engine.each(log, *_pairs(asked, kind)))
    users, work = _counts(engine, pairs, asked.trained)
    if options.values == "explicit" and not users.any():
        raise only_zeros("values = 'explicit'")
    _refuse_heavy(asked, work)
    weighs = sums_values(options) or (options.similarity == "cosine" and _has_worth(asked))
    left, right = sides(options, _sums(engine, pairs, asked, by="norm") if weighs else users)
    if _has_targets(asked.kinds):
        right = sides(options, _sums(engine, pairs, asked, by="norm", aimed=True))[1]
    asked = _extended(asked, left=left, right=right, block=np.append(-1, dealt(work[1:], blocks)))
    names = [name for name in _kept(asked) if name != "weight"]
    columns = {name: pa.list_(pa.float64()) for name in names}
    columns |= {"target": pa.list_(pa.bool_())} if _has_targets(asked.kinds) else {}
    weight = {"weight": pa.float64()} if "weight" in _kept(asked) else {}
    schema = pa.schema(
        {"block": pa.int64(), "user": kind, "rows": pa.list_(pa.int32()), **columns, **weight}
    )
    lists = engine.each(pairs, partial(lists_of, asked=asked), schema)
    return engine.whole(lists, "block", partial(near, asked=asked), NEIGHBOURS, dense=True)


def neighbours_in(table: pa.Table, items: int) -> Neighbours:
    """Return the result of `item_cf` as `Neighbours`. items: number of fitted items."""
    frame = pl.DataFrame(pl.from_arrow(table)).sort("row", "rank")
    counts = np.bincount(frame["row"].to_numpy(), minlength=items + 1)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ids, scores = (frame[name].to_numpy(writable=True) for name in ("near", "score"))
    return Neighbours(start, ids, scores)


def pairs_of(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return the distinct (user, item) pairs of whole users, in order, with their weights."""
    frame = fitted_rows(table, asked.fit)
    log = interactions_of(frame, asked.items, asked.kinds)
    lengths = _column(asked.items, "length") if asked.options.item_weighting == "bm25" else None
    found = weighed(asked.options, log, asked.trained, lengths)
    columns = {
        "user": frame["user"].gather(found.pairs.event),
        "row": found.pairs.item.astype(np.int32),
        "value": found.value,
        "time": found.time,
        "weight": None if found.user_weight is None else found.user_weight[found.pairs.user],
        "target": None,
    }
    if _has_targets(asked.kinds):
        target = found.pairs.target
        columns["target"] = np.ones(len(found.pairs.item), bool) if target is None else target
    made = pl.DataFrame({name: column for name, column in columns.items() if column is not None})
    return made.to_arrow()


def count_pairs(table: pa.Table) -> pa.Table:
    """Step: return for each item its number of users and the sum of their lists' lengths."""
    frame = pl.DataFrame(pl.from_arrow(table))
    row, owner = frame["row"].to_numpy(), frame["user"].rle_id().to_numpy()
    users, work = np.bincount(row), np.bincount(row, np.bincount(owner)[owner])
    rows = np.flatnonzero(users)
    found = {"row": rows, "users": users[rows], "work": work[rows].astype(np.int64)}
    return pa.table(found)  # `work` was summed in float64: whole numbers below 2^53 are exact.


def add_pairs(table: pa.Table) -> pa.Table:
    """Step: sum the counts of each row."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.group_by("row").agg(pl.col("users").sum(), pl.col("work").sum()).to_arrow()


def sum_pairs(table: pa.Table, *, options: ItemCFOptions, by: str, aimed: bool) -> pa.Table:
    """Step: return the sums for the norms of whole items, added in the order of their users.

    options: options of item-cf.
    by: "length" for the lengths of bm25, "norm" for norms.
    aimed: only sum pairs that have a target.
    """
    frame = pl.DataFrame(pl.from_arrow(table)).sort("row", "user")
    if aimed:
        frame = frame.filter("target")
    rows, code = np.unique(frame["row"].to_numpy(), return_inverse=True)
    value, weight = (
        frame[name].to_numpy() if name in frame.columns else None for name in ("value", "weight")
    )
    if by == "length":
        sums = lengths_of(code, value, len(rows) - 1)
    else:
        sums = sums_of_items(options, code, value, weight, len(rows) - 1)
    return pa.table({"row": rows, "sum": sums.astype(np.float64)})


def lists_of(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return each user's list of at least two items, once per block that it has items of."""
    frame = pl.DataFrame(pl.from_arrow(table))
    row, owner = frame["row"].to_numpy(), frame["user"].rle_id().to_numpy().astype(np.int64)
    length = np.bincount(owner) if len(owner) else np.zeros(0, np.int64)
    start = np.concatenate([[0], np.cumsum(length)])
    blocks = _column(asked.items, "block")
    width = int(blocks.max(initial=0)) + 1
    touched = np.empty((2, int(np.minimum(length, width)[length > 1].sum())), dtype=np.int64)
    who, block = touched[:, : _touched(start, row, blocks, width, *touched)]
    size = length[who]
    ends = np.concatenate([[0], np.cumsum(size)])
    place = np.repeat(start[who] - ends[:-1], size) + np.arange(ends[-1])

    def longest() -> str:
        at = int(length.argmax())
        return f"user {frame['user'][int(start[at])]!r} with {length[at]:,} items"

    offsets = offsets_of(ends, longest)
    columns = {
        "block": pa.array(block),
        "user": frame["user"].gather(start[who]).to_arrow(),
        "rows": pa.ListArray.from_arrays(offsets, pa.array(row[place])),
    }
    for name in ("value", "time", "target"):
        if name in frame.columns:
            kept = pa.array(frame[name].to_numpy()[place])
            columns[name] = pa.ListArray.from_arrays(offsets, kept)
    if "weight" in frame.columns:
        columns["weight"] = pa.array(frame["weight"].to_numpy()[start[who]])
    return pa.table(columns)


@compiled
def _touched(start: Any, row: Any, blocks: Any, width: int, who: Any, block: Any) -> int:
    """Write the distinct (user, block) pairs of users with at least two items; return their number.

    start: [users + 1], where each user's items start in `row`.
    row: [pairs], the items.
    blocks: [items + 1], the block of each item.
    width: number of blocks.
    who: receives the users; long enough for all pairs.
    block: receives the blocks; long enough for all pairs.
    """
    seen = np.full(width, -1, dtype=np.int64)
    count = 0
    for user in range(len(start) - 1):
        if start[user + 1] - start[user] < 2:
            continue
        for at in range(start[user], start[user + 1]):
            here = blocks[row[at]]
            if seen[here] != user:
                seen[here] = user
                who[count] = user
                block[count] = here
                count += 1
    return count


def near(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return the neighbours of the items of whole blocks, from all lists of each block."""
    made = [_near_in(block, asked) for block in blocks_of(table, "block")]
    return pa.concat_tables(made) if made else NEIGHBOURS.empty_table()


def _near_in(table: pa.Table, asked: Parameters) -> pa.Table:
    """Return the neighbours of the items of one block.

    Within the block, the m items of its lists are numbered 1 to m in their order.
    """
    block = table["block"][0].as_py()
    if not pl.Series(pl.from_arrow(table["user"])).is_sorted():
        table = table.sort_by("user")
    table = table.combine_chunks()
    lists = table["rows"].combine_chunks()
    start = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int64)
    row = lists.flatten().to_numpy()
    rows = np.flatnonzero(np.bincount(row, minlength=asked.trained + 1)).astype(np.int32)
    name = np.zeros(asked.trained + 1, dtype=np.uint32)
    name[rows] = np.arange(1, len(rows) + 1)
    pairs = Pairs(start, name[row], np.arange(len(row)))

    def beside(name: str) -> NDArray[Any] | None:
        if name not in table.column_names:
            return None
        column = table[name].combine_chunks()
        column = column if name == "weight" else column.flatten()
        return np.asarray(column.to_numpy(zero_copy_only=False))

    pairs = replace(pairs, target=beside("target"))

    tie_keys = np.append(0, hash_ids(_ids(asked.items).gather(rows - 1)).view(np.int64))
    users = pl.Series(pl.from_arrow(table["user"]))
    own = np.flatnonzero(_column(asked.items, "block")[rows] == block)
    left, right = (np.append(0.0, _column(asked.items, side)[rows]) for side in ("left", "right"))
    found = found_neighbours(
        asked.options,
        Weighed(pairs, beside("value"), beside("time"), beside("weight")),
        (left, right),
        tie_keys,
        hash_ids(users).view(np.int64),
        asked.unit,
        own + 1,
    )
    row, rank = np.empty((2, len(found.ids)), dtype=np.int32)
    _number(found.start, rows[own], np.append(np.int32(0), rows), found.ids, row, rank)
    return pa.table([row, rank, found.ids, found.scores], schema=NEIGHBOURS)


@compiled
def _number(start: Any, owner: Any, name: Any, near: Any, row: Any, rank: Any) -> None:
    """Write the columns of NEIGHBOURS, besides the scores.

    start: [lists + 1], where each list starts in `near`.
    owner: [lists], the item row of each list.
    name: [items + 1], the item row of each number of the block.
    near: [total], the neighbours as numbers of the block, which become item rows.
    row: [total], receives the item row of each entry's list.
    rank: [total], receives the place of each entry in its list, from 1.
    """
    for number in range(len(owner)):
        for at in range(start[number], start[number + 1]):
            row[at] = owner[number]
            rank[at] = at - start[number] + 1
            near[at] = name[near[at]]


def dealt(work: NDArray[np.int64], blocks: int) -> NDArray[np.int64]:
    """Return the block of each item, int64 [items], with about equal work per block (Graham 1969).

    The heaviest items are assigned one by one to the block with the least work, the many light ones
    in turn.

    work: [items], the work of each item.
    blocks: number of blocks.
    """
    order, block = np.argsort(-work, kind="stable"), np.zeros(len(work), dtype=np.int64)
    heap = [(0, number) for number in range(blocks)]
    head, tail = order[: HEAD * blocks], order[HEAD * blocks :]
    for item in head.tolist():
        load, number = heapq.heappop(heap)
        block[item] = number
        heapq.heappush(heap, (load + int(work[item]), number))
    turn = np.arange(len(tail)) % (2 * blocks)
    block[tail] = np.where(turn < blocks, turn, 2 * blocks - 1 - turn)
    return block


def _pairs(asked: Parameters, kind: pa.DataType) -> tuple[partial[pa.Table], pa.Schema]:
    """Return the step `pairs_of` and the schema of its result."""
    kept = {name: pa.float64() for name in _kept(asked)}
    kept |= {"target": pa.bool_()} if _has_targets(asked.kinds) else {}
    return partial(pairs_of, asked=asked), pa.schema({"user": kind, "row": pa.int32(), **kept})


def _has_targets(kinds: Kinds | None) -> bool:
    """Return whether some kinds are not targets, so that pairs need the column `target`."""
    return kinds is not None and not all(kinds.targets)


def _has_worth(asked: Parameters) -> bool:
    """Return whether the weights of the kinds of events change the similarity."""
    kinds, similarity = asked.kinds, asked.options.similarity
    return kinds is not None and set(kinds.weights) != {1.0} and similarity in ("cosine", "dot")


def _kept(asked: Parameters) -> list[str]:
    """Return the names of the columns that the pairs have besides user, row and target."""
    options, plain = asked.options, asked.options.item_weighting == "none"
    given = {
        "value": options.values == "explicit" or not plain or _has_worth(asked),
        "time": options.time_decay is not None,
        "weight": options.user_weighting != "none",
    }
    return [name for name, there in given.items() if there]


def _counts(
    engine: Engine, pairs: Frame, items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each item's number of users and the sum of their lists' lengths, [items + 1] each."""
    schema = pa.schema({"row": pa.int32(), "users": pa.int64(), "work": pa.int64()})
    counted = engine.whole(engine.each(pairs, count_pairs, schema), "row", add_pairs, schema)
    table = engine.collected(counted)
    found = np.zeros((2, items + 1), dtype=np.int64)
    for number, name in enumerate(("users", "work")):
        found[number, table["row"].to_numpy()] = table[name].to_numpy()
    return found[0], found[1]


def _sums(
    engine: Engine, pairs: Frame, asked: Parameters, by: str, *, aimed: bool = False
) -> NDArray[np.float64]:
    """Return the sums of `sum_pairs` for all items, [items + 1]."""
    schema = pa.schema({"row": pa.int32(), "sum": pa.float64()})
    step = partial(sum_pairs, options=asked.options, by=by, aimed=aimed)
    table = engine.collected(engine.whole(pairs, "row", step, schema))
    sums = np.zeros(asked.trained + 1)
    sums[table["row"].to_numpy()] = table["sum"].to_numpy()
    return sums


def _refuse_heavy(asked: Parameters, work: NDArray[np.int64]) -> None:
    if work.max(initial=0) >= MOST_WORK:
        item = _ids(asked.items)[int(work.argmax()) - 1]
        raise JobError(
            f"item {item!r}: the lists of its users hold {work.max():,} items, more than one block "
            "can: set most_items in the channel's options"
        )


def _extended(asked: Parameters, **columns: NDArray[np.float64] | NDArray[np.int64]) -> Parameters:
    """Write the items with more columns, given as [items + 1], into another file beside theirs."""
    path = asked.items.with_name(f"items-{'-'.join(columns)}.parquet")
    added = {name: column[1:] for name, column in columns.items()}
    pl.read_parquet(asked.items).with_columns(
        **{n: pl.Series(c) for n, c in added.items()}
    ).write_parquet(path)
    return replace(asked, items=path)


@lru_cache(maxsize=8)
def _column(path: Path, name: str) -> NDArray[np.float64]:
    """Return a column of the items, with 0 for row 0, [items + 1]; cached in the process."""
    return np.append(0, pl.read_parquet(path, columns=[name])[name].to_numpy())


@lru_cache(maxsize=2)
def _ids(path: Path) -> pl.Series:
    return pl.read_parquet(path, columns=["id"])["id"]
