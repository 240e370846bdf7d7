"""At which time is a query asked? That of a held-out event, a typed one, or the clock's."""

import datetime as dt

import torch
from torch import Tensor

from shortlist.asking.capabilities import Answers
from shortlist.data.interactions import Cut


def held_out_times(retriever: Answers, cut: Cut) -> Tensor | None:
    """Return the time of the first held-out event of each user of `data.targets(cut)`, [U].

    The times are steps of the log, as a tensor in `Queries.time`. None if the retriever does not
    read the time of a request.
    """
    if not retriever.reads_clock:
        return None
    times = retriever.data.times_of_targets(cut)
    return None if times is None else torch.from_numpy(times)


def written(text: str) -> float | str:
    """Parse a typed time: a number if it is one, else text, which must be ISO 8601.

    >>> written("1700000000"), written("1.5"), written("2024-01-31")
    (1700000000, 1.5, '2024-01-31')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def now(retriever: Answers) -> dt.datetime | None:
    """Return the current UTC time; None if the retriever does not read the time of a request."""
    return dt.datetime.now(dt.UTC) if retriever.reads_clock else None
