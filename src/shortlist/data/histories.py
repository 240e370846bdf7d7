"""Where are the events of users kept? The interface between a retriever and an event store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.batches import histories
from shortlist.data.event_columns import Columns, unknown_of
from shortlist.data.interactions import Cut, Interactions, Role
from shortlist.data.ragged import Ragged, windows


class Events(NamedTuple):
    """Lists of events, one list a user, oldest first.

    items: item rows.
    weight: [total], like items.values; None if the store has none.
    time: [total]; None if the store has none, or they were not asked for.
    kind: [total], codes of the log's `kinds`; None if the store has none.
    columns: event features, [total] each, see `event_columns.Columns`. Features that the store
        does not hold are absent.
    """

    items: Ragged
    weight: Tensor | None = None
    time: Tensor | None = None
    kind: Tensor | None = None
    columns: Mapping[str, Tensor] = {}


class Histories(Protocol):
    """A store of users' events."""

    def latest(self, users: Tensor, before: Cut = "end", *, timed: bool = False) -> Events:
        """Return the events of user rows [B] that are known before a cut; row 0 has none."""
        ...

    def append(self, users: Tensor, events: Events) -> "Histories":
        """Return a store with these events of user rows [B] added after those it holds."""
        ...


@dataclass(frozen=True)
class LoggedHistories:
    """The histories in a log, which a bundle uses unless an event store replaces them.

    Appending copies the whole log, so it suits only a few events.
    """

    log: Interactions

    def latest(self, users: Tensor, before: Cut = "end", *, timed: bool = False) -> Events:
        """Return the events of user rows [B] that are known before a cut."""
        known = self.log.before(before)
        start = torch.from_numpy(known.indptr)
        begin, length = start[users], start[users + 1] - start[users]
        weight, time, kind = (
            None if column is None else windows(torch.from_numpy(column), begin, length).values
            for column in (known.weight, known.time if timed else None, known.kind)
        )
        columns = {
            name: windows(torch.from_numpy(column), begin, length).values
            for name, column in known.columns.items()
        }
        return Events(histories(known, users, None), weight, time, kind, columns)

    def append(self, users: Tensor, events: Events) -> "LoggedHistories":
        """Return a log with these events added; only the cut "end" knows them."""
        owner = users[events.items.owners()].numpy()
        log, count = self.log, len(owner)
        given: dict[str, NDArray[Any] | None] = {
            "user": owner,
            "item": events.items.values.numpy(),
            "role": np.full(count, Role.TEST),
            "time": None if events.time is None else events.time.numpy(),
            "weight": np.ones(count) if events.weight is None else events.weight.numpy(),
            "kind": None if events.kind is None else events.kind.numpy(),
        }
        if log.kinds is not None and events.kind is None:
            given["kind"] = np.full(count, log.kinds.unnamed)
        columns = {}
        for name, added in given.items():
            old: NDArray[Any] | None = getattr(log, name)
            if old is None:
                continue
            # New events without a time get the time of the newest event of the log.
            new = np.full(count, old.max(initial=0)) if added is None else added
            columns[name] = np.concatenate([old, new.astype(old.dtype)])
        order = np.argsort(columns["user"], kind="stable")
        grown = {name: column[order] for name, column in columns.items()}
        return LoggedHistories(
            Interactions(
                grown["user"],
                grown["item"],
                log.users,
                role=grown.get("role"),
                time=grown.get("time"),
                weight=grown.get("weight"),
                kind=grown.get("kind"),
                kinds=log.kinds,
                columns=added_to(log.columns, events.columns, count, order),
            )
        )


def added_to(
    log: Columns, came: Mapping[str, Tensor], count: int, order: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Append the columns of `count` new events to those of a log, and reorder both.

    Columns that the new events lack are unknown for them.
    """
    grown = {}
    for name, old in log.items():
        nothing = np.full(count, unknown_of(old.dtype), dtype=old.dtype)
        new = came[name].numpy().astype(old.dtype) if name in came else nothing
        grown[name] = np.concatenate([old, new])[order]
    return grown
