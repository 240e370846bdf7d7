"""Which of several processes that torchrun started prints output and errors?"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

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


def tell_torchrun(error: ShortlistError) -> None:
    """Write the error into the file that torchrun reads, so that its report ends with it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        sentence = f"error: {error}"
        # The keys that torch.distributed.elastic.multiprocessing.errors.ErrorHandler writes.
        more = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(file, "w", encoding="utf-8") as told:
            json.dump({"message": {"message": sentence, "extraInfo": more}}, told)
