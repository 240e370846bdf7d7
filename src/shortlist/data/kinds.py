"""Kinds of events in a log: a code for each event, and what the codes mean."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist.sections.events import Events


class Described(NamedTuple):
    """One kind of `Kinds`, in the form that a bundle stores."""

    name: str
    target: bool
    weight: float
    seen: bool


@dataclass(frozen=True)
class Kinds:
    """The kinds of events that are read, by code, in the order of the recipe's table.

    names, targets, weights, seen: [K] each; see `EventKind`.
    """

    names: tuple[str, ...]
    targets: tuple[bool, ...]
    weights: tuple[float, ...]
    seen: tuple[bool, ...]

    @classmethod
    def of(cls, events: Events) -> "Kinds":
        """Return those kinds of the recipe's table that are read."""
        read = {name: kind for name, kind in events.items() if kind.read}
        return cls(
            tuple(read),
            tuple(kind.target for kind in read.values()),
            tuple(kind.weight for kind in read.values()),
            tuple(kind.seen for kind in read.values()),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Kinds":
        """Return the kinds from their stored form, see `rows`."""
        described = [Described(**row) for row in rows]
        return cls(
            tuple(kind.name for kind in described),
            tuple(kind.target for kind in described),
            tuple(kind.weight for kind in described),
            tuple(kind.seen for kind in described),
        )

    def rows(self) -> list[Described]:
        """Return each kind in the form that a bundle stores, in the order of the codes."""
        columns = zip(self.names, self.targets, self.weights, self.seen, strict=True)
        return [Described(*row) for row in columns]

    @cached_property
    def unnamed(self) -> int:
        """The code of an event in a request that does not name its kind.

        It is the first kind that is read and is not a target, or code 0 if every kind is a target.
        """
        return self.targets.index(False) if False in self.targets else 0

    def target(self, codes: NDArray[np.int8]) -> NDArray[np.bool_] | None:
        """Return which events are positives, bool [n]; None where every kind is one."""
        return None if all(self.targets) else np.array(self.targets)[codes]

    def worth(self, codes: NDArray[np.int8]) -> NDArray[np.float32] | None:
        """Return the weight of each event's kind, [n]; None if all are 1."""
        if all(weight == 1 for weight in self.weights):
            return None
        return np.array(self.weights, dtype=np.float32)[codes]

    def hides(self, codes: NDArray[np.int8]) -> NDArray[np.bool_] | None:
        """Return which events exclude their item from answers, bool [n]; None if all do."""
        return None if all(self.seen) else np.array(self.seen)[codes]


def read_codes(events: Events) -> NDArray[np.int8]:
    """Return the code in `Kinds` of each kind in the table, [K]; -1 for kinds that are not read."""
    read = np.array([kind.read for kind in events.values()])
    return np.where(read, np.cumsum(read) - 1, -1).astype(np.int8)
