"""Loops that numpy cannot say: compiled to machine code on first use. The one door to numba."""

import os
import sys
from collections.abc import Callable
from functools import cache, cached_property, update_wrapper
from hashlib import blake2b
from itertools import count
from types import FunctionType
from typing import Any, Generic, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class _Compiled(Generic[Function]):
    """A function that is compiled when it is first called, and kept on disk where that is allowed.

    A compiled function sees numbers, numpy arrays and named tuples of them only. It may call other
    compiled functions by their plain names, and numba puts them into one piece of machine code.
    """

    def __init__(self, function: Function, *, reorders: bool) -> None:
        self.function = cast(FunctionType, function)
        self.reorders = reorders
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self.fast(*arguments)

    @cached_property
    def fast(self) -> Callable[..., Any]:
        """The function as numba has it."""
        # It takes a third of a second to import, and most commands need none of it.
        import numba  # noqa: PLC0415

        options: Any = {
            "nogil": True,
            "fastmath": {"reassoc", "contract"} if self.reorders else False,
        }
        function: Any = self._linked
        kept = _names_differ()
        try:
            machine_code: Callable[..., Any] = numba.njit(function, cache=kept, **options)
        except RuntimeError:  # no folder to keep it in: a read-only installation
            machine_code = numba.njit(function, **options)
        return machine_code

    @property
    def _called(self) -> dict[str, "_Compiled[Any]"]:
        """The compiled functions that this one calls, by the names it knows them by."""
        known = {name: self.function.__globals__.get(name) for name in self._code.co_names}
        return {name: other for name, other in known.items() if isinstance(other, _Compiled)}

    @property
    def _code(self) -> Any:
        return self.function.__code__

    @property
    def _linked(self) -> FunctionType:
        """The function, named anew, with numba's version of those it calls in their place."""
        called = self._called
        names = self.function.__globals__ | {name: other.fast for name, other in called.items()}
        own = self.function
        linked = FunctionType(self._code, names, own.__name__, own.__defaults__, own.__closure__)
        # numba keeps code by this name and the date of the caller's file alone: without their
        # digest in it, functions of another file could change and their old code would stay.
        linked.__qualname__ = f"{own.__qualname__}_{self._digest}"
        linked.__module__ = own.__module__
        return linked

    @property
    def _digest(self) -> str:
        """A short hash of what is called, however deep, and of how names are given."""
        digest = blake2b(NAMES, digest_size=8)
        for name, other in sorted(self._called.items()):
            code = other.function.__code__
            about = (name, code.co_code, code.co_consts, code.co_names, other.reorders)
            digest.update(f"{about!r} {other._digest}".encode())
        return digest.hexdigest()


NAMES = b"2"
"""Raised when code that was kept before must not be loaded beside what is kept now."""


@cache
def _names_differ() -> bool:
    """Give functions names in machine code that no other process gives; return whether it could.

    numba numbers the functions that it compiles, those of its own library (np.sort) included, from
    1 in every process, and the number is all that tells two functions of one name and signature
    apart. Code that two processes kept on disk could so have one name for two different functions,
    and a process that loads both takes the first for the two of them: wrong results, without an
    error. Here each process begins at a random number instead.
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
    """Decorate a function of numbers, arrays and named tuples of them: it runs as machine code.

    It runs without the GIL and takes positional arguments only. The first call of a process reads
    the code from a cache beside the source (or the user's cache folder), and compiles it, in about
    a second, where there is none.
    """
    return cast(Function, _Compiled(function, reorders=False))


def compiled_reordering(function: Function) -> Function:
    """`compiled`, and sums may be taken in any order, several terms at a time.

    A sum of n products is then off by at most n 2^-24 times the sum of their sizes (float32): the
    same bound as in order, but other bits. Equal arguments still give equal bits.
    """
    return cast(Function, _Compiled(function, reorders=True))


PLAIN_CALLS = 100
"""Small pieces of work that a process does in numpy before it loads compiled code."""

_plain_calls = count(1)


def load() -> None:
    """Load compiled code now: for a service, whose requests shall not wait for it."""
    import numba  # noqa: F401, PLC0415


def worth_loading() -> bool:
    """Whether to call compiled code for a small piece of work that numpy can do with equal result.

    Loading takes most of a second, more than the few answers of a command; afterwards compiled code
    is the faster one. So it is worth it where it has been done, or where much has been asked.
    """
    return "numba" in sys.modules or next(_plain_calls) > PLAIN_CALLS


def signal_handler(function: Callable[[int], None]) -> int:
    """Return the address of a function in machine code, for `signal` of the C library.

    It is given the signal's number, and may call functions of C only. It stays in memory.
    """
    import numba  # noqa: PLC0415

    machine_code: Any = numba.cfunc(numba.types.void(numba.types.intc))(function)
    _HANDLERS.append(machine_code)
    address: int = machine_code.address
    return address


_HANDLERS: list[Any] = []
