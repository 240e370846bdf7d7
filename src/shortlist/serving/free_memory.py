"""What loading took and no longer needs: who gives it back to the system?"""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Let the C library return the pages it keeps for later; where it cannot, do nothing.

    glibc keeps what was freed between things that stay. After a bundle of a million items was
    loaded that is a fifth of the private memory, and it would be kept until the process ends.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """glibc's malloc_trim; None under another C library."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
