"""What does a service say when a file that it has mapped is cut short?

The system then ends the process with SIGBUS at the next look at a page that is gone, in the middle
of whatever it does. Python cannot catch that, as its own handlers run later; a function in machine
code can still write one line.
"""

import ctypes
import signal

from shortlist.compiled import signal_handler

MESSAGE = (
    b"FATAL: the service ends (SIGBUS): a file of the served bundle was cut short, or its disk "
    b"failed, while it was mapped into memory. Start it again; to be safe from that, publish "
    b"bundles whole, or use `serve --private-copy`.\n"
)


def say_bus_errors() -> None:
    """Before SIGBUS ends the process, let it write MESSAGE on standard error.

    A handler that was set in Python is left alone.
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
        default(number, 0)  # and the same look at the same page then ends the process

    default(signal.SIGBUS, signal_handler(handler))


_TEXT = ctypes.create_string_buffer(MESSAGE)
