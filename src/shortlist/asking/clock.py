"""When would a question have been asked? A held-out event says it, else this machine's clock."""

import datetime as dt

import torch
from torch import Tensor

from shortlist.asking.capabilities import Answers
from shortlist.data.interactions import Cut


def held_out_times(retriever: Answers, cut: Cut) -> Tensor | None:
    """Return when each user that `data.targets(cut)` gives met the first of what is held out, [U].

    In steps of the log, as `Queries.time` takes a tensor; None for a retriever that reads no clock.
    """
    if not retriever.reads_clock:
        return None
    times = retriever.data.times_of_targets(cut)
    return None if times is None else torch.from_numpy(times)


def written(text: str) -> float | str:
    """Return a time that somebody typed: a number where it is one, else text, to be ISO 8601.

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
    """Return the time of this machine's clock; None for a retriever that reads none."""
    return dt.datetime.now(dt.UTC) if retriever.reads_clock else None
