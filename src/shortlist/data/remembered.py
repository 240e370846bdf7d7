"""How are answers to costly questions kept for a while, for several threads at once?"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

Answer = TypeVar("Answer")

MOST = 64
"""How many answers are kept: the ones that were asked for last."""


class Remembered:
    """The latest answers, by what was asked. Threads may share it.

    >>> kept = Remembered(most=1)
    >>> kept.get("two", lambda: 1 + 1), kept.get("two", lambda: 0)
    (2, 2)
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def get(self, asked: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return the answer that is kept, or make it and keep it; an error keeps nothing.

        It is made outside the lock: two threads that ask for the same at once may both make it.
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
