"""How does a log carry kinds of events? A code for each event, and what the codes mean."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist.sections.events import Events


class Described(NamedTuple):
    """One of `Kinds`, as a bundle describes it."""

    name: str
    target: bool
    weight: float
    seen: bool


@dataclass(frozen=True)
class Kinds:
    """The kinds of events of a log, by code: those that are read, in the order of the table.

    names, targets, weights, seen: [K] each, see `EventKind`.
    """

    names: tuple[str, ...]
    targets: tuple[bool, ...]
    weights: tuple[float, ...]
    seen: tuple[bool, ...]

    @classmethod
    def of(cls, events: Events) -> "Kinds":
        """Return the kinds of a table that are read."""
        read = {name: kind for name, kind in events.items() if kind.read}
        return cls(
            tuple(read),
            tuple(kind.target for kind in read.values()),
            tuple(kind.weight for kind in read.values()),
            tuple(kind.seen for kind in read.values()),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Kinds":
        """Return the kinds that `rows` described."""
        described = [Described(**row) for row in rows]
        return cls(
            tuple(kind.name for kind in described),
            tuple(kind.target for kind in described),
            tuple(kind.weight for kind in described),
            tuple(kind.seen for kind in described),
        )

    def rows(self) -> list[Described]:
        """Return each kind, by code."""
        columns = zip(self.names, self.targets, self.weights, self.seen, strict=True)
        return [Described(*row) for row in columns]

    @cached_property
    def unnamed(self) -> int:
        """The code of an event that comes with a request, which says no kind.

        The first kind of the table that is read and no target; the first of all if each is one.
        """
        return self.targets.index(False) if False in self.targets else 0

    def target(self, codes: NDArray[np.int8]) -> NDArray[np.bool_] | None:
        """Return which events are positives, bool [n]; None where every kind is one."""
        return None if all(self.targets) else np.array(self.targets)[codes]

    def worth(self, codes: NDArray[np.int8]) -> NDArray[np.float32] | None:
        """Return what each event counts, [n]; None where every kind counts 1."""
        if all(weight == 1 for weight in self.weights):
            return None
        return np.array(self.weights, dtype=np.float32)[codes]

    def hides(self, codes: NDArray[np.int8]) -> NDArray[np.bool_] | None:
        """Return which events take their item out of answers, bool [n]; None where all do."""
        return None if all(self.seen) else np.array(self.seen)[codes]


def read_codes(events: Events) -> NDArray[np.int8]:
    """Return the code in `Kinds` of each place in the table, -1 of kinds that are not read."""
    read = np.array([kind.read for kind in events.values()])
    return np.where(read, np.cumsum(read) - 1, -1).astype(np.int8)
