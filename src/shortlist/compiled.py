"""Loops that numpy cannot say: compiled to machine code on first use. The one door to numba."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class _Compiled(Generic[Function]):
    """A function that is compiled when it is first called, and kept on disk where that is allowed.

    A compiled function sees numbers and numpy arrays only, and calls no other function of ours.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._fast: Callable[..., Any] | None = None
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        if self._fast is None:
            self._fast = _machine_code(self.function)
        return self._fast(*arguments)


def compiled(function: Function) -> Function:
    """Decorate a function of numbers and numpy arrays: it runs as machine code, without the GIL.

    The first call of a process reads the code from a cache beside the source (or the user's cache
    folder), and compiles it, in about a second, where there is none.
    """
    return cast(Function, _Compiled(function))


def _machine_code(function: Callable[..., Any]) -> Callable[..., Any]:
    # It takes a third of a second to import, and most commands need none of it.
    import numba  # noqa: PLC0415

    try:
        fast: Callable[..., Any] = numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # no folder to keep it in: a read-only installation
        fast = numba.njit(function, nogil=True)
    return fast
