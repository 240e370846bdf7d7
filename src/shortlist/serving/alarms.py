"""When are answers probably bad? Alarms are logged when a threshold is crossed and when it ends."""

import logging
from dataclasses import dataclass, fields
from math import isfinite
from threading import Lock

from shortlist.errors import ServingError, suggest

logger = logging.getLogger("shortlist.serving")

PAST = 0.9
"""Weight of the past in the running mean of click-through."""


@dataclass(frozen=True)
class Guards:
    """The thresholds of the alarms, each from 0 to 1.

    click_through: alarm if the share of clicked lists is below this part of its running mean; 0
    for never.
    fallback: alarm if more than this share of lists is popular items for unknown users; 1 for
    never.
    index_recall: alarm if an approximate index finds less than this share of the neighbours that an
    exact scan finds; 0 for never.
    check: the share of requests that are compared with an exact scan.

    Errors: ServingError.
    """

    click_through: float = 0.5
    fallback: float = 0.5
    index_recall: float = 0.9
    check: float = 0.01

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (isfinite(value) and 0 <= value <= 1):
                raise ServingError(f"the guard {each.name} must be from 0 to 1, got {value}")

    @classmethod
    def parse(cls, given: list[str]) -> "Guards":
        """Read thresholds from the command line, such as "fallback=0.8". Errors: ServingError."""
        names = [each.name for each in fields(cls)]
        found: dict[str, float] = {}
        for text in given:
            name, _, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if name not in names:
                raise ServingError(f"there is no guard {name!r:.40}." + suggest(name, names))
            if name in found:
                raise ServingError(f"the guard {name} is given twice")
            try:
                found[name] = float(value)
            except ValueError:
                raise ServingError(
                    f"a guard is NAME=NUMBER, such as {name}=0.5, got {text!r:.60}"
                ) from None
        return cls(**found)


class Alarms:
    """Which alarms are raised? Each is logged once when it begins and once when it ends."""

    def __init__(self) -> None:
        self.raised = {
            name: False for name in ("click_through", "fallback", "index_recall", "store")
        }
        self._lock = Lock()

    def tell(self, guard: str, *, crossed: bool, said: str) -> None:
        """Set whether a threshold is crossed.

        said: the measured figures, for the log.
        """
        with self._lock:
            before, self.raised[guard] = self.raised[guard], crossed
        if crossed and not before:
            logger.error("alarm %s: %s", guard, said)
        elif before and not crossed:
            logger.info("alarm %s is over: %s", guard, said)


class Block:
    """Counts since the time `begun`: all observations, and those that are hits."""

    def __init__(self, now: float) -> None:
        self.begun, self.all, self.hits = now, 0.0, 0.0

    def take(self, every: float, hits: float) -> None:
        """Add observations and hits."""
        self.all += every
        self.hits += hits

    @property
    def share(self) -> float:
        """The share of hits; 0 without observations."""
        return self.hits / self.all if self.all else 0.0


class ClickThrough:
    """Compares the share of clicked lists with its own running mean.

    A block ends when 50 clicked lists are expected by the running mean, and after 10 minutes at
    least, because clicks come later than lists. With 50 expected clicks, a drop to half by chance
    is rarer than one in a thousand blocks.
    """

    ENOUGH, SECONDS = 50, 600.0

    def __init__(self, bound: float, alarms: Alarms, now: float) -> None:
        self.bound, self.alarms = bound, alarms
        self.running: float | None = None
        self._block = Block(now)

    def take(self, lists: float, clicked: float, now: float) -> None:
        """Add lists, and lists with their first click."""
        block = self._block
        block.take(lists, clicked)
        expected = block.hits if self.running is None else self.running * block.all
        if expected < self.ENOUGH or now - block.begun < self.SECONDS:
            return
        running = block.share if self.running is None else self.running
        said = f"{block.share:.4f} of {block.all:.0f} lists were clicked, {running:.4f} before"
        self.alarms.tell("click_through", crossed=block.share < self.bound * running, said=said)
        self.running = PAST * running + (1 - PAST) * block.share
        self._block = Block(now)


class Fallback:
    """Checks the share of fallback lists over blocks of at least 200 lists and one minute."""

    ENOUGH, SECONDS = 200, 60.0

    def __init__(self, bound: float, alarms: Alarms, now: float) -> None:
        self.bound, self.alarms = bound, alarms
        self._block = Block(now)

    def take(self, lists: float, fallback: float, now: float) -> None:
        """Add lists, and those of popular items."""
        block = self._block
        block.take(lists, fallback)
        if block.all < self.ENOUGH or now - block.begun < self.SECONDS:
            return
        said = f"{block.share:.3f} of {block.all:.0f} lists are popular items for unknown users"
        self.alarms.tell("fallback", crossed=block.share > self.bound, said=said)
        self._block = Block(now)


class IndexRecall:
    """Checks the recall of an approximate index: the mean of the last 20 to 100 comparisons."""

    ENOUGH, SPAN = 20, 100

    def __init__(self, bound: float, alarms: Alarms) -> None:
        self.bound, self.alarms = bound, alarms
        self.found: list[float] = []

    @property
    def recall(self) -> float | None:
        """The mean of the last 100 comparisons; None before the first."""
        return sum(self.found) / len(self.found) if self.found else None

    def take(self, recall: float) -> None:
        """Add the recall of one comparison."""
        self.found = [*self.found, recall][-self.SPAN :]
        mean = sum(self.found) / len(self.found)
        if len(self.found) >= self.ENOUGH:
            said = f"the index finds {mean:.3f} of what an exact scan finds"
            self.alarms.tell("index_recall", crossed=mean < self.bound, said=said)

    def clear(self) -> None:
        """Discard the comparisons, because another bundle is served."""
        if self.found:
            self.alarms.tell("index_recall", crossed=False, said="another bundle is served")
        self.found = []
