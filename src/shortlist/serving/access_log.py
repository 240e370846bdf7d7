"""What does the access log contain? One JSON line per request, without ids or secrets.

A line has the route of the table, not the path, so it contains no user or item id. The only header
in it is the request id.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import NamedTuple, TextIO

import orjson

logger = logging.getLogger("shortlist.access")

CLIENT_GONE = 499
"""The status in the log if the client disconnected before its request was complete."""


class LoggedRequest(NamedTuple):
    """A request.

    route: its path in the table of routes; "other" if it has none.
    started: time of `perf_counter`.
    """

    id: bytes
    method: str
    route: str
    started: float


def log(asked: LoggedRequest, status: int, size: int) -> None:
    """Write one line. size: bytes of the answer's body."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": asked.id.decode(),
        "method": asked.method,
        "route": asked.route,
        "status": status,
        "ms": round((perf_counter() - asked.started) * 1e3, 3),
        "bytes": size,
    }
    logger.info(orjson.dumps(line).decode())


@contextmanager
def printed(stream: TextIO) -> Iterator[None]:
    """Write the access log, and nothing else, to a stream."""
    handler = _Lines(stream)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Lines(logging.StreamHandler[TextIO]):
    """A handler that stops, with one line in the other log, when its stream fails."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - its name
        logger.removeHandler(self)
        logging.getLogger("shortlist.serving").exception("the access log cannot be written")
