"""What did the store say of a user a moment ago? Kept until somebody changes it."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from threading import Lock
from time import monotonic

from shortlist.histories.events import Id, Stored

FRESH = 0.1
"""Seconds for which nobody asks whether another process has changed the store."""

ITEMS = 500_000
"""Items that are kept, of all users together, and so many users at most."""


class KnownEvents:
    """Answers of a store by user, those asked for last. Threads may share it.

    Whoever changes the store in this process drops the users it changes; `current` says that no
    other process had changed it either. While both come late nothing is answered from here.
    """

    def __init__(self, most: int = ITEMS) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Stored] = OrderedDict()
        self._of_user: dict[Id, list[Hashable]] = {}
        self._items = 0
        self._lock = Lock()
        self._current = 0.0
        self.generation = 0

    def get(self, users: Sequence[Id], what: Hashable) -> list[Stored] | None:
        """Return what is known of all these users; None where any is missing, or it may be old."""
        if monotonic() - self._current > FRESH:
            return None
        with self._lock:
            found = []
            for user in users:
                stored = self._kept.get((type(user), user, what))
                if stored is None:
                    return None
                found.append(stored)
            return found

    def put(
        self, users: Sequence[Id], what: Hashable, found: Iterable[Stored], generation: int
    ) -> None:
        """Keep what the store said; generation: of the moment before it was asked."""
        with self._lock:
            if generation != self.generation:
                return
            for user, stored in zip(users, found, strict=True):
                key = (type(user), user, what)
                before = self._kept.get(key)
                if before is None:
                    self._of_user.setdefault(user, []).append(key)
                    self._items += len(stored.items) + 1
                else:  # events expire meanwhile
                    self._items += len(stored.items) - len(before.items)
                self._kept[key] = stored
            while self._items > self._most:
                self._forget(next(iter(self._kept))[1])  # type: ignore[index]

    def drop(self, users: Iterable[Id]) -> None:
        """Forget what is known of these users, as it is being changed."""
        with self._lock:
            self.generation += 1
            for user in users:
                self._forget(user)

    def current(self, *, changed: bool) -> None:
        """Note that the store was looked at; changed: another process has changed it."""
        if changed:
            self.clear()
        self._current = monotonic()

    def clear(self) -> None:
        """Forget all that is known."""
        with self._lock:
            self.generation += 1
            self._kept.clear()
            self._of_user.clear()
            self._items = 0

    def _forget(self, user: Id) -> None:
        for key in self._of_user.pop(user, ()):
            self._items -= len(self._kept.pop(key).items) + 1
