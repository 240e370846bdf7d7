"""What did these users meet, and where is that kept? The seam between a retriever and a store."""

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
    """Lists of events, one a user, oldest first.

    items: rows; weight, time, kind: [total] like items.values, each None where the store has none
    (time also where it was not asked for). kind: codes of the log's `kinds`. columns: features of
    the events, [total] each, as `event_columns.Columns`; those that the store lacks are not known.
    """

    items: Ragged
    weight: Tensor | None = None
    time: Tensor | None = None
    kind: Tensor | None = None
    columns: Mapping[str, Tensor] = {}


class Histories(Protocol):
    """A store of what users met."""

    def latest(self, users: Tensor, before: Cut = "end", *, timed: bool = False) -> Events:
        """Return the events of user rows [B] that were known before a cut; row 0 has none."""
        ...

    def append(self, users: Tensor, events: Events) -> "Histories":
        """Return a store in which these events of user rows [B] follow those it holds."""
        ...


@dataclass(frozen=True)
class LoggedHistories:
    """The histories that a log holds: those of a bundle, until a store of events takes its place.

    What is appended makes another log of the same length and more: it is for a few events.
    """

    log: Interactions

    def latest(self, users: Tensor, before: Cut = "end", *, timed: bool = False) -> Events:
        """Return the events of user rows [B] that were known before a cut."""
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
        """Return a log with these events behind the others; they are known at the end alone."""
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
            # Events without a time come at the end of a log with times.
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
    """Return the columns of a log with those of `count` more events, put in order; unknown ones
    where these have none."""
    grown = {}
    for name, old in log.items():
        nothing = np.full(count, unknown_of(old.dtype), dtype=old.dtype)
        new = came[name].numpy().astype(old.dtype) if name in came else nothing
        grown[name] = np.concatenate([old, new])[order]
    return grown
