"""How are loops that numpy cannot express compiled? By numba, on first use, and only here."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, update_wrapper
from hashlib import blake2b
from itertools import count
from time import process_time
from types import FunctionType
from typing import Any, Generic, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class _Compiled(Generic[Function]):
    """A function that is compiled when it is first called, and cached on disk if possible.

    It takes only numbers, numpy arrays and named tuples of them. It may call other compiled
    functions by their global names; numba links them into one piece of machine code.
    """

    def __init__(self, function: Function, *, reorders: bool) -> None:
        self.function = cast(FunctionType, function)
        self.reorders = reorders
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self.fast(*arguments)

    @cached_property
    def fast(self) -> Callable[..., Any]:
        """The compiled function."""
        # Importing numba takes a third of a second, and most commands do not need it.
        import numba  # noqa: PLC0415

        options: Any = {
            "nogil": True,
            "fastmath": {"reassoc", "contract"} if self.reorders else False,
        }
        function: Any = self._linked
        kept = _names_differ()
        try:
            machine_code: Callable[..., Any] = numba.njit(function, cache=kept, **options)
        except RuntimeError:  # no folder for the cache: a read-only installation
            machine_code = numba.njit(function, **options)
        return machine_code

    @property
    def _called(self) -> dict[str, "_Compiled[Any]"]:
        """The compiled functions that this one calls, by their global names."""
        known = {name: self.function.__globals__.get(name) for name in self._code.co_names}
        return {name: other for name, other in known.items() if isinstance(other, _Compiled)}

    @property
    def _code(self) -> Any:
        return self.function.__code__

    @property
    def _linked(self) -> FunctionType:
        """A copy of the function under a new name that calls the compiled functions directly."""
        called = self._called
        names = self.function.__globals__ | {name: other.fast for name, other in called.items()}
        own = self.function
        linked = FunctionType(self._code, names, own.__name__, own.__defaults__, own.__closure__)
        # The key of numba's cache is this name and the date of the caller's file. Without the
        # digest, a changed function in another file would leave its old code in the cache.
        linked.__qualname__ = f"{own.__qualname__}_{self._digest}"
        linked.__module__ = own.__module__
        return linked

    @property
    def _digest(self) -> str:
        """A short hash of all functions that are called, directly or not, and of NAMES."""
        digest = blake2b(NAMES, digest_size=8)
        for name, other in sorted(self._called.items()):
            code = other.function.__code__
            about = (name, code.co_code, code.co_consts, code.co_names, other.reorders)
            digest.update(f"{about!r} {other._digest}".encode())
        return digest.hexdigest()


NAMES = b"2"
"""Version of the naming of functions: increased when older cached code must not be loaded."""


@cache
def _names_differ() -> bool:
    """Make the names of functions in machine code unique to this process; return if it succeeded.

    numba numbers compiled functions from 1 in every process, also those of its own library such as
    np.sort. Only this number distinguishes functions with the same name and signature. Two
    processes can therefore cache different functions under one name, and a process that loads both
    uses the first for both: wrong results without an error. Here each process starts at a random
    number instead.
    """
    from numba.core.bytecode import FunctionIdentity  # noqa: PLC0415

    if not hasattr(FunctionIdentity, "_unique_ids"):
        return False

    def begin() -> None:
        FunctionIdentity._unique_ids = count(int.from_bytes(os.urandom(7), "big"))

    begin()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin)
    return True


def compiled(function: Function) -> Function:
    """Decorator that compiles a function of numbers, arrays and named tuples of them.

    The compiled function runs without the GIL and takes positional arguments only. The first call
    in a process reads the code from a cache beside the source (or in the user's cache folder), or
    compiles it in about a second.
    """
    return cast(Function, _Compiled(function, reorders=False))


def compiled_reordering(function: Function) -> Function:
    """Like `compiled`, but sums may be reordered and vectorised.

    A float32 sum of n products is off by at most n 2^-24 times the sum of their absolute values.
    This is the same bound as for a sum in order, but the bits differ. Equal arguments give equal
    bits.
    """
    return cast(Function, _Compiled(function, reorders=True))


PLAIN_CALLS = 100
"""Number of small tasks that a process does in numpy before it loads compiled code."""

_plain_calls = count(1)


def load() -> None:
    """Import numba now, so that the requests of a service do not wait for it."""
    import numba  # noqa: F401, PLC0415


class CpuTime:
    """CPU seconds of a block over all threads, known when the block ends; see `cpu_time`."""

    seconds = 0.0


@contextmanager
def cpu_time() -> Iterator[CpuTime]:
    """Measure the CPU time of a block without the import of numba and without compilation.

    Machine code is compiled once on each machine and then cached. Where this happened within a fit,
    the first fit on a new machine would seem to cost seconds more than all later ones.
    """
    from numba.core.event import Listener, install_listener  # noqa: PLC0415

    class Compilation(Listener):
        depth = 0
        began = 0.0
        seconds = 0.0

        def on_start(self, _: Any) -> None:
            if self.depth == 0:
                self.began = process_time()
            self.depth += 1

        def on_end(self, _: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                self.seconds += process_time() - self.began

    spent, compilation = CpuTime(), Compilation()
    start = process_time()
    with install_listener("numba:compile", compilation):
        yield spent
    spent.seconds = process_time() - start - compilation.seconds


def worth_loading() -> bool:
    """Tell whether to use compiled code for a small task that numpy does with the same result.

    Importing numba takes most of a second, more than the few answers of a command take. Afterwards
    compiled code is faster. So it is used if numba is imported already, or after PLAIN_CALLS tasks.
    """
    return "numba" in sys.modules or next(_plain_calls) > PLAIN_CALLS


def signal_handler(function: Callable[[int], None]) -> int:
    """Compile a function as a handler for C's `signal`; return its address.

    The function gets the signal's number and may only call C functions. It is never freed.
    """
    import numba  # noqa: PLC0415

    machine_code: Any = numba.cfunc(numba.types.void(numba.types.intc))(function)
    _HANDLERS.append(machine_code)
    address: int = machine_code.address
    return address


_HANDLERS: list[Any] = []
