"""How good are the answers? Counts of the lists that were shown, and of the clicks on them."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from time import time
from typing import Any, NamedTuple

from shortlist.asking.candidates import Candidates
from shortlist.asking.queries import Queries
from shortlist.errors import ServingError
from shortlist.evaluation.slices import HISTORIES
from shortlist.histories.events import Event, Kept
from shortlist.sections.events import kind_of
from shortlist.serving.alarms import Alarms, ClickThrough, Fallback, IndexRecall
from shortlist.serving.index_check import IndexCheck
from shortlist.serving.measures import Family
from shortlist.serving.messages import RequestError
from shortlist.serving.request_ids import BUNDLE, RequestIds, Shown, mark_of, marks_of
from shortlist.serving.requests import EventSent
from shortlist.serving.served import Served
from shortlist.serving.settings import Settings

WINDOW = 86_400
"""Seconds after an answer within which a click on it counts."""

PLACES = ((10, "1-10"), (100, "11-100"), (1_000, "101-1000"))
"""Groups of places in a list: the last place of each group, and its name."""

NOWHERE = "none"
"""The place of an item that was not in the list."""

REMEMBERED = 100_000
"""Number of clicks that are remembered, so that each item of a list is counted once."""

BUNDLES, CHANNELS = 4, 50
"""Maximum number of bundles and channels with figures of their own.

These are the bundles that this process served last, and the first channels. The rest, such as late
clicks on lists of older bundles, is counted together as OTHERS.
"""

OTHERS = "(others)"

ID_STATES = ("known", "late", "unknown", "none")
"""Kinds of request ids: of a list, of a list older than WINDOW, not of this service, not sent."""

Key = tuple[str, str]


@dataclass
class Counts:
    """Counts of one group of lists.

    lists: lists that were answered.
    items: items of these lists.
    clicked: lists with at least one click.
    clicks: clicks by group of places.
    """

    lists: int = 0
    items: int = 0
    clicked: int = 0
    clicks: dict[str, int] = field(
        default_factory=lambda: {name: 0 for _, name in PLACES} | {NOWHERE: 0}
    )


class ReadId(NamedTuple):
    """The request id of an event. what: one of ID_STATES. shown: the list, if `what` is "known"."""

    what: str
    shown: Shown | None = None


class Feedback:
    """Counts lists and clicks, and raises the alarms. Several threads may use it.

    It counts the lists that this process answered and the clicks that this process received.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time) -> None:
        self.ids = RequestIds(settings.write_token)
        self.clock, self.alarms = clock, Alarms()
        guards, now = settings.guards, clock()
        self.index = IndexRecall(guards.index_recall, self.alarms)
        self.check = IndexCheck(guards.check, self._compared)
        self._through = ClickThrough(guards.click_through, self.alarms, now)
        self._fallback = Fallback(guards.fallback, self.alarms, now)
        self._counts: OrderedDict[Key, Counts] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._id_counts = dict.fromkeys(ID_STATES, 0)
        self._compared_with = ""  # id of the bundle that `index` measures
        self._last: Key | None = None  # key of the bundle at the last call
        self._lock = Lock()

    @property
    def remembered(self) -> int:
        """Number of clicks that are remembered."""
        return len(self._seen)

    def shown(
        self,
        served: Served,
        found: Candidates,
        items: Sequence[Sequence[Any]],
        known: Iterable[int],
    ) -> list[str]:
        """Count an answer and return the request id of each of its lists.

        found: the candidates.
        items: their item ids, one list per query.
        known: number of known events of each user.
        """
        names, by = served.channel_numbers(found)
        made_at = min(max(int(self.clock()), 0), 2**32 - 1)
        lists = [
            Shown(
                made_at,
                self.ids.nonce(),
                served.id[:BUNDLE],
                bool(fallback),
                _slice(events),
                marks_of(listed),
                names,
                channels,
            )
            for fallback, events, listed, channels in zip(
                found.fallback, known, items, by, strict=True
            )
        ]
        with self._lock:
            self._serves(served)
            for one in lists:
                for counts in self._of(one):
                    counts.lists += 1
                    counts.items += len(one.marks) // 3
                for number in one.by:
                    self._count(("channel", one.channels[number])).items += 1
            self._through.take(len(lists), 0, self.clock())
        return [self.ids.write(one) for one in lists]

    def answered(self, served: Served, queries: Queries, k: int, found: Candidates) -> None:
        """Update the alarms with an answer; it may be compared with an exact scan."""
        with self._lock:
            if self._compared_with != served.id:
                self.index.clear()
                self._compared_with = served.id
            self._fallback.take(len(found), int(found.fallback.sum()), self.clock())
        self.check.offer(served, queries, k)

    def read(self, events: Sequence[EventSent]) -> list[ReadId]:
        """Read the request ids of events. Errors: RequestError for an invalid one."""
        return [self._read_id(place, event.request) for place, event in enumerate(events)]

    def _read_id(self, place: int, request: str | None) -> ReadId:
        if request is None:
            return ReadId("none")
        try:
            shown = self.ids.read(request)
        except ServingError as error:
            raise RequestError("invalid_request", f"events[{place}].request {error}") from None
        if shown is None:
            return ReadId("unknown")
        if abs(self.clock() - shown.made_at) > WINDOW:
            return ReadId("late")
        return ReadId("known", shown)

    def happened(
        self, served: Served, events: Sequence[Event], told: Sequence[ReadId], kept: Kept
    ) -> None:
        """Count the newly stored events that answers treat as items met."""
        count = len(kept.sequence) - kept.repeated
        fresh = set(sorted(set(kept.sequence))[-count:]) if count else set()
        with self._lock:
            for event, said, number in zip(events, told, kept.sequence, strict=True):
                if number not in fresh or not is_met(served, event):
                    continue
                fresh.discard(number)
                self._id_counts[said.what] += 1
                if said.shown is not None:
                    self._serves(served)
                    self._click(said.shown, event.item)

    def _click(self, shown: Shown, item: int | str) -> None:
        if not self._is_first(shown.nonce + mark_of(item)):
            return
        place = shown.place(item)
        group = next((name for last, name in PLACES if 0 < place <= last), NOWHERE)
        first = place > 0 and self._is_first(shown.nonce)
        for counts in self._of(shown):
            counts.clicks[group] += 1
            counts.clicked += first
        channel = shown.channel(place) if place else None
        if channel is not None:
            self._count(("channel", channel)).clicks[group] += 1
        if first:
            self._through.take(0, 1, self.clock())

    def _is_first(self, key: bytes) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _of(self, shown: Shown) -> list[Counts]:
        """The groups of lists in which a list is counted."""
        keys = [
            ("all", ""),
            ("bundle", shown.bundle),
            ("fallback", str(shown.fallback).lower()),
            ("slice", HISTORIES[shown.slice][1]),
        ]
        return [self._count(key) for key in keys]

    def _count(self, key: Key) -> Counts:
        found = self._counts.get(key)
        if found is not None:
            return found
        of_kind = [other for other in self._counts if other[0] == key[0]]
        if key[0] == "bundle" or (key[0] == "channel" and len(of_kind) >= CHANNELS):
            key = (key[0], OTHERS)
        return self._counts.setdefault(key, Counts())

    def _serves(self, served: Served) -> None:
        """Give the served bundle its own figures; drop those of the oldest bundle if too many."""
        key = ("bundle", served.id[:BUNDLE])
        if key == self._last:
            return
        self._last = key
        self._counts.setdefault(key, Counts())
        self._counts.move_to_end(key)
        own = [other for other in self._counts if other[0] == "bundle" and other[1] != OTHERS]
        if len(own) > BUNDLES:
            del self._counts[own[0]]

    def _compared(self, served: Served, recall: float) -> None:
        with self._lock:
            if self._compared_with == served.id:
                self.index.take(recall)

    def columns(self) -> dict[str, Any]:
        """Return all figures as columns of an answer."""
        with self._lock:
            rows = [
                {"by": by, "value": value, **figures(one)}
                for (by, value), one in sorted(
                    self._counts.items(), key=lambda counted: counted[0][0]
                )
            ]
            said = dict(self._id_counts)
        names = rows[0] if rows else {"by": "", "value": "", **figures(Counts())}
        return {
            "figures": {name: [row[name] for row in rows] for name in names},
            "requests": said,
            "index": {
                "recall": self.index.recall,
                "compared": self.check.compared,
                "skipped": self.check.skipped,
            },
            "alarms": [name for name, raised in self.alarms.raised.items() if raised],
        }

    def families(self) -> list[Family]:
        """Return all figures as metrics."""
        labels = ("by", "value")
        found = [
            Family("shown_lists", "Lists that were answered with a request id.", labels),
            Family("shown_items", "Items in these lists.", labels),
            Family("clicked_lists", "Lists with at least one click.", labels),
            Family(
                "clicks",
                "Items with an event after a list, once each, by place in the list.",
                (*labels, "place"),
            ),
            Family(
                "event_requests",
                "New events by kind of request id: known, late, unknown, none.",
                ("request",),
            ),
            Family(
                "index_checks", "Requests chosen for a comparison with an exact scan.", ("outcome",)
            ),
            Family(
                "alarm",
                "1 while the threshold of an alarm is crossed, otherwise 0.",
                ("guard",),
                "gauge",
            ),
            Family(
                "index_recall",
                "Recall of the index against an exact scan, last 100 comparisons.",
                (),
                "gauge",
                "min",
            ),
        ]
        lists, items, clicked, clicks, requests, checks, alarms, recall = found
        with self._lock:
            for key, one in self._counts.items():
                if key[0] != "channel":
                    lists.samples.append((key, one.lists))
                    clicked.samples.append((key, one.clicked))
                items.samples.append((key, one.items))
                clicks.samples += [((*key, place), number) for place, number in one.clicks.items()]
            requests.samples += [((what,), number) for what, number in self._id_counts.items()]
        done = {"compared": self.check.compared, "skipped": self.check.skipped}
        checks.samples += [((what,), number) for what, number in done.items()]
        alarms.samples += [((name,), int(on)) for name, on in self.alarms.raised.items()]
        if self.index.recall is None:
            return found[:-1]
        recall.samples.append(((), self.index.recall))
        return found

    def close(self) -> None:
        """End the thread that compares."""
        self.check.close()


def figures(counts: Counts) -> dict[str, Any]:
    """Return counts with recall of the first 10 and 100 places and of whole lists."""
    clicks = sum(counts.clicks.values())
    first = counts.clicks[PLACES[0][1]]
    second = first + counts.clicks[PLACES[1][1]]
    shown = clicks - counts.clicks[NOWHERE]
    return {
        "lists": counts.lists,
        "items": counts.items,
        "clicked": counts.clicked,
        "clicks": clicks,
        "shown": shown,
        "recall_at_10": first / clicks if clicks else None,
        "recall_at_100": second / clicks if clicks else None,
        "recall": shown / clicks if clicks else None,
    }


def is_met(served: Served, event: Event) -> bool:
    """Tell whether answers treat the item of an event as met."""
    table, least = served.kinds_of_events, served.min_weight
    if table:
        name = kind_of(event.weight if served.kinds_by_weight else event.kind, table)
        return name is None or table[name].read
    return least is None or event.weight is None or event.weight >= least


def _slice(known: int) -> int:
    """The index of the slice (by history length) of a user with `known` events."""
    return sum(known >= least for least, _ in HISTORIES) - 1
