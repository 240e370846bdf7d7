"""Do histories hold the latest events, completely, and nothing else?"""

from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shortlist.asking.queries import Queries
from shortlist.data.ragged import Ragged, windows
from shortlist.data.vocabulary import Vocabulary
from shortlist.doctor.base import Subject, check, generator

PROBED = 4_000
"""How many training events are probed."""

CLOSE = 1e-3
"""Vectors count as equal up to this distance, relative to their length."""


class Probe(NamedTuple):
    """Histories of B positives as training batches hold them, beside the events in the log.

    positive: [B], item rows.
    given: the histories in the batch.
    earlier: the events of the user before the positive; all events in a log without order.
    events: [B], the log positions of the positives.
    begin: [B], the log position of the user's first event.
    """

    positive: Tensor
    given: Ragged
    earlier: Ragged
    events: Tensor
    begin: Tensor


def probe(subject: Subject) -> Probe:
    """Gather random training events as training does."""
    log = subject.data.training_log
    events = torch.randperm(len(log.targets), generator=generator())[:PROBED]
    if log.target is not None:
        events = torch.from_numpy(np.flatnonzero(log.target))[events]
    batch = subject.batches.gather(events)
    items = torch.from_numpy(log.item).long()
    begin = torch.from_numpy(log.indptr)[batch.users]
    end = torch.from_numpy(log.indptr)[batch.users + 1]
    stop = events if subject.data.ordered else end
    return Probe(batch.positive, batch.history, windows(items, begin, stop - begin), events, begin)


@check(
    "target-in-history",
    "error",
    "towers",
    cure="End each history before the time of its positive.",
)
def target_in_history(subject: Subject) -> str | None:
    """The item to be predicted is in the history that it is predicted from. Training becomes
    trivial, and serving, where the item is absent, is a different task.
    """
    seen = probe(subject)
    met = _occurrences(seen.given, seen.positive)
    allowed = _occurrences(seen.earlier, seen.positive)
    if not subject.data.ordered:
        allowed = allowed - 1  # without an order `earlier` includes this event
    share = float((met > allowed).float().mean())
    return None if share == 0 else f"in {share:.0%} of {len(seen.positive):,} histories"


def _occurrences(lists: Ragged, wanted: Tensor) -> Tensor:
    """Return how often list i holds wanted[i], [B]."""
    owners = lists.owners()
    equal = (lists.values == wanted[owners]).long()
    return torch.zeros(len(wanted), dtype=torch.int64).index_add_(0, owners, equal)


@check(
    "history-not-latest",
    "error",
    "towers",
    cure="Truncate from the front: keep the last history_length events before the positive.",
)
def history_not_latest(subject: Subject) -> str | None:
    """Long histories lose their latest events, which say most, and keep the oldest."""
    if not subject.data.ordered:
        return None
    seen = probe(subject)
    length = subject.model.history_length
    long = seen.earlier.lengths > length
    if not long.any():
        return _latest_ignored(subject)
    newest = _ends(seen.earlier, length, latest=True)
    oldest = _ends(seen.earlier, length, latest=False)
    wrong = ~_equal(seen.given, newest) & long
    if not wrong.any():
        return _latest_ignored(subject)
    old = (_equal(seen.given, oldest) & wrong).sum()
    return (
        f"{int(wrong.sum()):,} of {int(long.sum()):,} histories longer than {length}; "
        f"{int(old):,} of them hold the oldest events"
    )


def _ends(lists: Ragged, length: int, *, latest: bool) -> Ragged:
    kept = lists.lengths.clamp(max=length)
    start = lists.offsets[1:] - kept if latest else lists.offsets[:-1]
    return windows(lists.values, start, kept)


def _equal(left: Ragged, right: Ragged) -> Tensor:
    """Return whether list i is the same in both, [B]."""
    same = left.lengths == right.lengths
    common = torch.minimum(left.lengths, right.lengths)
    a = windows(left.values, left.offsets[:-1], common)
    b = windows(right.values, right.offsets[:-1], common)
    differ = torch.zeros(len(same), dtype=torch.int64)
    differ.index_add_(0, a.owners(), (a.values != b.values).long())
    return same & (differ == 0)


def _latest_ignored(subject: Subject) -> str | None:
    """Check, through the serving code, that the newest event of a full history has an effect."""
    encoder, length = subject.encoder, subject.model.history_length
    ids = subject.data.items.ids.head(subject.data.items.trained).to_list()
    if encoder.towers.query.history is None or len(ids) < 2:
        return None
    full = [ids[place % (len(ids) - 1)] for place in range(length)]
    vectors = encoder.encode_users(Queries(histories=[full, [*full, ids[-1]]]))
    if _distance(vectors[0], vectors[1]) > 0:
        return None
    return f"one event more on a history of {length} changes nothing: the newest is cut off"


@check(
    "padding-changes-vector",
    "error",
    "towers",
    cure="Leave row 0 out of sums and counts; pool by the true length of each history.",
)
def padding_changes_vector(subject: Subject) -> str | None:
    """Padding or unknown items enter the pooled history, so that a user's vector depends on the
    rest of the batch, or on unknown items.
    """
    encoder, ids = subject.encoder, subject.data.items.ids.head(subject.data.items.trained)
    if encoder.towers.query.history is None:
        return None
    history = ids.head(min(3, subject.model.history_length, len(ids))).to_list()
    unknown = unknown_id(subject.data.items)
    padded = [unknown, *history[:1], unknown, *history[1:], unknown]
    alone, with_unknown = (
        encoder.encode_users(Queries(histories=[history]))[0],
        encoder.encode_users(Queries(histories=[padded]))[0],
    )
    beside_long = encoder.encode_users(Queries(histories=[history, ids.to_list()]))[0]
    moved = {
        "by 3 unknown items": _distance(alone, with_unknown),
        "by a longer history in its batch": _distance(alone, beside_long),
    }
    found = [f"{value:.1%} {how}" for how, value in moved.items() if value > CLOSE]
    if not found:
        return None
    return f"the vector of a history of {len(history)} moves {' and '.join(found)}"


def unknown_id(vocabulary: Vocabulary) -> int | str:
    """Return an id that does not occur."""
    last = str(vocabulary.ids.max())
    return last + "~" if vocabulary.ids.dtype == pl.String else int(last) + 1


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / left.norm().clamp(min=1e-12))


@check(
    "history-mostly-cut",
    "warning",
    "towers",
    cure="Raise model.history_length; it costs little.",
)
def history_mostly_cut(subject: Subject) -> str | None:
    """Most events are cut off: histories are much longer than model.history_length."""
    if subject.model.history == "none":
        return None
    sizes = np.diff(subject.data.training_log.indptr)
    sizes = sizes[sizes > 0]
    length = subject.model.history_length
    if np.median(sizes) <= 2 * length:
        return None
    dropped = np.maximum(sizes - length, 0).sum() / sizes.sum()
    return (
        f"the median user has {np.median(sizes):,.0f} events and {length} are kept; "
        f"{dropped:.0%} of all events are in no user's history"
    )


CHECKS = (target_in_history, history_not_latest, padding_changes_vector, history_mostly_cut)
