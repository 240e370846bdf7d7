"""What happens if the server of an index does not answer? An error, or popular items instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.errors import IndexServerError
from shortlist.index.base import Hits

_tolerated = ContextVar("_tolerated", default=False)


class Searches(Protocol):
    """The methods of a channel that are needed here."""

    def search(self, block: RowQueries, k: int) -> Any:
        """Return the k best of each of B queries."""
        ...

    def strangers(self, block: RowQueries) -> Tensor:
        """Return a bool [B], True for queries of which nothing is known."""
        ...


@contextmanager
def popular_if_gone() -> Iterator[None]:
    """Within this context, popular items with the fallback flag replace an IndexServerError.

    This is for a service, which must answer. Elsewhere the error is raised, so that an evaluation
    never measures popular items by mistake.
    """
    before = _tolerated.set(True)
    try:
        yield
    finally:
        _tolerated.reset(before)


def tolerated() -> bool:
    """Tell whether this code runs within `popular_if_gone`."""
    return _tolerated.get()


def found_by(channel: Searches, block: RowQueries, k: int) -> tuple[Hits, Tensor]:
    """Return a channel's hits for B queries, and which queries get popular items instead, [B]."""
    try:
        return channel.search(block, k), channel.strangers(block)
    except IndexServerError:
        if not tolerated():
            raise
    count = len(block.users)
    return no_hits(count, k), torch.ones(count, dtype=torch.bool)


def no_hits(count: int, k: int) -> Hits:
    """Return `count` empty answers."""
    ids = torch.full((count, k), -1, dtype=torch.int64)
    return Hits(ids, torch.full((count, k), float("-inf")))
