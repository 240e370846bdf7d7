"""What does a service report when a file that it has mapped becomes shorter?

The system ends the process with SIGBUS when it next reads a missing page. Python cannot catch this,
because Python's own signal handlers run later. A compiled function can still write one line.
"""

import ctypes
import signal

from shortlist.compiled import signal_handler

MESSAGE = (
    b"FATAL: the service ends (SIGBUS): a file of the served bundle was cut short, or its disk "
    b"failed, while it was mapped into memory. Start the service again. To prevent this, never "
    b"write into a published bundle, or use `serve --private-copy`.\n"
)


def say_bus_errors() -> None:
    """Write MESSAGE on standard error before SIGBUS ends the process.

    A handler that was set in Python stays in place.
    """
    if not hasattr(signal, "SIGBUS") or signal.getsignal(signal.SIGBUS) is not signal.SIG_DFL:
        return
    system = ctypes.CDLL(None)
    write, default = system.write, system.signal
    write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    write.restype = ctypes.c_ssize_t
    default.argtypes = [ctypes.c_int, ctypes.c_void_p]
    default.restype = ctypes.c_void_p
    address, length = ctypes.addressof(_TEXT), len(MESSAGE)

    def handler(number: int) -> None:
        write(2, address, length)
        default(number, 0)  # the same read then raises SIGBUS again and ends the process

    default(signal.SIGBUS, signal_handler(handler))


_TEXT = ctypes.create_string_buffer(MESSAGE)
