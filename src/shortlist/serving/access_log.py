"""One line a request: what was asked, what came of it, and nothing that is secret.

The path stands there as the table of routes has it, so no id of a user or an item is in a line, and
of the headers only the request's id.
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
"""Stands in the place of a status where the client left before its request was whole."""


class Asked(NamedTuple):
    """A request. route: of the table, "other" for none. started: by the clock `perf_counter`."""

    id: bytes
    method: str
    route: str
    started: float


def log(asked: Asked, status: int, size: int) -> None:
    """Write a line. size: bytes of the answer's body."""
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
    """Print the lines, and nothing else, to a stream."""
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
    """Where nobody reads the stream any more, that is said once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - its name
        logger.removeHandler(self)
        logging.getLogger("shortlist.serving").exception("the access log cannot be written")
