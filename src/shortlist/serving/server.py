"""How does one process handle sockets, slow clients and SIGTERM?"""

import asyncio
import logging
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

import torch
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shortlist.bundle.bundle import load
from shortlist.errors import BundleError
from shortlist.serving.app import App
from shortlist.serving.bus_error import say_bus_errors
from shortlist.serving.many import address_of
from shortlist.serving.measures import Measures
from shortlist.serving.private_copy import load_privately
from shortlist.serving.refused import cannot_be_served
from shortlist.serving.settings import Settings
from shortlist.serving.taking import Counts, Taking
from shortlist.serving.watching import Watch

logger = logging.getLogger("shortlist.serving")

_HARSH = (
    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"connection: close\r\nx-request-id: %s\r\n\r\n%s"
)


def serve_alone(
    path: Path,
    host: str,
    port: int,
    settings: Settings,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve with this process until SIGTERM or SIGINT; `run.serve` has checked the arguments.

    Errors: BundleError for a single bundle that cannot be served.
    """
    if threading.current_thread() is threading.main_thread():
        say_bus_errors()
    torch.set_num_threads(1)  # each worker thread computes one request with one core
    measures = Measures()
    watch = Watch(path, measures, load_privately if settings.private_copy else load)
    app = App(watch, measures, settings)
    server = Server(app, host, port, settings, ready)
    try:
        server.run()
    finally:
        app.close()
    if server.failure is not None:
        raise BundleError(server.failure)


class Place(NamedTuple):
    """The place of a process among several.

    listener: the socket that they share.
    counts: connections of each process.
    number: number of this process.
    """

    listener: socket.socket
    counts: Counts
    number: int


class Server(uvicorn.Server):
    """A server that fails /readyz for a while after SIGTERM before it stops answering.

    ready: called once with the URL when the socket is open.
    place: its place among several processes, with an open socket; None for a single process.
    failure: why a single bundle cannot be served; None otherwise.
    """

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        settings: Settings,
        ready: Callable[[str], None] | None,
        place: Place | None = None,
    ) -> None:
        self.place = place
        self._taking: Taking | None = None
        self.app, self.settings, self.ready = app, settings, ready
        self.failure: str | None = None
        self._leave_at: float | None = None
        times = settings.timeouts
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=_protocol(app),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=max(logging.WARNING, logger.getEffectiveLevel()),
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(round(times.keep_alive), 1),
                timeout_graceful_shutdown=max(round(times.drain), 1),
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Open the socket, then check for the first bundle."""
        if self.place is None:
            await super().startup(sockets)
            if not self.started:
                return
            listening = [each for server in self.servers for each in server.sockets]
        else:
            await self._share(self.place)
            listening = [self.place.listener]
        for each in listening:
            self.app.arrivals.register(each.fileno(), select.POLLIN)
        if self.ready is not None:
            self.ready(address_of(listening[0]))
        # One of several processes checks for bundles when the main process tells it.
        self.app.watch.start(self.settings.poll if self.place is None else None)

    async def _share(self, place: Place) -> None:
        """Accept connections from the socket that the processes share."""
        loop = asyncio.get_running_loop()
        await self.lifespan.startup()

        def take() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=loop,
            )
            return made

        self._taking = Taking(place.listener, take, place.counts, place.number)
        self.servers = []
        self.started = True

    async def shutdown(self, sockets: Any = None) -> None:
        """Accept no more connections, and let the open ones finish."""
        if self._taking is not None:
            self._taking.end()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Decide, ten times a second, whether to shut down."""
        watch = self.app.watch
        if self._taking is not None:
            self._taking.count(len(self.server_state.connections))
            if counter % 10 == 0:
                self.app.measures.keep()
        elif watch.is_bundle and watch.current is None and watch.refused:
            self.failure = cannot_be_served(watch.refused)
            self.should_exit = True
        if self._leave_at is not None and monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Fail /readyz at once and stop after `notice` seconds; a second signal stops at once."""
        if self.app.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self.app.draining = True
        self._leave_at = monotonic() + self.settings.timeouts.notice
        logger.info("draining")


def _protocol(app: App) -> type[HttpToolsProtocol]:
    """The HTTP protocol with limits that uvicorn lacks: head size, slow clients, full queue."""
    settings = app.settings
    times = settings.timeouts

    class Guarded(HttpToolsProtocol):
        """A connection that is closed if its client is too slow."""

        _head: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _busy: bytes | None = None  # the refusal for the request that is being read
        _busy_bytes = 0
        _idle = False  # True if the last bytes ended a refused request

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                self._refuse(b"503 Service Unavailable", b"busy", b"too many connections")
                return
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head, self._stuck):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._head_bytes += len(data)
            self._idle = False
            super().data_received(data)
            if self._answered() and not self.transport.is_closing() and not self._idle:
                self._expect_head()
                if self._head_bytes > settings.head_bytes:
                    self._refuse(
                        b"431 Request Header Fields Too Large",
                        b"too_large",
                        b"the request head is too long",
                    )

        def on_headers_complete(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None
            if self._may_be_refused():
                self._busy = app.refuse(self.url, self.headers)
                if self._busy is not None:
                    return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._busy is None:
                super().on_body(body)
                return
            # The body is discarded; only its size and duration are limited.
            self._head_bytes = 0
            self._busy_bytes += len(body)
            if self._busy_bytes > settings.limits.body and not self.transport.is_closing():
                self._refuse(b"413 Content Too Large", b"too_large", b"the body is too large")

        def on_message_complete(self) -> None:
            self._head_bytes = 0
            if self._busy is None:
                super().on_message_complete()
                return
            answer, self._busy, self._busy_bytes = self._busy, None, 0
            if not self.transport.is_closing():
                self.transport.write(answer)
                self._idle = True
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def _answered(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _may_be_refused(self) -> bool:
            """Tell whether the full queue alone decides the answer to this request."""
            parser = self.parser
            return (
                app.workers.full
                and not app.draining
                and self._answered()
                and not (self.pipeline or self.flow.write_paused or self.expect_100_continue)
                and parser.get_method() == b"POST"
                and parser.get_http_version() == "1.1"
                and parser.should_keep_alive()
                and not parser.should_upgrade()
            )

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            self._refuse(b"400 Bad Request", b"invalid_http", b"this is not HTTP")

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stuck is None:
                self._stuck = self.loop.call_later(times.write, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        def _expect_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(times.head, self.transport.abort)

        def _refuse(self, status: bytes, code: bytes, message: bytes) -> None:
            body = b'{"error":{"code":"%s","message":"%s"}}' % (code, message)
            request_id = app.turn_away(int(status[:3]), len(body))
            self.transport.write(_HARSH % (status, len(body), request_id, body))
            self.transport.close()

    return Guarded
