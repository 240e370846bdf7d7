"""Who computes answers? A fixed number of threads with a bounded queue; a full queue refuses."""

import asyncio
import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from shortlist.errors import ServingError
from shortlist.serving.messages import RequestError

Result = TypeVar("Result")


class Workers:
    """Threads that do blocking work for an event loop. A cancelled job is not started.

    threads: number of threads.
    queue: jobs that may wait for a thread.
    pending: jobs that wait or run; only the event loop changes it.
    """

    FULL = ("busy", "too many requests are waiting; try again later")

    def __init__(self, threads: int, queue: int) -> None:
        self.pending = 0
        self._process = os.getpid()
        self._most = threads + queue
        self._jobs: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._hungry = Event()
        self._threads = [
            Thread(target=self._work, name=f"answer-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def full(self) -> bool:
        """True if the next job would be refused."""
        return self.pending >= self._most

    def leave_alone(self, seconds: float) -> None:
        """Block the event loop for at most `seconds`, or until no job waits.

        Threads share one interpreter lock. A thread that releases it, as every tensor operation
        does, waits up to 5 ms to get it back from a busy event loop.
        """
        self._hungry.clear()
        if not self._jobs.empty():
            self._hungry.wait(seconds)

    def submit(self, work: Callable[..., Result], *arguments: Any) -> "asyncio.Future[Result]":
        """Return a future of `work(*arguments)`.

        Errors: RequestError "busy" if the queue is full; ServingError in a forked process, which
        has no threads.
        """
        if self.full:
            raise RequestError(*self.FULL)
        if self._process != os.getpid():
            raise ServingError(
                "this process was forked and has no worker threads: create the App after "
                "the fork, or start the process by spawn"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self.pending += 1
        self._jobs.put((loop, future, work, arguments))
        return future

    def close(self) -> None:
        """End the threads after the waiting jobs."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, work, arguments = job
            result, failure = None, None
            if not future.cancelled():
                try:
                    result = work(*arguments)
                except Exception as error:  # noqa: BLE001 - the future passes it on
                    failure = error
            try:
                loop.call_soon_threadsafe(self._settle, future, result, failure)
            except RuntimeError:  # the event loop is closed
                return
            del job, future, result, failure, work, arguments
            if self._jobs.empty():
                self._hungry.set()

    def _settle(self, future: Any, result: Any, failure: Exception | None) -> None:
        self.pending -= 1
        if future.cancelled():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)
