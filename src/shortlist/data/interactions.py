"""The log as frozen columns, sorted by user and time: one copy that everything reads in place."""

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
    """The part a row belongs to. The order matters: a cut knows the rows of smaller roles."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


BEFORE: dict[Cut, int] = {"validation": 1, "test": 2, "end": 3}

COLUMNS = ("user", "item", "role", "time", "weight", "session", "kind", "asked")
"""The columns that hold one value for each event."""


@dataclass(frozen=True)
class Interactions:
    """n events sorted by user, then time, then the tie rule.

    user, item: [n] int32, rows (before a split: codes).
    users: the highest user number + 1.
    role: [n] int8, see Role; None before a split.
    time: [n] int64 or float64; None for a log without order.
    weight: [n] float32; None if not given.
    session: [n] int32; None if not given.
    kind: [n] int8, codes of the kinds of events; None if not given.
    kinds: what the codes of `kind` mean; without it every event is a target.
    asked: [n] bool, used when training continues on new events: only these are positives, and the
        others serve as histories. None otherwise.
    columns: event features by name, [n] each; see `event_columns.Columns`.
    part: whether these are the events of some users of a log only, whose weights may all be 0.
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
    part: bool = False

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.user)

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """The start of each user's events, and the end of the last one's, [users + 1]."""
        counts = np.bincount(self.user, minlength=self.users)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def before(self, cut: Cut) -> "Interactions":
        """Return the events known before a cut, in order; the same object if that is all."""
        if cut == "end" or self.role is None:
            return self
        return self.keep(self.role < BEFORE[cut])

    def at(self, cut: Cut) -> "Interactions":
        """Return the targets that a cut holds out, which are to be predicted."""
        if self.role is None:
            raise ValueError("the log has no split")
        held_out = self.role == BEFORE[cut]
        return self.keep(held_out if self.target is None else held_out & self.target)

    @cached_property
    def target(self) -> NDArray[np.bool_] | None:
        """Which events are positives, bool [n]; None if all are."""
        mask = self.asked
        if self.kind is not None and self.kinds is not None:
            of_kind = self.kinds.target(self.kind)
            if of_kind is not None:
                mask = of_kind if mask is None else mask & of_kind
        return None if mask is None or mask.all() else mask

    @cached_property
    def targets(self) -> "Interactions":
        """The events that are positives, in order; the same object if all are."""
        return self if self.target is None else self.keep(self.target)

    @cached_property
    def hides(self) -> NDArray[np.bool_] | None:
        """Which events exclude their item from the user's answers, bool [n]; None if all do."""
        if self.kind is None or self.kinds is None:
            return None
        return self.kinds.hides(self.kind)

    @cached_property
    def worth(self) -> NDArray[np.float32] | None:
        """The weight of each event's kind, [n]; None if all are 1."""
        if self.kind is None or self.kinds is None:
            return None
        return self.kinds.worth(self.kind)

    def keep(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Return the events where `mask` [n] is true, in order."""
        return self if mask.all() else self.at_places(mask)

    def at_places(self, which: NDArray[Any]) -> "Interactions":
        """Return the events at these positions, or where a mask [n] is true."""
        given = {
            name: column[which] for name in COLUMNS if (column := getattr(self, name)) is not None
        }
        columns = {name: column[which] for name, column in self.columns.items()}
        return replace(self, **given, columns=columns)

    def weights_for(self, use: str) -> NDArray[np.float32]:
        """Return the weights, [n], for an option that reads them.

        use: the option, as the start of the error's sentence: "values = 'explicit'".

        Errors: ModelError if there is no weight column, or all weights of a whole log are 0.
        """
        if self.weight is None:
            raise ModelError(
                f"{use} needs data.weight: the column of the weights (ratings or strengths)"
            )
        if not self.part and not self.weight.any():
            raise only_zeros(use)
        return self.weight

    def item_counts(self, items: int) -> NDArray[np.int64]:
        """Count the events of each item row up to `items`, [items + 1]; row 0 counts as 0."""
        counts = np.bincount(self.item, minlength=items + 1)[: items + 1]
        counts[0] = 0
        return counts.astype(np.int64)


def only_zeros(use: str) -> ModelError:
    """Return the error that all weights of a log are 0. use: the option that reads them."""
    return ModelError(
        f"{use} reads data.weight, which is 0 in all training rows: name another column, or leave "
        "the option out"
    )
