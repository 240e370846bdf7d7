"""The log as frozen columns, sorted by user and time: one copy, read in place by everything."""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.data.event_columns import Columns
from shortlist.data.kinds import Kinds
from shortlist.errors import ModelError

Cut = Literal["validation", "test", "end"]


class Role(IntEnum):
    """What a row of the log is for. The order matters: each cut keeps the roles before it."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


BEFORE: dict[Cut, int] = {"validation": 1, "test": 2, "end": 3}

COLUMNS = ("user", "item", "role", "time", "weight", "session", "kind", "asked")
"""What is known of each event."""


@dataclass(frozen=True)
class Interactions:
    """n events sorted by user, then time, then the tie rule.

    user, item: [n] int32, rows (or codes before a split has made rows); role: [n] int8, see Role;
    time: [n] int64 or float64, weight: [n] float32, session: [n] int32, kind: [n] int8, each None
    where not given. `users` is the highest user number + 1. kinds: what the codes of `kind` mean;
    without it every event is a target. asked: [n] bool, which events alone are positives of a
    training that goes on with new ones; the others are read. None for all others. columns: features
    of the events by name, [n] each; see `event_columns.Columns`.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    users: int
    role: NDArray[np.int8] | None = None
    time: NDArray[Any] | None = None
    weight: NDArray[np.float32] | None = None
    session: NDArray[np.int32] | None = None
    kind: NDArray[np.int8] | None = None
    kinds: Kinds | None = None
    asked: NDArray[np.bool_] | None = None
    columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        """How many events there are."""
        return len(self.user)

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """Where each user's events start and end, [users + 1]."""
        counts = np.bincount(self.user, minlength=self.users)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def before(self, cut: Cut) -> "Interactions":
        """Return the events known before a cut, in order; the same object where all are."""
        if cut == "end" or self.role is None:
            return self
        return self.keep(self.role < BEFORE[cut])

    def at(self, cut: Cut) -> "Interactions":
        """Return the targets that a cut holds out: what is to be predicted."""
        if self.role is None:
            raise ValueError("the log has no split")
        held_out = self.role == BEFORE[cut]
        return self.keep(held_out if self.target is None else held_out & self.target)

    @cached_property
    def target(self) -> NDArray[np.bool_] | None:
        """Which events are positives, bool [n]; None where all are."""
        mask = self.asked
        if self.kind is not None and self.kinds is not None:
            of_kind = self.kinds.target(self.kind)
            if of_kind is not None:
                mask = of_kind if mask is None else mask & of_kind
        return None if mask is None or mask.all() else mask

    @cached_property
    def targets(self) -> "Interactions":
        """The events that are positives, in order; the same object where all are."""
        return self if self.target is None else self.keep(self.target)

    @cached_property
    def hides(self) -> NDArray[np.bool_] | None:
        """Which events take their item out of answers, bool [n]; None where all do."""
        if self.kind is None or self.kinds is None:
            return None
        return self.kinds.hides(self.kind)

    @cached_property
    def worth(self) -> NDArray[np.float32] | None:
        """What each event counts for its kind, [n]; None where all count 1."""
        if self.kind is None or self.kinds is None:
            return None
        return self.kinds.worth(self.kind)

    def keep(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Return the events where `mask` [n] is true, in order."""
        return self if mask.all() else self.at_places(mask)

    def at_places(self, which: NDArray[Any]) -> "Interactions":
        """Return the events at these places, or where a mask [n] is true."""
        given = {
            name: column[which] for name in COLUMNS if (column := getattr(self, name)) is not None
        }
        columns = {name: column[which] for name, column in self.columns.items()}
        return replace(self, **given, columns=columns)

    def weights_for(self, use: str) -> NDArray[np.float32]:
        """Return the weights, [n], for an option that reads them; ModelError if none can count.

        use: the option, as a sentence begins with it: "values = 'explicit'".
        """
        if self.weight is None:
            raise ModelError(
                f"{use} needs data.weight: the column of the weights (ratings or strengths)"
            )
        if not self.weight.any():
            raise ModelError(
                f"{use} reads data.weight, which is 0 in all {len(self):,} training rows: name "
                "another column, or leave the option out"
            )
        return self.weight

    def item_counts(self, items: int) -> NDArray[np.int64]:
        """Count the events of each item row up to `items`, [items + 1]; row 0 counts as 0."""
        counts = np.bincount(self.item, minlength=items + 1)[: items + 1]
        counts[0] = 0
        return counts.astype(np.int64)
