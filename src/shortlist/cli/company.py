"""Which of several processes that torchrun started prints output and errors?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from shortlist.errors import ShortlistError
from shortlist.systems import started_beside_others


@contextmanager
def first_speaks() -> Iterator[None]:
    """Discard the output of all processes except the first."""
    if not started_beside_others() or is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def is_first() -> bool:
    """Tell whether this is the first of the processes that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def speaks_for_all(error: ShortlistError) -> bool:
    """Tell whether this process prints the error that ends all of them."""
    if not started_beside_others():
        return True
    from shortlist.training.ranks import speaks_first

    return speaks_first(error)
