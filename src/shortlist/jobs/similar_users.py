"""Which users are nearest to each user? UserCF, computed in blocks of users.

It is `neighbours` with users and items exchanged: a block gets the list of users of each item that
one of its users has met.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray

from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.user_cf import (
    UserCFOptions,
    met_by_users,
    nearest_users,
    profile_of,
    sizes_of,
    weights_of_items,
)
from shortlist.data.interactions import Interactions, only_zeros
from shortlist.data.kinds import Kinds
from shortlist.data.ragged import Ragged
from shortlist.data.training_data import Fit
from shortlist.data.vocabulary import hash_ids
from shortlist.errors import ModelError
from shortlist.jobs.counts import fitted_rows, interactions_of
from shortlist.jobs.engine import Engine, Frame, blocks_of, offsets_of
from shortlist.jobs.local import bucket_of
from shortlist.linear.from_scipy import csr_array, diags_array
from shortlist.linear.matrix import Matrix
from shortlist.linear.ranking import TieRanks

BESIDE = {"value": pa.float32(), "norm": pa.float64(), "asked": pa.float32(), "size": pa.float64()}
"""The columns of a (user, item) pair besides user and row.

value: entry of the vector by which other users are compared with this user; NaN if it has none.
norm: length of that vector.
asked: entry of the profile with which the user asks; NaN if it has none.
size: length of the profile.
"""


@dataclass(frozen=True)
class Parameters:
    """Parameters of the steps.

    options: options of user-cf.
    fit: which rows are fitted on.
    items: Parquet file of the fitted items (`counts.counted_items`). For later steps it has the
    column users: the number of users who have an entry of the item.
    trained: number of fitted items.
    ordered: whether the log has times, so that a user's events are in order.
    blocks: number of blocks of users.
    kinds: the kinds of events, or None.
    """

    options: UserCFOptions
    fit: Fit
    items: Path
    trained: int
    ordered: bool
    blocks: int
    kinds: Kinds | None = None


def similar_schema(kind: pa.DataType) -> pa.Schema:
    """Return the schema of the nearest users of each user. kind: type of the user ids."""
    return pa.schema(
        [("user", kind), ("rank", pa.int32()), ("near", kind), ("similarity", pa.float32())]
    )


def user_cf(engine: Engine, log: Frame, kind: pa.DataType, asked: Parameters) -> Frame:
    """Return the nearest users of all fitted users, in parts, with the schema `similar_schema`.

    log: a prepared log.
    kind: type of its user ids.
    asked: parameters of the steps.
    Errors: ModelError for options that need the order of events; JobError for an item with more
    users than a table can hold.
    """
    for name in ("recency", "latest_items", "most_items"):
        if getattr(asked.options, name) is not None and not asked.ordered:
            raise ModelError(f"{name} needs data.time: without it a history has no order")
    counted = pa.schema({"row": pa.int32(), "users": pa.int64()})
    counts = engine.whole(
        engine.each(log, partial(count_users, asked=asked), counted), "row", add_users, counted
    )
    users = engine.collected(counts)
    if asked.options.values == "explicit" and not users.num_rows:
        raise only_zeros("values = 'explicit'")
    asked = _with_users(asked, users)
    given = pa.schema({"user": kind, "row": pa.int32(), **BESIDE})
    pairs = engine.each(log, partial(pairs_of, asked=asked), given)
    lists = {name: pa.list_(dtype) for name, dtype in BESIDE.items()}
    schema = pa.schema({"block": pa.int64(), "row": pa.int32(), "users": pa.list_(kind), **lists})
    dealt = engine.whole(pairs, "row", partial(lists_of, asked=asked), schema)
    step = partial(near, asked=asked)
    return engine.whole(dealt, "block", step, similar_schema(kind), dense=True)


def count_users(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: count the users who have an entry of each item."""
    log = interactions_of(fitted_rows(table, asked.fit), asked.items, asked.kinds)
    matrix, _ = met_by_users(asked.options, log, asked.trained, log.users - 1)
    rows, counts = np.unique(matrix.indices, return_counts=True)
    return pa.table({"row": rows.astype(np.int32), "users": counts.astype(np.int64)})


def add_users(table: pa.Table) -> pa.Table:
    """Step: sum the counts of each row."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.group_by("row").agg(pl.col("users").sum()).to_arrow()


def pairs_of(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return the (user, item) pairs of whole users, with the columns of BESIDE."""
    frame = fitted_rows(table, asked.fit)
    log = interactions_of(frame, asked.items, asked.kinds)
    weight = weights_of_items(asked.options, _users_of_items(asked.items))
    matrix, _ = met_by_users(asked.options, log, asked.trained, log.users - 1)
    profile = profile_of(_asked_with(log), asked.options, asked.trained).astype(np.float64)
    width = asked.trained + 1
    keys = [_keys_of(entries, width) for entries in (matrix, profile)]
    every = np.union1d(*keys)
    owner, row = every // width, (every % width).astype(np.int32)
    columns = {"user": frame["user"].unique(maintain_order=True).gather(owner), "row": row}
    for (name, size), key, entries in zip(
        (("value", "norm"), ("asked", "size")), keys, (matrix, profile), strict=True
    ):
        found = np.full(len(every), np.nan, dtype=np.float32)
        found[np.searchsorted(every, key)] = entries.data
        columns |= {name: found, size: sizes_of(asked.options, entries, weight)[owner]}
    return pl.DataFrame(columns).to_arrow()


def lists_of(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return the users of each whole item, once per block whose users ask with the item."""
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    table = table.take(pa.array(order))
    row = table["row"].to_numpy()
    length = np.unique(row, return_counts=True)[1]
    start = np.concatenate([[0], np.cumsum(length)])
    owner = np.repeat(np.arange(len(length)), length)
    wanted = ~np.isnan(table["asked"].to_numpy())
    block = bucket_of(table["user"], asked.blocks)
    touched = np.unique(owner[wanted] * asked.blocks + block[wanted])
    item, block = touched // asked.blocks, touched % asked.blocks
    size = length[item]
    ends = np.concatenate([[0], np.cumsum(size)])

    def longest() -> str:
        at = int(length.argmax())
        return f"item {_ids(asked.items)[int(row[start[at]]) - 1]!r} with {length[at]:,} users"

    offsets = offsets_of(ends, longest)
    place = pa.array(np.repeat(start[item] - ends[:-1], size) + np.arange(ends[-1]))
    columns = {"block": pa.array(block), "row": pa.array(row[start[item]], pa.int32())}
    for name in ("user", *BESIDE):
        column = table[name].take(place).combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        columns["users" if name == "user" else name] = pa.ListArray.from_arrays(offsets, column)
    return pa.table(columns)


def near(table: pa.Table, *, asked: Parameters) -> pa.Table:
    """Step: return the nearest users of the users of whole blocks, from all lists of each block."""
    made = [_near_in(block, asked) for block in blocks_of(table, "block")]
    kind = table.schema.field("users").type.value_type
    return pa.concat_tables(made) if made else similar_schema(kind).empty_table()


def _near_in(table: pa.Table, asked: Parameters) -> pa.Table:
    """Return the nearest users of the users of one block.

    Within the block, users are numbered from 1 in the order of their ids, and items from 0 in the
    order of their rows.
    """
    block = table["block"][0].as_py()
    table = table.sort_by("row")
    frame = pl.DataFrame(pl.from_arrow(table)).explode("users", *BESIDE)
    users = frame["users"].unique().sort()
    user = np.asarray(users.search_sorted(frame["users"])) + 1
    rows, item = np.unique(frame["row"].to_numpy(), return_inverse=True)
    shape = len(users) + 1, len(rows)

    def entries(name: str) -> Matrix:
        value = frame[name].to_numpy()
        there = ~np.isnan(value)
        found = value[there].astype(np.float64), (user[there], item[there])
        return csr_array(found, shape=shape)

    def of_users(name: str) -> NDArray[np.float64]:
        found = np.zeros(len(users) + 1)
        found[user] = frame[name].to_numpy()
        return found

    own = 1 + np.flatnonzero(bucket_of(pa.chunked_array([users.to_arrow()]), asked.blocks) == block)
    profile = entries("asked")[own]
    weight = weights_of_items(asked.options, _users_of_items(asked.items))[rows]
    ids, similar = nearest_users(
        asked.options,
        profile,
        (diags_array(weight) @ entries("value").T).tocsr(),
        (of_users("size")[own], of_users("norm")),
        own,
        TieRanks.of(np.append(0, hash_ids(users).view(np.int64))),
    )
    query, place = np.nonzero(ids)
    rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
    return pa.table(
        {
            "user": users.gather(own[query] - 1).to_arrow(),
            "rank": pa.array(rank, pa.int32()),
            "near": users.gather(ids[query, place] - 1).to_arrow(),
            "similarity": pa.array(similar[query, place]),
        }
    ).cast(similar_schema(table.schema.field("users").type.value_type))


def _asked_with(log: Interactions) -> RowQueries:
    """Return the users of a log as queries, each with all items they have met."""
    return RowQueries(
        torch.arange(log.users),
        Ragged(torch.from_numpy(log.item).long(), torch.from_numpy(log.indptr)),
        exclude=True,
        weight=None if log.weight is None else torch.from_numpy(log.weight),
        kind=None if log.kind is None else torch.from_numpy(log.kind),
        kinds=log.kinds,
    )


def _keys_of(entries: Matrix, width: int) -> NDArray[np.int64]:
    owner = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr)).astype(np.int64)
    return np.asarray(owner * width + entries.indices)


def _with_users(asked: Parameters, counted: pa.Table) -> Parameters:
    """Write the items with the column `users` into another file beside theirs."""
    users = np.zeros(asked.trained + 1, dtype=np.int64)
    users[counted["row"].to_numpy()] = counted["users"].to_numpy()
    path = asked.items.with_name("items-users.parquet")
    pl.read_parquet(asked.items).with_columns(users=pl.Series(users[1:])).write_parquet(path)
    return replace(asked, items=path)


@lru_cache(maxsize=2)
def _users_of_items(path: Path) -> NDArray[np.int64]:
    """Return how many users have an entry of each item, [items + 1]; cached in the process."""
    return np.append(0, pl.read_parquet(path, columns=["users"])["users"].to_numpy())


@lru_cache(maxsize=2)
def _ids(path: Path) -> pl.Series:
    return pl.read_parquet(path, columns=["id"])["id"]
