"""Start the service, and end it: sockets, slow clients, SIGTERM."""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shortlist.errors import BundleError
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.settings import Settings, check_address
from shortlist.serving.watching import Watch, check_path

logger = logging.getLogger("shortlist.serving")

_HARSH = (
    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%s"
)


def serve(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle, or the newest of a directory of bundles, until SIGTERM or SIGINT.

    ready: told the address, once, when the socket is open; /readyz tells when a bundle is loaded.
    Port 0 takes a free one. Errors: ServingError for an address that others reach without a token;
    BundleError for a path that is not there, or a single bundle that cannot be served.
    """
    settings = settings or Settings()
    path = Path(path).absolute()
    check_address(host, settings)
    check_path(path)
    torch.set_num_threads(1)  # the workers are the threads: each answers one request
    measures = Measures()
    watch = Watch(path, measures)
    app = App(watch, measures, settings)
    server = Server(app, host, port, settings, ready)
    try:
        server.run()
    finally:
        app.close()
    if server.failure is not None:
        raise BundleError(server.failure)


class Server(uvicorn.Server):
    """A server that says it is leaving before it leaves, and then exits in peace."""

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        settings: Settings,
        ready: Callable[[str], None] | None,
    ) -> None:
        self.app, self.settings, self.ready = app, settings, ready
        self.failure: str | None = None
        self._leave_at: float | None = None
        times = settings.timeouts
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=_protocol(settings),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(round(times.keep_alive), 1),
                timeout_graceful_shutdown=max(round(times.drain), 1),
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Open the socket, then look for the first bundle."""
        await super().startup(sockets)
        if not self.started:
            return
        address = self.servers[0].sockets[0].getsockname()
        if self.ready is not None:
            name = f"[{address[0]}]" if ":" in address[0] else address[0]
            self.ready(f"http://{name}:{address[1]}")
        self.app.watch.start(self.settings.poll)

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to go."""
        watch = self.app.watch
        if watch.is_bundle and watch.current is None and watch.refused:
            self.failure = f"the bundle cannot be served: {watch.refused[0].reason}"
            self.should_exit = True
        if self._leave_at is not None and monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Fail /readyz at once, answer a while longer, then finish; at a second signal, go."""
        if self.app.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self.app.draining = True
        self._leave_at = monotonic() + self.settings.timeouts.notice
        logger.info("draining")


def _protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol with the limits that uvicorn has not: of the head, and of waiting."""
    times = settings.timeouts

    class Guarded(HttpToolsProtocol):
        """A connection that is closed when its client lets it wait."""

        _head: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _head_bytes = 0

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
            super().data_received(data)
            answered = self.cycle is None or self.cycle.response_complete
            if answered and not self.transport.is_closing():
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
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._head_bytes = 0
            super().on_message_complete()

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
            self.transport.write(_HARSH % (status, len(body), body))
            self.transport.close()

    return Guarded
