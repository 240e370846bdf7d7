"""How long a test waits before it gives up: minutes, since a busy machine is no mistake."""

import time

from shortlist.serving.settings import Timeouts

PATIENCE = 300.0
"""Seconds. No test waits so long on purpose, and none asserts that something is quick."""

PATIENT = Timeouts(
    head=PATIENCE,
    body=PATIENCE,
    answer=PATIENCE,
    write=PATIENCE,
    keep_alive=PATIENCE,
    store=PATIENCE,
)
"""Of a server that gives up on nobody: for tests of anything but time."""


def wait_until(true) -> None:
    """Wait for an event."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
