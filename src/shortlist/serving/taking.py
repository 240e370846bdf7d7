"""Which of several processes accepts the next connection? One that has the fewest.

All processes wait at one socket, and the kernel wakes all of them for each connection. A process
with more connections than another waits for MOMENT seconds before it accepts.
"""

import asyncio
import logging
import mmap
import socket
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("shortlist.serving")

CLOSED = 2**62
"""The count of a process that accepts no connections."""

MOMENT = 0.005
"""Seconds that a process waits for one with fewer connections."""

NO_MORE = 1.0
"""Seconds that a process waits if it has too many open files."""


class Counts:
    """The number of connections of each process, in shared memory."""

    def __init__(self, path: Path, processes: int) -> None:
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.truncate(8 * processes)
            self._counts = memoryview(mmap.mmap(file.fileno(), 8 * processes)).cast("q")

    def set(self, number: int, count: int) -> None:
        """Set the count of the process of this number."""
        self._counts[number] = count

    def most(self, number: int) -> bool:
        """Return whether another process has fewer connections than this one."""
        return self._counts[number] > min(self._counts)


class Taking:
    """Accepts connections from a shared socket, one at a time.

    take: makes the protocol of a connection.
    number: number of this process in `counts`.
    """

    def __init__(
        self,
        listener: socket.socket,
        take: Callable[[], asyncio.Protocol],
        counts: Counts,
        number: int,
    ) -> None:
        self._listener, self._take, self._counts, self._number = listener, take, counts, number
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self.count(0)
        self._listen()

    def count(self, connections: int) -> None:
        """Update the number of open connections, since this class does not see them end."""
        self._count = connections + len(self._making)
        self._counts.set(self._number, self._count)

    def end(self) -> None:
        """Accept no more connections."""
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()
        self._counts.set(self._number, CLOSED)

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._come)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, then)

    def _come(self) -> None:
        if self._counts.most(self._number):
            self._wait(MOMENT, self._take_late)
        else:
            self._take_one()

    def _take_late(self) -> None:
        self._listen()
        self._take_one()

    def _take_one(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client disconnected
        except OSError as error:  # too many files are open
            logger.error("no connection can be accepted: %s", error.strerror)
            self._wait(NO_MORE, self._listen)
            return
        connection.setblocking(False)
        self._count += 1
        self._counts.set(self._number, self._count)
        made = self._loop.connect_accepted_socket(self._take, connection)
        task: asyncio.Task[object] = self._loop.create_task(made)
        self._making.add(task)
        task.add_done_callback(self._making.discard)
