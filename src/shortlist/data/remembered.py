"""A small cache of costly answers, shared by threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

Answer = TypeVar("Answer")

MOST = 64
"""How many answers are kept: those that were requested last."""


class Remembered:
    """The answers requested last, by their question. Threads may share it.

    >>> kept = Remembered(most=1)
    >>> kept.get("two", lambda: 1 + 1), kept.get("two", lambda: 0)
    (2, 2)
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of kept answers."""
        return len(self._kept)

    def get(self, asked: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return the kept answer, or make it and keep it; an error keeps nothing.

        Answers are made outside the lock: two threads with the same question may both make it.
        """
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
                found: Answer = self._kept[asked]
                return found
        made = make()
        with self._lock:
            self._kept[asked] = made
            self._kept.move_to_end(asked)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made
