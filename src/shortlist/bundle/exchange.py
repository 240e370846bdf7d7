"""How do two directories change places in one step, so that no moment sees neither of them?"""

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_HERE = -100  # AT_FDCWD: paths as they are, not below an open directory.
_EXCHANGE = 2  # RENAME_EXCHANGE
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Let two paths on one file system change places; False, and nothing done, where none can.

    Linux has had the call since 3.15, most of its file systems follow, and some containers forbid
    it. Errors: OSError for any other refusal; then nothing has changed.
    """
    call = _call()
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(other))


@cache
def _call() -> Any:
    """The C library's renameat2; None where there is no such function."""
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (
            *(ctypes.c_int, ctypes.c_char_p) * 2,
            ctypes.c_uint,
        )
    return call
