"""What is unusual about the events, and about the columns of the log?"""

import time

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.doctor.base import Subject, check
from shortlist.durations import STEPS

MANY, TIMES = 1_000, 100
"""A user with at least this many events, and this many times the median, is probably no person."""

_EARLIEST = 631_152_000
"""1990, in seconds."""


def _counts(subject: Subject) -> NDArray[np.int64]:
    """Return the number of events of each user with at least one."""
    counts = np.diff(subject.dataset.log.indptr)
    found: NDArray[np.int64] = counts[counts > 0]
    return found


@check(
    "duplicate-events",
    "warning",
    "dataset",
    cure="Check how the log was joined. If each row is an event of its own, give a finer "
    "data.time, or data.order = 'file'.",
)
def duplicate_events(subject: Subject) -> str | None:
    """Many rows of the log occur more than once; they were merged."""
    report = subject.dataset.report
    merged = report.duplicates + report.conflicts
    if merged <= 0.01 * report.rows_read:
        return None
    return f"{merged:,} of {report.rows_read:,} rows ({merged / report.rows_read:.0%})"


@check(
    "missing-ids",
    "info",
    "dataset",
    cure="Nothing to do if these are visits without an account; otherwise check how the log was "
    "made.",
)
def missing_ids(subject: Subject) -> str | None:
    """Rows without a user or an item were left out."""
    report = subject.dataset.report
    if not report.null_ids:
        return None
    share = report.null_ids / report.rows_read
    return f"{report.null_ids:,} of {report.rows_read:,} rows ({share:.1%})"


@check(
    "bots",
    "warning",
    "dataset",
    cure="Leave such users out unless they are people: their events outweigh those of many others.",
)
def bots(subject: Subject) -> str | None:
    """Some users have implausibly many events: crawlers, tests, or shared accounts."""
    counts = _counts(subject)
    median = float(np.median(counts))
    many = counts[(counts >= MANY) & (counts >= TIMES * median)]
    if not len(many):
        return None
    return (
        f"{len(many):,} users with {many.min():,} to {many.max():,} events, {median:g} at the "
        f"median; {many.sum() / counts.sum():.0%} of all events"
    )


@check(
    "one-event-users",
    "info",
    "dataset",
    cure="Nothing to do. A single event gives no history to learn from, and leave-last-out does "
    "not test such users: its figures describe the others.",
)
def one_event_users(subject: Subject) -> str | None:
    """At least half of the users have a single event."""
    counts = _counts(subject)
    single = int((counts == 1).sum())
    if 2 * single < len(counts):
        return None
    return f"{single:,} of {len(counts):,} users ({single / len(counts):.0%})"


@check(
    "items-of-one-user",
    "info",
    "dataset",
    cure="Nothing to do if item features describe them; counts of pairs say little of such items.",
)
def items_of_one_user(subject: Subject) -> str | None:
    """At least half of the items were met by a single user."""
    log = subject.dataset.log
    pairs = pl.DataFrame({"user": log.user, "item": log.item}).unique()
    users = pairs.group_by("item").len()["len"]
    single = int((users == 1).sum())
    if 2 * single < len(users):
        return None
    return f"{single:,} of {len(users):,} items ({single / len(users):.0%})"


@check(
    "gap-in-time",
    "warning",
    "dataset",
    cure="Check whether a part of the log is missing; do not split by time at the gap.",
)
def gap_in_time(subject: Subject) -> str | None:
    """A long period in the middle of the log has no event."""
    log, unit = subject.dataset.log, subject.dataset.report.time_unit
    if log.time is None or unit == "line" or len(log) < 1_000:
        return None
    times = np.sort(log.time)
    steps = np.diff(times)
    at = int(np.argmax(steps))
    span = float(times[-1] - times[0])
    inside = 0.05 * len(times) < at < 0.95 * len(times)
    usual = float(np.quantile(steps, 0.99))
    if not inside or steps[at] < 0.1 * span or steps[at] < 20 * usual:
        return None
    lasts = f"{steps[at] / span:.0%} of the log's time"
    if unit in STEPS:
        lasts += f", {steps[at] / STEPS[unit] / 86_400:.3g} days"
    return f"{lasts}, after {at + 1:,} of {len(times):,} events"


@check(
    "times-out-of-range",
    "warning",
    "dataset",
    cure="Correct these times, or leave the rows out: they come first or last in their histories, "
    "and distort a split by time.",
)
def times_out_of_range(subject: Subject) -> str | None:
    """Some events are in the future, or before 1990."""
    log, unit = subject.dataset.log, subject.dataset.report.time_unit
    if log.time is None or unit not in STEPS:
        return None
    late = int((log.time > (time.time() + 86_400) * STEPS[unit]).sum())
    early = int((log.time < _EARLIEST * STEPS[unit]).sum())
    told = [f"{late:,} in the future"] * bool(late) + [f"{early:,} before 1990"] * bool(early)
    return f"{' and '.join(told)}, of {len(log):,} events" if told else None


def _sides(subject: Subject) -> tuple[tuple[str, pl.Series], ...]:
    return (("user", subject.dataset.user_ids), ("item", subject.dataset.item_ids))


@check(
    "ids-of-two-kinds",
    "info",
    "dataset",
    cure="Check whether the same user or item has an id of each kind.",
)
def ids_of_two_kinds(subject: Subject) -> str | None:
    """Some user ids, or some item ids, are numbers, and others are text."""
    found = []
    for side, ids in _sides(subject):
        if ids.dtype != pl.String:
            continue
        numbers = ids.str.contains(r"^\d+$")
        share = int(numbers.sum()) / max(len(ids), 1)
        if 0.01 < share < 0.99:
            one, other = ids.filter(numbers)[0], ids.filter(~numbers)[0]
            found.append(
                f"{share:.0%} of the {side}s are numbers, such as {one!r} beside {other!r}"
            )
    return "; ".join(found) or None


@check(
    "ids-nearly-equal",
    "warning",
    "dataset",
    cure="Write each id in one form: two forms count as two users or items.",
)
def ids_nearly_equal(subject: Subject) -> str | None:
    """Some ids differ only in upper and lower case, white space or leading zeros."""
    found = []
    for side, ids in _sides(subject):
        if ids.dtype != pl.String:
            continue
        plain = ids.str.strip_chars().str.to_lowercase().str.replace(r"^0+(\d)", "${1}")
        twice = plain.is_duplicated()
        if twice.any():
            first = plain.filter(twice)[0]
            pair = ids.filter(plain == first)
            found.append(f"{int(twice.sum()):,} {side}s, such as {pair[0]!r} and {pair[1]!r}")
    return "; ".join(found) or None


@check(
    "constant-column",
    "info",
    "columns",
    cure="Nothing to do, or check how the file was made.",
)
def constant_column(subject: Subject) -> str | None:
    """A column of the log has one value in all rows."""
    names = [name for name, values in subject.columns.items() if values == 1]
    if not names:
        return None
    return f"{len(names)} of {len(subject.columns)} columns: {', '.join(names[:20])}"


CHECKS = (
    duplicate_events,
    missing_ids,
    bots,
    one_event_users,
    items_of_one_user,
    gap_in_time,
    times_out_of_range,
    ids_of_two_kinds,
    ids_nearly_equal,
    constant_column,
)
