"""What if the server of an index does not answer? An error, or popular items, as the asker says."""

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
    """What is asked here of a channel."""

    def search(self, block: RowQueries, k: int) -> Any:
        """Answer B queries."""
        ...

    def strangers(self, block: RowQueries) -> Tensor:
        """Return which of B queries nothing is known of, bool [B]."""
        ...


@contextmanager
def popular_if_gone() -> Iterator[None]:
    """Within it a query whose vectors are out of reach is answered as a stranger's: flagged.

    For a service, which must answer. Everywhere else it is an IndexServerError: a measurement of
    popular items would be a lie.
    """
    before = _tolerated.set(True)
    try:
        yield
    finally:
        _tolerated.reset(before)


def tolerated() -> bool:
    """Whether popular items will do here."""
    return _tolerated.get()


def found_by(channel: Searches, block: RowQueries, k: int) -> tuple[Hits, Tensor]:
    """Return what a channel finds for B queries, and for which of them that does not count."""
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
