"""Which results of the event store are still current? A cache by user."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from threading import Lock
from time import monotonic

from shortlist.histories.events import Id, Stored

FRESH = 0.1
"""Seconds for which cached results are used without asking for changes by other processes."""

ITEMS = 500_000
"""Maximum size of the cache: items of all users, plus one per user."""


class KnownEvents:
    """A cache of the store's results by user; the oldest are removed first. Threads may share it.

    A change of the store by this process must `drop` its users. `current` reports that no other
    process has changed the store; without such a report in the last FRESH seconds, the cache is not
    used.

    most: maximum size (see ITEMS).
    generation: counts the changes, so that a result that was read before a change is not stored.
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
        """Return the results of all these users; None if one is missing or may be outdated."""
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
        """Store results. generation: its value before the store was read."""
        with self._lock:
            if generation != self.generation:
                return
            for user, stored in zip(users, found, strict=True):
                key = (type(user), user, what)
                before = self._kept.get(key)
                if before is None:
                    self._of_user.setdefault(user, []).append(key)
                    self._items += len(stored.items) + 1
                else:  # its size differs if events have expired
                    self._items += len(stored.items) - len(before.items)
                self._kept[key] = stored
            while self._items > self._most:
                self._forget(next(iter(self._kept))[1])  # type: ignore[index]

    def drop(self, users: Iterable[Id]) -> None:
        """Remove the results of these users, because their events change."""
        with self._lock:
            self.generation += 1
            for user in users:
                self._forget(user)

    def current(self, *, changed: bool) -> None:
        """Record that the store was checked. changed: another process has changed it."""
        if changed:
            self.clear()
        self._current = monotonic()

    def clear(self) -> None:
        """Remove all results."""
        with self._lock:
            self.generation += 1
            self._kept.clear()
            self._of_user.clear()
            self._items = 0

    def _forget(self, user: Id) -> None:
        for key in self._of_user.pop(user, ()):
            self._items -= len(self._kept.pop(key).items) + 1
