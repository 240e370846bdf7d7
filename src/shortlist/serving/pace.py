"""May this user send more events now? A bucket of tokens for each user, which fills with time."""

from collections import OrderedDict
from collections.abc import Hashable
from time import monotonic

USERS = 100_000
"""Users whose buckets are remembered: those who sent something last."""


class Pace:
    """At most so many events a user in a minute, all at once or spread over it.

    >>> pace = Pace(2)
    >>> [pace.take({"ann": 1}) for _ in range(3)]
    [None, None, 'ann']
    >>> pace.take({"bob": 2})
    """

    def __init__(self, a_minute: int) -> None:
        self.a_minute = a_minute
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, counts: dict[Hashable, int]) -> Hashable | None:
        """Count these events of users; or count none, and return a user who has sent too many."""
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
