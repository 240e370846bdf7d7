"""What does each process of a service with several processes do?

It answers requests like a single process. A thread receives the messages of the main process, such
as when to check for a newer bundle.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import orjson
import torch

from shortlist.bundle.bundle import load
from shortlist.errors import ShortlistError
from shortlist.plugins import use_plugins
from shortlist.serving.access_log import printed
from shortlist.serving.app import App
from shortlist.serving.bus_error import say_bus_errors
from shortlist.serving.many import Job, counts, refused_elsewhere
from shortlist.serving.measures import Measures, share_figures
from shortlist.serving.messages import RequestError
from shortlist.serving.private_copy import load_privately
from shortlist.serving.refused import Refused
from shortlist.serving.server import Place, Server
from shortlist.serving.watching import Watch

logger = logging.getLogger("shortlist.serving")


def work(job: Job, listener: socket.socket, channel: socket.socket) -> None:
    """Serve until SIGTERM, or until the main process has ended."""
    logging.basicConfig(level=job.log_level, format="%(asctime)s %(levelname)s %(message)s")
    with channel, printed(sys.stdout):
        others = Channel(channel)
        try:
            _serve(job, listener, others)
        except ShortlistError as error:
            others.say(say="failed", kind=type(error).__name__, reason=str(error))
            sys.exit(1)


def _serve(job: Job, listener: socket.socket, others: "Channel") -> None:
    use_plugins(job.plugins)
    say_bus_errors()
    torch.set_num_threads(1)
    share_figures(job.figures, job.number)
    measures = Measures((job.figures, job.number))
    settings = job.settings
    watch = Watch(job.path, measures, load_privately if settings.private_copy else load)
    app = App(watch, measures, settings, others=others)
    others.start(watch)
    others.may_open.wait()
    place = Place(listener, counts(job.figures, settings), job.number)
    server = Server(app, "", 0, settings, lambda _: others.say(say="open"), place)
    try:
        server.run()
    finally:
        app.close()


class Channel:
    """The connection to the main process; for `App` it stands for the other processes."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._heard = channel.makefile("rb")
        self._writing, self._reloading = Lock(), Lock()
        self._reloaded: SimpleQueue[bool | None] = SimpleQueue()
        self._voted = False
        self._watch: Watch | None = None
        self.may_open = Event()
        self.ready = False

    def start(self, watch: Watch) -> None:
        """Handle the messages of the main process from now on, in a thread."""
        self._watch = watch
        Thread(target=self._listen, args=(watch,), name="others", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Send a message to the main process, unless it has ended."""
        with self._writing, suppress(OSError):
            self._channel.sendall(orjson.dumps(message) + b"\n")

    def reload(self) -> bool:
        """Let all processes check for a newer bundle.

        Return True if all have switched to it, False if none has.
        """
        with self._reloading:
            self.say(say="reload")
            changed = self._reloaded.get()
        if changed is None:
            raise RequestError("draining", "the service shut down before the answer was ready")
        return changed

    def loads(self, refused: Refused) -> None:
        """Announce the bundle that is loaded now, as a refusal in case this process ends."""
        self.say(say="loads", bundle=vars(refused))

    def agrees(self, choice: tuple[str, str], refused: Sequence[Refused], *, new: bool) -> bool:
        """Vote for a bundle; return whether all processes have chosen it."""
        assert self._watch is not None
        self._voted = True
        self.say(
            say="vote",
            choice=choice,
            new=new,
            refused=[vars(each) for each in refused],
            is_bundle=self._watch.is_bundle,
        )
        while (message := self._next()) is not None:
            if message["do"] == "decide":
                return bool(message["agreed"])
            self._note(message)
        return False

    def _next(self) -> dict[str, Any] | None:
        """The next message of the main process; None when it has ended."""
        try:
            line = self._heard.readline()
        except OSError:
            line = b""
        return orjson.loads(line) if line else None

    def _listen(self, watch: Watch) -> None:
        self.say(say="begun")
        while (message := self._next()) is not None:
            if message["do"] == "look":
                self._look(watch, message)
            else:
                self._note(message)
        self._reloaded.put(None)
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "open":
                self.may_open.set()
            case "ready":
                self.ready = True
            case "reloaded":
                self._reloaded.put(message["changed"])

    def _look(self, watch: Watch, message: dict[str, Any]) -> None:
        self._voted = False
        elsewhere = [refused_elsewhere(each) for each in message["refused"]]
        try:
            watch.look(again=message["again"], beside=self, elsewhere=elsewhere)
        except Exception:
            # The served bundle is still valid, and the next check may succeed.
            logger.exception("checking for bundles failed")
            if not self._voted:
                self.agrees(watch.choice, watch.refused, new=False)
        self.say(say="done")
