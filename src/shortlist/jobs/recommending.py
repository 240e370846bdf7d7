"""What does a bundle recommend to all users of a log? Each part asks the retriever."""

from functools import lru_cache
from pathlib import Path

import polars as pl
import pyarrow as pa

from shortlist.asking.capabilities import Channel
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import Bundle, load
from shortlist.errors import JobError, QueryError

USERS_AT_A_TIME = 4096


def recommended_schema(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """Return the columns of the candidates, the same that `shortlist recommend` writes.

    user: type of the user ids.
    item: type of the item ids.
    """
    return pa.schema(
        {
            "user": user,
            "rank": pa.int64(),
            "item": item,
            "score": pa.float32(),
            "fallback": pa.bool_(),
        }
    )


def check_time(retriever: Channel, time: float | str | None) -> None:
    """Raise QueryError for a time that is missing, not used by the bundle, or unreadable."""
    if time is None and retriever.reads_clock:
        raise QueryError(
            "the answers of this bundle depend on the time of the request (model.request_time): "
            "give it, as the log writes its times or as ISO text (--time 2024-01-31T20:15:00)"
        )
    retriever.recommend(Queries(retriever.data.users.ids.head(1), time=time), 1)


def recommend(
    table: pa.Table, *, bundle: Path, identity: str, k: int, time: float | str | None = None
) -> pa.Table:
    """Step: return the candidates of the users in a part of a log.

    table: rows of a prepared log; only their users are read. Histories are those of the bundle.
    bundle: path of the bundle.
    identity: the bundle's id, by which a replaced bundle is noticed.
    k: number of candidates per user.
    time: time of the requests, for a bundle whose answers depend on it.
    """
    retriever = opened(bundle, identity).retriever
    users = pl.Series(pl.from_arrow(table["user"])).unique().sort()
    found = []
    for at in range(0, max(len(users), 1), USERS_AT_A_TIME):
        block = users[at : at + USERS_AT_A_TIME]
        answer = retriever.recommend(Queries(block, time=time), k).to_frame()
        named = block.gather(answer["query"]).alias("user")
        found.append(answer.select(named, "rank", "item", "score", "fallback"))
    return pl.concat(found).to_arrow()


@lru_cache(maxsize=1)
def opened(bundle: Path, identity: str) -> Bundle:
    """Load a bundle once per process, memory-mapped. Errors: BundleError, JobError."""
    found = load(bundle)
    if found.id != identity:
        raise JobError(f"{bundle} was replaced while the job ran: run it again")
    return found
