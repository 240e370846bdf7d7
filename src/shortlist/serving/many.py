"""How do several processes serve one address? A main process starts and coordinates them.

The main process creates the socket, which all processes inherit, and answers no requests. Each
process accepts connections when it has time. They choose a bundle together, in rounds: each votes
for a bundle, and all switch to it if all can load it (`one_of_many`). The main process replaces a
process that ends.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson

from shortlist.errors import BundleError, ServingError, ShortlistError
from shortlist.outputs import reason_of
from shortlist.serving.measures import Processes
from shortlist.serving.refused import Refused, cannot_be_served
from shortlist.serving.settings import Settings
from shortlist.serving.taking import CLOSED, Counts

logger = logging.getLogger("shortlist.serving")

SPAWN = multiprocessing.get_context("spawn")
"""Spawn, not fork: a fork copies locks that other threads, such as those of torch, may hold."""

BACKLOG = 2_048
"""Maximum number of connections that wait for a process to accept them."""

TRIES = 5
"""Number of rounds in a row in which the processes try to agree on a bundle."""

ENDS = 3
"""The service ends after so many processes in a row have ended before they could answer."""

LONGEST = 2**28
"""Maximum bytes of one message of a process; a refusal lists all files of the bundle."""

LOADS = 2
"""A bundle is refused after so many processes have ended while they loaded it."""

UNGUARDED = 78
"""Exit code of a process that calls `serve` itself, because its script does not guard the call."""


class Job(NamedTuple):
    """What a process needs to serve.

    number: its number, from 0.
    figures: folder of the shared metrics.
    plugins: modules with plug-ins to import.
    """

    number: int
    path: Path
    settings: Settings
    figures: Path
    plugins: tuple[str, ...]
    log_level: int


def serve_together(
    path: Path,
    host: str,
    port: int,
    settings: Settings,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve with `settings.processes` processes until SIGTERM or SIGINT; see `run.serve`.

    ready: called once with the address when all processes answer.
    Errors: ServingError for an address that cannot be used and for processes that end before they
    can answer; the errors of these processes; BundleError for a single bundle that cannot be
    served.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(UNGUARDED)  # a spawned process imports the caller's script
    with (
        _listening(host, port) as listener,
        TemporaryDirectory(prefix="shortlist-figures-") as figures,
    ):
        first = _MainProcess(path, settings, listener, Path(figures), ready)
        try:
            asyncio.run(first.run())
        finally:
            first.figures.close()
    if first.failure is not None:
        raise first.failure


def address_of(listener: socket.socket) -> str:
    """Return the URL of the service."""
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServingError(f"cannot listen on {host}, port {port}: {reason_of(error)}") from None
    with listener:
        yield listener


@dataclass(frozen=True)
class _Vote:
    """The vote of a process.

    choice: name and seal of the bundle that it would serve.
    new: True if it does not serve this bundle yet.
    refused: bundles that it refuses.
    is_bundle: True if the path is a single bundle.
    """

    choice: tuple[str, str]
    new: bool
    refused: list[Refused]
    is_bundle: bool


class _Member:
    """A process, as the main process sees it.

    early: it accepts connections before it has a bundle.
    begun: it can take part in rounds.
    looked: it serves the bundle that all agreed on, or there is none yet.
    open: it accepts connections.
    welcome: it has been told to accept connections.
    loading: the bundle that it is loading, as a refusal.
    """

    def __init__(self, job: Job, listener: socket.socket, *, early: bool) -> None:
        self.number = job.number
        self.early = early
        self.begun = self.looked = self.open = self.welcome = False
        self.loading: Refused | None = None
        self.failure: ShortlistError | None = None
        self.votes: asyncio.Queue[_Vote | None] = asyncio.Queue()
        self.done: asyncio.Queue[None] = asyncio.Queue()
        self._ours, theirs = socket.socketpair()
        self.process = SPAWN.Process(
            target=_work, args=(job, listener, theirs), name=f"serve-{job.number}", daemon=True
        )
        with theirs, _without_interrupts():
            self.process.start()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def up(self) -> bool:
        """True if it answers requests."""
        return self.open and self.looked

    async def listen(self, take: Callable[["_Member", dict[str, Any]], None]) -> int:
        """Pass its messages to `take` until it ends; return its exit code."""
        reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=LONGEST)
        if self.early:
            self.send(do="open")
        with suppress(ConnectionError):
            while line := await reader.readline():
                take(self, orjson.loads(line))
        self.begun = False
        self.votes.put_nowait(None)  # for a round that waits for its vote
        self.done.put_nowait(None)
        await self._ended()
        self._writer.close()
        return self.process.exitcode or 0

    async def _ended(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process.sentinel, ended.set)
        await ended.wait()
        loop.remove_reader(self.process.sentinel)
        self.process.join()

    def send(self, **message: Any) -> None:
        """Send it a message, unless it has ended."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)


class _MainProcess:
    """The main process. is_ready: True once `ready` has been called."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        listener: socket.socket,
        figures: Path,
        ready: Callable[[str], None] | None,
    ) -> None:
        self.settings, self.listener, self.ready = settings, listener, ready
        self.figures = Processes(figures)
        self.failure: ShortlistError | None = None
        level = logging.getLogger().getEffectiveLevel()
        self._job = Job(0, path, settings, figures, _plugins(), level)
        self._counts = counts(figures, settings)
        for number in range(settings.processes):
            self._counts.set(number, CLOSED)
        self._members: dict[int, _Member] = {}
        self._asking: list[_Member] = []
        self._wake = asyncio.Event()
        self._leaving = asyncio.Event()
        self._refused: list[Refused] = []
        self._deadly: Counter[tuple[str, str]] = Counter()
        self._ends = 0
        self.is_ready = False

    async def run(self) -> None:
        """Run the processes until the service ends."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._leave, number)
        rounds = asyncio.create_task(self._rounds())
        try:
            await asyncio.gather(*(self._keep(n) for n in range(self.settings.processes)))
        finally:
            rounds.cancel()

    def _leave(self, number: int = signal.SIGTERM) -> None:
        if not self._leaving.is_set():
            logger.info("draining")
        self._leaving.set()
        for member in self._members.values():
            member.signal(number)

    def _fail(self, failure: ShortlistError) -> None:
        self.failure = self.failure or failure
        self._leave()

    async def _keep(self, number: int) -> None:
        """Run the process of this number, and replace it when it ends, until the service ends."""
        while not self._leaving.is_set():
            job = self._job._replace(number=number)
            member = _Member(job, self.listener, early=not self.is_ready)
            self._members[number] = member
            code = await member.listen(self._take)
            del self._members[number]
            self.figures.up(self._up())
            self._counts.set(number, CLOSED)
            if self._leaving.is_set():
                return
            self._note_end(member, code)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.25 * 2**self._ends if self._ends else 0):
                    await self._leaving.wait()

    def _note_end(self, member: _Member, code: int) -> None:
        how = _how(code)
        self.figures.ended()
        self._wake.set()
        if member.loading is not None:
            self._note_deadly(member.loading, how)
        self._ends = 0 if member.up else self._ends + 1
        if code == UNGUARDED:
            self._fail(
                ServingError(
                    "each process that serve starts runs the calling script again: put the call "
                    'below the line if __name__ == "__main__":'
                )
            )
        elif member.failure is not None and not self.is_ready:
            self._fail(member.failure)
        elif self._ends >= ENDS:
            self._fail(
                member.failure
                or ServingError(
                    f"{ENDS} processes of the service {how}, one after another, before they could "
                    "answer: their messages are above"
                )
            )
        else:
            logger.error(
                "process %s of the service %s%s: a new one replaces it",
                *(member.process.pid, how, f" ({member.failure})" if member.failure else ""),
            )

    def _note_deadly(self, loading: Refused, how: str) -> None:
        """Refuse a bundle if processes have ended while loading it, for example for memory."""
        key = (loading.name, loading.seal)
        self._deadly[key] += 1
        if self._deadly[key] >= LOADS:
            reason = f"{LOADS} processes ended while they loaded it; the last one {how}"
            self._refused.append(Refused(*key, reason, loading.files))

    def _up(self) -> int:
        return sum(member.up for member in self._members.values())

    def _take(self, member: _Member, message: dict[str, Any]) -> None:
        """Handle a message of a process."""
        match message.pop("say"):
            case "begun":
                member.begun = True
                self._wake.set()
            case "loads":
                member.loading = refused_elsewhere(message["bundle"])
            case "vote":
                member.loading = None
                member.votes.put_nowait(
                    _Vote(
                        tuple(message["choice"]),
                        message["new"],
                        [refused_elsewhere(each) for each in message["refused"]],
                        message["is_bundle"],
                    )
                )
            case "done":
                member.done.put_nowait(None)
            case "reload":
                self._asking.append(member)
                self._wake.set()
            case "open":
                member.open = True
                self._note_up(member)
            case "failed":
                kinds = {kind.__name__: kind for kind in ShortlistError.__subclasses__()}
                kind = kinds.get(message["kind"], ServingError)
                member.failure = kind(message["reason"])

    def _note_up(self, member: _Member) -> None:
        """Report that the service is ready once every process answers."""
        self.figures.up(self._up())
        if not member.up:
            return
        self._ends = 0
        if self.is_ready:
            member.send(do="ready")
        elif self._up() == self.settings.processes:
            self.is_ready = True
            for each in self._members.values():
                each.send(do="ready")
            if self.ready is not None:
                self.ready(address_of(self.listener))

    async def _rounds(self) -> None:
        """Run a round every `poll` seconds, on request, and for a new process."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.poll):
                    await self._wake.wait()
            self._wake.clear()
            begun = sum(member.begun for member in self._members.values())
            if not self.is_ready and begun < self.settings.processes:
                continue  # the first round needs all processes
            asking, self._asking = self._asking, []
            changed = await self._round(again=bool(asking))
            for member in asking:
                member.send(do="reloaded", changed=changed)

    async def _round(self, *, again: bool) -> bool:
        """Let all processes check for a newer bundle; return whether they switched to one."""
        if again:
            self._refused = []
            self._deadly.clear()
        for attempt in range(TRIES):
            members = [member for member in self._members.values() if member.begun]
            refused = [vars(each) for each in self._refused]
            for member in members:
                member.send(do="look", again=again and attempt == 0, refused=refused)
            votes = {member: vote for member in members if (vote := await member.votes.get())}
            agreed = len(votes) == len(members) and self._agreed(votes)
            for member in votes:
                member.send(do="decide", agreed=agreed)
            for member in votes:
                await member.done.get()  # it serves the agreed bundle now
            if agreed:
                self._take_up(votes)
                return any(vote.new for vote in votes.values())
            if self._leaving.is_set():
                return False
        logger.warning(
            "the processes of the service could not agree on a bundle; they will check again"
        )
        return False

    def _agreed(self, votes: Mapping[_Member, _Vote]) -> bool:
        """Tell whether all votes are for the same bundle, and none of them refuses a new one."""
        known = {(each.name, each.seal): each for each in self._refused}
        for vote in votes.values():
            known |= {(each.name, each.seal): each for each in vote.refused}
        self._refused = list(known.values())
        new = {vote.choice for vote in votes.values() if vote.new}
        return len(_chosen(votes)) <= 1 and not new & known.keys()

    def _take_up(self, votes: Mapping[_Member, _Vote]) -> None:
        """Let new processes answer, or end the service if its single bundle is refused."""
        chosen = _chosen(votes)
        refused = [each for vote in votes.values() for each in vote.refused]
        if not chosen and refused and all(vote.is_bundle for vote in votes.values()):
            self._fail(BundleError(cannot_be_served(refused)))
            return
        for member, vote in votes.items():
            member.looked = member.looked or not chosen or vote.choice in chosen
            if member.looked and not member.early and not member.welcome:
                member.welcome = True
                member.send(do="open")
            self._note_up(member)


def counts(figures: Path, settings: Settings) -> Counts:
    """Return the shared table of connections per process."""
    return Counts(figures / "connections", settings.processes)


def _plugins() -> tuple[str, ...]:
    """Modules of the plug-ins in use, without importing `plugins`, which is slow to import."""
    plugins = sys.modules.get("shortlist.plugins")
    if plugins is None:
        return ()
    return tuple(sorted({part.module for part in plugins.OWN.values()}))


def _work(job: Job, listener: socket.socket, channel: socket.socket) -> None:
    """The main function of each process."""
    os.setsid()  # Ctrl-C goes to the main process only, which signals the others
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # It imports torch and other heavy packages, which the main process does not need.
    from shortlist.serving.one_of_many import work  # noqa: PLC0415

    work(job, listener, channel)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT while a process starts, until it has left the group that receives it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chosen(votes: Mapping[_Member, _Vote]) -> set[tuple[str, str]]:
    return {vote.choice for vote in votes.values() if vote.choice[1]}


def refused_elsewhere(message: dict[str, Any]) -> Refused:
    """A refusal from the message of another process."""
    files = {name: tuple(looks) for name, looks in (message["files"] or {}).items()}
    return Refused(message["name"], message["seal"], message["reason"], files)


def _how(code: int) -> str:
    """Describe how a process ended.

    >>> _how(-9), _how(1)
    ('was ended by SIGKILL', 'ended with exit code 1')
    """
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
