"""How does a service store events, and read them for its answers?

One thread writes: it stores all waiting requests in one step, so a slow disk delays them once.
Another thread reads, so that an answer can stop waiting for a slow store.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from shortlist.errors import EventStoreError
from shortlist.histories.events import (
    Appended,
    Event,
    EventConflictError,
    EventStore,
    Id,
    Kept,
    PaceError,
    Stored,
)
from shortlist.histories.places import events_at
from shortlist.histories.redis_events import RedisEvents
from shortlist.histories.sqlite import SQLiteEvents
from shortlist.outputs import is_bundle
from shortlist.serving.alarms import Alarms
from shortlist.serving.known_events import KnownEvents
from shortlist.serving.measures import Measures
from shortlist.serving.messages import RequestError
from shortlist.serving.pace import Pace
from shortlist.serving.settings import Settings

Result = TypeVar("Result")

logger = logging.getLogger("shortlist.serving")

PENDING = 4_096
"""Maximum number of requests that wait for the writing thread."""

TOGETHER = 512
"""Maximum number of requests that are written in one step."""

SHOWN = 100
"""Maximum number of events in `newest`."""

TIDY_EVERY = 600.0
"""Seconds between removals of expired events."""

GONE = "the store of events is not available; send the events again later, with the same ids"
LATE = "the store is slow and may still store the events; send them again with the same ids"


class Newest(NamedTuple):
    """An event that this process has stored. time: microseconds since 1970."""

    number: int
    event: Event
    time: int


class EventLog:
    """The store of events of a service. `append` and `forget` are for its event loop.

    forgotten: deleted users. Users that another process deletes are added within TIDY_EVERY
    seconds; `latest` reports them at once.
    newest: the last events that this process has stored, newest first, without deleted users.
    """

    def __init__(self, store: EventStore, settings: Settings, measures: Measures) -> None:
        self.store = store
        self.measures = measures
        self.pace = Pace(settings.limits.user_events)
        self._times = settings.timeouts
        self._pending = 0
        self._waiting: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._asked: SimpleQueue[_Question | None] = SimpleQueue()
        self._changing = Lock()
        self._known = KnownEvents()
        self._begun: float | None = None  # start time of the read in progress
        self.alarms = Alarms()
        self._trimmed = store.trimmed
        self.forgotten = frozenset(store.forgotten())
        self.newest: tuple[Newest, ...] = ()
        self._of = store.identity  # identity of the store that `newest` belongs to
        self._noting = Lock()  # held while `newest` changes
        self._threads = [
            Thread(target=work, name=name, daemon=True)
            for name, work in (("write-events", self._write), ("read-events", self._read))
        ]
        for thread in self._threads:
            thread.start()

    async def append(self, events: Sequence[Event]) -> Kept:
        """Store events; once this returns, they survive the process. Errors: RequestError."""
        if self._pending >= PENDING:
            raise RequestError("busy", "too many events are waiting; send them again later")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended] = loop.create_future()
        self._pending += 1
        self._waiting.put((loop, future, events))
        told: Appended = await self._in_time(future)
        if isinstance(told, EventConflictError):
            raise RequestError("invalid_request", str(told))
        if isinstance(told, PaceError):
            raise self._too_many(told.user)
        if isinstance(told, EventStoreError):
            raise RequestError("store_unavailable", GONE)
        self.measures.kept(len(told.sequence) - told.repeated, told.repeated)
        self._note(told.sequence, events)
        return told

    def check_pace(self, events: Sequence[Event]) -> None:
        """Refuse events of a user who sends too many per minute. Errors: RequestError."""
        slow = self.pace.take(Counter(event.user for event in events))
        if slow is not None:
            raise self._too_many(slow)

    def _too_many(self, user: Any) -> RequestError:
        return RequestError(
            "too_many", f"user {user!r:.40} may send at most {self.pace.a_minute} events per minute"
        )

    async def forget(self, user: Id) -> int:
        """Delete a user's events; return how many they were. Errors: RequestError."""
        try:
            count: int = await self._in_time(
                asyncio.to_thread(self._change, self.store.forget, user)
            )
        except EventStoreError:
            raise RequestError("store_unavailable", GONE) from None
        self._known.drop([user])
        self._leave({user})
        return count

    def latest(
        self, users: Sequence[Id], since: int, *, detailed: bool = False
    ) -> list[Stored] | None:
        """Return the stored events of users; None if the store does not answer in time.

        The worker threads call it. It waits for `timeouts.store` seconds, plus the same time for
        each 100 users. If an earlier read is stuck, it does not wait. Recent results are cached:
        changes by this process show at once, those by other processes a tenth of a second later.

        since: only events with larger numbers.
        detailed: return times, weights, kinds and features as well.
        """
        known = self._known.get(users, (since, detailed))
        if known is not None:
            return known
        wait = self._times.store * (1 + len(users) // 100)
        found, begun = None, self._begun
        if begun is None or monotonic() - begun < wait:
            question = _Question(users, since, detailed=detailed)
            self._asked.put(question)
            found = question.answer(wait)
        if found is None:
            self.measures.without_events.inc()
        return found

    def close(self) -> None:
        """Write the waiting events and close the store."""
        self._waiting.put(None)
        self._asked.put(None)
        for thread in self._threads:
            thread.join(max(1.0, self._times.drain))
        if not any(thread.is_alive() for thread in self._threads):
            self.store.close()

    def _note(self, numbers: Sequence[int], events: Sequence[Event]) -> None:
        """Add new events to `newest`, without those that had been sent before."""
        now = self.store.now()
        with self._noting:
            if self._of != self.store.identity:  # the server restarted without its data
                self._of, self.newest = self.store.identity, ()
            last = self.newest[0].number if self.newest else 0
            fresh = {
                number: Newest(number, event, now if event.time is None else event.time)
                for number, event in zip(numbers, events, strict=True)
                if number > last
            }
            self.newest = (*reversed(fresh.values()), *self.newest)[:SHOWN]

    def _leave(self, users: Iterable[Id]) -> None:
        """Record deleted users and remove their events from `newest`."""
        gone = frozenset(users)
        self.forgotten |= gone
        with self._noting:
            self.newest = tuple(one for one in self.newest if one.event.user not in gone)

    async def _in_time(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._times.answer):
                return await work
        except TimeoutError:
            raise RequestError("store_unavailable", LATE) from None

    def _write(self) -> None:
        tidied = None
        while True:
            if tidied is None or monotonic() - tidied > TIDY_EVERY:
                with suppress(EventStoreError):
                    if self._change(self.store.tidy):
                        self._known.clear()
                    self._leave(set(self._change(self.store.forgotten)) - self.forgotten)
                tidied = monotonic()
            try:
                jobs = [self._waiting.get(timeout=TIDY_EVERY)]
            except Empty:
                continue
            while len(jobs) < TOGETHER and not self._waiting.empty():
                jobs.append(self._waiting.get())
            asked = [job for job in jobs if job is not None]
            if asked:
                self._keep(asked)
            if len(asked) < len(jobs):
                return

    def _keep(self, jobs: Sequence[tuple[Any, ...]]) -> None:
        """Write the events of several requests in one step, and resolve their futures."""
        try:
            told: Sequence[Appended] = self._change(self.store.append, [job[2] for job in jobs])
        except EventStoreError as error:
            told = [error] * len(jobs)
        self._known.drop({event.user for job in jobs for event in job[2]})
        self.measures.trimmed.inc(self.store.trimmed - self._trimmed)
        self._trimmed = self.store.trimmed
        by_loop: dict[Any, list[tuple[Any, Appended]]] = {}
        for (loop, future, _), answer in zip(jobs, told, strict=True):
            by_loop.setdefault(loop, []).append((future, answer))
        for loop, answers in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(self._settle, answers)

    def _settle(self, answers: Sequence[tuple[Any, Appended]]) -> None:
        self._pending -= len(answers)
        for future, answer in answers:
            if not future.done():
                future.set_result(answer)

    def _read(self) -> None:
        while (question := self._asked.get()) is not None:
            if question.left:
                continue
            self._begun = monotonic()
            with suppress(EventStoreError):
                question.found = self._noted(self._looked_up, question)
            self._begun = None
            question.told.release()

    def _looked_up(self, question: "_Question") -> list[Stored]:
        generation, what = self._known.generation, (question.since, question.detailed)
        found = self.store.latest(question.users, question.since, detailed=question.detailed)
        self._known.current(changed=self.store.is_changed())
        self._known.put(question.users, what, found, generation)
        return found

    def _change(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Change the store; only one thread does so at a time."""
        with self._changing:
            return self._noted(work, *arguments)

    def _noted(self, work: Callable[..., Result], *arguments: Any, **more: Any) -> Result:
        """Use the store; raise the alarm when it fails, and end it when it works again."""
        try:
            done = work(*arguments, **more)
        except Exception as error:
            self.measures.store_up.set(0)
            self.alarms.tell("store", crossed=True, said=str(error))
            if isinstance(error, EventStoreError):
                raise
            logger.exception("the store of events failed")
            raise EventStoreError(str(error)) from error
        self.measures.store_up.set(1)
        self.alarms.tell("store", crossed=False, said="the store of events is available again")
        return done


def opened(settings: Settings) -> EventStore:
    """Open or create the store of the settings, and log how durable it is.

    Errors: EventStoreError.
    """
    place = settings.events
    assert place is not None
    for folder in place.absolute().parents if isinstance(place, Path) else ():
        if is_bundle(folder):
            raise EventStoreError(
                f"the store of events {place} would lie in the bundle {folder}, which "
                "holds only its own files: give a path outside it"
            )
    store = events_at(place, settings.keeping, settings.limits.user_events)
    if isinstance(store, RedisEvents):
        lasting = store.lasting
        level = logging.INFO if lasting.sure else logging.WARNING
        logger.log(level, "events are kept in %s: %s", place, lasting.said)
    if isinstance(store, SQLiteEvents) and store.incomplete:
        logger.error(
            "the last events that were written to %s before the service ended are lost: the file "
            "beside it (-wal) was cut short or damaged, or power was lost",
            place,
        )
    return store


class _Question:
    """A read of the store that a worker thread waits for."""

    def __init__(self, users: Sequence[Id], since: int, *, detailed: bool) -> None:
        self.users, self.since, self.detailed = users, since, detailed
        self.found: list[Stored] | None = None
        self.left = False  # True once the worker has stopped waiting
        self.told = Lock()
        self.told.acquire()

    def answer(self, seconds: float) -> list[Stored] | None:
        """Wait for the result; None if it does not come in time."""
        if self.told.acquire(timeout=seconds):
            return self.found
        self.left = True
        return None
