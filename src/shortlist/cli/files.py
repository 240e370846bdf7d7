"""Which tables does the command line read and write: users to query, candidates, vectors?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shortlist.asking.capabilities import Channel, Encodes, EncodesItems
from shortlist.asking.clock import now, written
from shortlist.asking.queries import Queries
from shortlist.data.lost_ids import NULL_WORDS
from shortlist.data.moments import parsed_times
from shortlist.data.readers import read_frame
from shortlist.errors import QueryError, suggest
from shortlist.outputs import PARQUET, whole
from shortlist.similarity import METRICS

USERS_AT_A_TIME = 16_384
ROWS_AT_A_TIME = 1_000_000
"""Largest number of candidates in memory, about 100 bytes each; also one row group of the file."""


def recommend_file(
    retriever: Channel,
    users: pl.Series,
    target: Path,
    k: int,
    *,
    overwrite: bool = False,
    features: pl.DataFrame | None = None,
    context: pl.DataFrame | None = None,
    time: Any = None,
    **asked: Any,
) -> int:
    """Write the candidates of these users to a file: user, rank, item, score, fallback.

    features: current user features, one row per user.
    context: context of each request, one row per user.
    time: time of all requests, or a tensor [U].
    asked: other arguments of `Queries`, for all users.

    Users are answered and written in blocks, so memory does not grow with their number or with k.
    The file appears whole or not at all. Returns the number of unknown users, who got popular
    items.
    """
    strangers = 0
    step = min(max(ROWS_AT_A_TIME // max(k, 1), 1), USERS_AT_A_TIME)
    with parquet(target, overwrite) as write:
        for at in range(0, len(users), step):
            block = users[at : at + step]
            told, moment = (
                None if frame is None else frame[at : at + step].to_dict(as_series=False)
                for frame in (features, context)
            )
            when = time[at : at + step] if isinstance(time, torch.Tensor) else time
            queries = Queries(block, features=told, context=moment, time=when, **asked)
            answer = retriever.recommend(queries, k)
            strangers += int(answer.fallback.sum())
            found = answer.to_frame()
            write(
                found.select(
                    block.gather(found["query"]).alias("user"), "rank", "item", "score", "fallback"
                )
            )
    return strangers


def vector_facts(retriever: Encodes, bundle: str) -> dict[str, str]:
    """Return what a vector store must know about the vectors, as metadata of their file."""
    return {
        "metric": METRICS[retriever.similarity],
        "similarity": retriever.similarity,
        "width": str(retriever.width),
        "bundle": bundle,
    }


def write_item_vectors(
    retriever: EncodesItems, path: Path, facts: Mapping[str, str], *, overwrite: bool = False
) -> int:
    """Write `id, vector` of every candidate item, with metadata; return the number of items."""
    ids, vectors = retriever.encode_items()
    with parquet(path, overwrite, facts) as write:
        write(_vector_frame(ids, vectors))
    return len(ids)


def write_user_vectors(
    retriever: Encodes, path: Path, facts: Mapping[str, str], *, overwrite: bool = False
) -> int:
    """Write `id, vector` of every user that has one, from all known events; return the number.

    A model with request_time uses this machine's clock. For a user with K interests, `vector` is
    an array of K vectors.
    facts: the metadata of the file.
    """
    ids = retriever.encodable_users()
    time = now(retriever)
    with parquet(path, overwrite, facts) as write:
        for at in range(0, len(ids), USERS_AT_A_TIME):
            block = ids[at : at + USERS_AT_A_TIME]
            write(_vector_frame(block, retriever.encode_users(Queries(block, time=time))))
    return len(ids)


def _vector_frame(ids: pl.Series, vectors: torch.Tensor) -> pl.DataFrame:
    shape = tuple(vectors.shape[1:])  # (D,), or (K, D) for users with K interests
    column = pl.Series("vector", vectors.numpy(), dtype=pl.Array(pl.Float32, shape))
    return pl.DataFrame({"id": ids, "vector": column})


def read_users(retriever: Channel, path: Path, column: str | None = None) -> pl.Series:
    """Read user ids from the recipe's user column, else user_id or user, else the only column."""
    frame = read_frame(path, "users file")
    names = [name for name in (column, "user_id", "user") if name in frame.columns]
    if not names:
        wanted = column or "user_id"
        if len(frame.columns) > 1:
            raise QueryError(f"{path} has no column '{wanted}'.{suggest(wanted, frame.columns)}")
        header = frame.columns[0]
        if header in set(retriever.data.users.ids.cast(pl.String)):
            raise QueryError(
                f"{path}: the first line, {header!r}, is a user id; put a header above it: {wanted}"
            )
        names = [header]
    given = frame[names[0]]
    if given.null_count():
        row = int(given.is_null().arg_true()[0]) + 1
        raise QueryError(f"{path}, column '{names[0]}', row {row}: the user id is empty")
    if given.dtype.is_signed_integer() and retriever.data.users.ids.dtype == pl.Int64:
        return given.cast(pl.Int64)
    written = [str(value) for value in given]
    known = retriever.data.users.ids
    for row, user in enumerate(written, 1):
        if user in NULL_WORDS and not (known.dtype == pl.String and user in known):
            raise QueryError(
                f"{path}, column '{names[0]}', row {row:,}: {user!r} looks like a missing value, "
                "and no user has this id; leave the row out"
            )
    try:
        return retriever.data.users.parse(written)
    except QueryError as error:
        row = next(row for row, user in enumerate(written, 1) if not _is_whole(user))
        raise QueryError(f"{path}, column '{names[0]}', row {row:,}: {error}") from error


def read_user_features(retriever: Channel, path: Path) -> pl.DataFrame:
    """Read the columns of a users file that are user features of the retriever."""
    reads = retriever.query_features
    frame = read_frame(path, "users file")
    names = [name for name in frame.columns if name in reads]
    if not names:
        read = f"it reads {', '.join(sorted(reads))}" if reads else "it reads none"
        raise QueryError(f"{path} has no column of a feature that the bundle reads: {read}")
    return frame.select(names)


def read_context(retriever: Channel, path: Path) -> pl.DataFrame:
    """Read the columns of a users file that are context features of the retriever."""
    reads, frame = retriever.query_context, read_frame(path, "users file")
    names = [name for name in frame.columns if name in reads]
    if not names:
        read = f"it reads {', '.join(sorted(reads))}" if reads else "it reads none"
        raise QueryError(f"{path} has no column of a context that the bundle reads: {read}")
    return frame.select(names)


def context_of_all(context: Mapping[str, Any], queries: int) -> pl.DataFrame:
    """Return the same context for each of `queries` queries."""
    return pl.DataFrame({name: [value] * queries for name, value in context.items()})


def read_times(retriever: Channel, path: Path, column: str) -> torch.Tensor:
    """Read the time of each request from a users file, in log units; an empty field is unknown."""
    frame, data = read_frame(path, "users file"), retriever.data
    if column not in frame.columns:
        raise QueryError(f"{path} has no column '{column}'.{suggest(column, frame.columns)}")
    if data.log.time is None:
        raise QueryError("the log has no times (data.time): leave --time-column out")
    values = [written(v) if isinstance(v, str) else v for v in frame[column].to_list()]
    kind = torch.from_numpy(data.log.time[:0]).dtype
    found = []
    for row, value in enumerate(values, 1):
        try:
            found.append(parsed_times([value], "", data.time_unit, kind, clock=data.of_clock))
        except QueryError as error:
            said = str(error).removeprefix("[0]: ")
            raise QueryError(f"{path}, column '{column}', row {row:,}: {said}") from None
    return torch.cat([torch.zeros(0, dtype=kind), *found])


def _is_whole(text: str) -> bool:
    """Tell whether a text is a 64-bit integer, by the rule for ids."""
    return pl.Series([text.strip()]).cast(pl.Int64, strict=False)[0] is not None


@contextmanager
def parquet(
    path: Path, overwrite: bool, metadata: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Write frames to a Parquet file that appears whole or not at all.

    metadata: its key-value metadata.
    """
    writer: pq.ParquetWriter | None = None
    with whole(path, PARQUET, overwrite=overwrite) as made:

        def write(frame: pl.DataFrame) -> None:
            nonlocal writer
            table: pa.Table = frame.to_arrow().replace_schema_metadata(metadata)
            if writer is None:
                writer = pq.ParquetWriter(made, table.schema)
            writer.write_table(table)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
