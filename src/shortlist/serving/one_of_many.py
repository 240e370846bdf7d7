"""What does one of the processes do that serve one address together?

It serves as a service of its own would, and a thread beside hears when to look for a newer bundle.
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
    """Serve until SIGTERM, or until the process that started this one is gone."""
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
    """The line to the process that started this one: `App` sees the others through it."""

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
        """Do what the first process says from now on."""
        self._watch = watch
        Thread(target=self._listen, args=(watch,), name="others", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Tell the first process something; one that is gone does not hear it."""
        with self._writing, suppress(OSError):
            self._channel.sendall(orjson.dumps(message) + b"\n")

    def reload(self) -> bool:
        """Let all look for a newer bundle; return whether all have taken one. Else none has."""
        with self._reloading:
            self.say(say="reload")
            changed = self._reloaded.get()
        if changed is None:
            raise RequestError("draining", "the service ended before the answer")
        return changed

    def loads(self, refused: Refused) -> None:
        """Say what is loaded now, as it would be refused if that ended the process."""
        self.say(say="loads", bundle=vars(refused))

    def agrees(self, choice: tuple[str, str], refused: Sequence[Refused], *, new: bool) -> bool:
        """Return whether all have chosen the same bundle."""
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
        """What the first process says next; None when it is gone."""
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
            # Whatever it was, the bundle in service is whole, and the next look may succeed.
            logger.exception("looking for bundles failed")
            if not self._voted:
                self.agrees(watch.choice, watch.refused, new=False)
        self.say(say="done")
