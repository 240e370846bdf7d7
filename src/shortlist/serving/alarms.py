"""When is something wrong with what is answered? Guards that say so once, and when it is over."""

import logging
from dataclasses import dataclass, fields
from math import isfinite
from threading import Lock

from shortlist.errors import ServingError, suggest

logger = logging.getLogger("shortlist.serving")

PAST = 0.9
"""What a block of lists weighs beside the next one in the running figure."""


@dataclass(frozen=True)
class Guards:
    """When an alarm is raised; shares from 0 to 1.

    click_through: the share of lists that are clicked falls below this share of its running figure;
    0 for never. fallback: more than this share of lists is popular items, as nothing was known; 1
    for never. index_recall: an approximate index finds less than this share of what an exact scan
    finds; 0 for never. check: the share of requests that are compared with an exact scan. Errors:
    ServingError.
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
        """Read guards as the command line has them, "fallback=0.8". Errors: ServingError."""
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
    """Which guards are crossed: a line of the log when that begins, and one when it ends."""

    def __init__(self) -> None:
        self.raised = {
            name: False for name in ("click_through", "fallback", "index_recall", "store")
        }
        self._lock = Lock()

    def tell(self, guard: str, *, crossed: bool, said: str) -> None:
        """Say whether a guard is crossed, and how it looks."""
        with self._lock:
            before, self.raised[guard] = self.raised[guard], crossed
        if crossed and not before:
            logger.error("alarm %s: %s", guard, said)
        elif before and not crossed:
            logger.info("alarm %s is over: %s", guard, said)


class Block:
    """Counts until there is enough of it, and a least time has passed."""

    def __init__(self, now: float) -> None:
        self.begun, self.all, self.hits = now, 0.0, 0.0

    def take(self, every: float, hits: float) -> None:
        """Count."""
        self.all += every
        self.hits += hits

    @property
    def share(self) -> float:
        """The hits among all."""
        return self.hits / self.all if self.all else 0.0


class ClickThrough:
    """Guards the share of lists that are clicked against its own running figure.

    A block ends when 50 lists should have been clicked by the running figure, and after 10 minutes
    at least, as clicks come later than lists. So a block falls to half by chance once in thousands.
    """

    ENOUGH, SECONDS = 50, 600.0

    def __init__(self, bound: float, alarms: Alarms, now: float) -> None:
        self.bound, self.alarms = bound, alarms
        self.running: float | None = None
        self._block = Block(now)

    def take(self, lists: float, clicked: float, now: float) -> None:
        """Count lists, and lists that were clicked for the first time."""
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
    """Guards the share of lists that are popular items, of 200 lists and a minute at least."""

    ENOUGH, SECONDS = 200, 60.0

    def __init__(self, bound: float, alarms: Alarms, now: float) -> None:
        self.bound, self.alarms = bound, alarms
        self._block = Block(now)

    def take(self, lists: float, fallback: float, now: float) -> None:
        """Count lists, and those of popular items."""
        block = self._block
        block.take(lists, fallback)
        if block.all < self.ENOUGH or now - block.begun < self.SECONDS:
            return
        said = f"{block.share:.3f} of {block.all:.0f} lists are popular items as nothing was known"
        self.alarms.tell("fallback", crossed=block.share > self.bound, said=said)
        self._block = Block(now)


class IndexRecall:
    """Guards what an approximate index finds: the mean of the last 100 comparisons, from 20 on."""

    ENOUGH, SPAN = 20, 100

    def __init__(self, bound: float, alarms: Alarms) -> None:
        self.bound, self.alarms = bound, alarms
        self.found: list[float] = []

    @property
    def recall(self) -> float | None:
        """The mean of the last comparisons; None before the first."""
        return sum(self.found) / len(self.found) if self.found else None

    def take(self, recall: float) -> None:
        """Take one comparison."""
        self.found = [*self.found, recall][-self.SPAN :]
        mean = sum(self.found) / len(self.found)
        if len(self.found) >= self.ENOUGH:
            said = f"the index finds {mean:.3f} of what an exact scan finds"
            self.alarms.tell("index_recall", crossed=mean < self.bound, said=said)

    def clear(self) -> None:
        """Begin anew, with another bundle."""
        if self.found:
            self.alarms.tell("index_recall", crossed=False, said="another bundle is served")
        self.found = []
