"""May this user send more events now? A token bucket per user."""

from collections import OrderedDict
from collections.abc import Hashable
from time import monotonic

USERS = 100_000
"""Maximum number of buckets; those of the users who sent last are kept."""


class Pace:
    """Allows each user `a_minute` events per minute, at once or spread over the minute.

    >>> pace = Pace(2)
    >>> [pace.take({"ann": 1}) for _ in range(3)]
    [None, None, 'ann']
    >>> pace.take({"bob": 2})
    """

    def __init__(self, a_minute: int) -> None:
        self.a_minute = a_minute
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, counts: dict[Hashable, int]) -> Hashable | None:
        """Count these events and return None; or count none and return a user with too many."""
        now = monotonic()
        left = {}
        for user, count in counts.items():
            tokens, then = self._buckets.get(user, (float(self.a_minute), now))
            tokens = min(self.a_minute, tokens + (now - then) * self.a_minute / 60)
            if tokens < count:
                return user
            left[user] = (tokens - count, now)
        for user, bucket in left.items():
            self._buckets[user] = bucket
            self._buckets.move_to_end(user)
        while len(self._buckets) > USERS:
            self._buckets.popitem(last=False)
        return None
