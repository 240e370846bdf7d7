"""Which rows train, validate and test? Roles for a sorted log, without leaking the future."""

from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shortlist.data.interactions import Interactions, Role
from shortlist.errors import SplitError, suggest
from shortlist.sections.kinds import SplitKind

Roles = NDArray[np.int8]
KINDS: tuple[str, ...] = get_args(SplitKind)
NO_TRAINING_ROW = "no training row is left before the validation cut; move split.at later"


AT_A_MOMENT = ("split.kind 'global-time'", "kind 'leave-last-out'")
OF_NEWEST = ("split.items = 'newest'", "items = 'random'")
"""For `grouped_by_user`: a split that needs an order across users, and one that does not."""


def grouped_by_user(what: str, instead: str) -> SplitError:
    """Return the error for a split across users of a log whose lines are grouped by user."""
    return SplitError(
        f"{what} needs an order across users, and the lines of the log are grouped by user: give "
        f"data.time, or use {instead}"
    )


def check_kind(kind: str) -> None:
    """Refuse a kind of split that does not exist."""
    if kind not in KINDS:
        raise SplitError(f"unknown split kind '{kind}'.{suggest(kind, KINDS)}")


def leave_last_out(log: Interactions) -> Roles:
    """Hold out each user's last event as test and the one before it as validation.

    A user with two events has no validation case, and a single event only trains: every user keeps
    at least one training event. With kinds of events the rule counts targets, and other events get
    the role of the target they follow. Returns roles, [n] int8. Errors: SplitError without times.
    """
    if log.time is None:
        raise SplitError(
            "split.kind 'leave-last-out' needs an order: name data.time, or use kind 'random'"
        )
    if log.target is not None:
        return _after_targets(log, leave_last_out(log.targets))
    size = np.diff(log.indptr)
    from_end = log.indptr[log.user + 1] - 1 - np.arange(len(log))
    events = size[log.user]
    roles = np.zeros(len(log), dtype=np.int8)
    roles[(from_end == 0) & (events >= 2)] = Role.TEST
    roles[(from_end == 1) & (events >= 3)] = Role.VALIDATION
    return roles


def global_time(log: Interactions, at: Any = 0.9, validation_at: Any = None) -> Roles:
    """Cut the whole log at one moment: rows at or after it are test. Returns roles, [n] int8.

    at: a quantile in (0, 1) of the times of targets, or a time.
    validation_at: the same for validation, within the rows before `at`; by default the same share.

    Errors: SplitError without times, or if a side of the cut is empty.
    """
    if log.time is None:
        raise SplitError("split.kind 'global-time' needs data.time")
    times = log.targets.time
    assert times is not None
    return _at_moment(log, _moment(times, at), at, validation_at)


def rolling(log: Interactions, folds: int, at: Any = 0.7) -> list[Any]:
    """Return the time at which each fold's test rows begin; the first is that of `global_time`.

    The folds share the targets after it equally, as far as equal times allow.
    """
    if log.time is None:
        raise SplitError("split.kind 'rolling' needs data.time")
    times = log.targets.time
    assert times is not None
    first = _moment(times, at)
    rest = np.sort(times[times >= first])
    check_moment(at, len(times) - len(rest), len(times), times.min(), times.max())
    moments = [first, *(rest[len(rest) * fold // folds] for fold in range(1, folds))]
    if any(late <= early for early, late in pairwise(moments)):
        raise SplitError(
            f"split.folds = {folds} is too many for the {len(np.unique(rest))} different times "
            f"from split.at = {at!r} on: each fold needs one of its own"
        )
    return moments


def at_moment(log: Interactions, moment: Any) -> Roles:
    """Return the roles that `global_time` gives for a test that begins at this time."""
    return _at_moment(log, moment, moment, None)


def _at_moment(log: Interactions, test_at: Any, at: Any, validation_at: Any) -> Roles:
    """Return the roles of a log with times. at: the moment of the test as the user wrote it."""
    times = log.targets.time
    assert times is not None
    assert log.time is not None
    rest = times[times < test_at]
    check_moment(at, len(rest), len(times), times.min(), times.max())
    share = len(rest) / len(times)
    cut = _moment(rest, share if validation_at is None else validation_at)
    roles = at_moments(log.time, cut, test_at)
    if not (roles == Role.TRAIN).any():
        raise SplitError(NO_TRAINING_ROW)
    return roles


def at_moments(time: NDArray[Any], validation: Any, test: Any) -> Roles:
    """Return the roles of events at these times [n], given where held-out rows begin; [n] int8."""
    roles = np.full(len(time), Role.TRAIN, dtype=np.int8)
    roles[time >= validation] = Role.VALIDATION
    roles[time >= test] = Role.TEST
    return roles


def check_moment(at: Any, before: int, events: int, low: Any, high: Any) -> None:
    """Refuse a cut that leaves no event on one side. low, high: the range of the times."""
    if before in (0, events):
        raise SplitError(
            f"split.at = {at!r} leaves {before} of {events} rows before the cut; the times "
            f"run from {low} to {high}"
        )


def random_hold_out(log: Interactions, keys: NDArray[np.uint64], at: float = 0.8) -> Roles:
    """Keep a share `at` of each user's events for training and hold out the rest.

    Validation is taken the same way from what is left. A user keeps at least one training event.
    With kinds of events targets are drawn, and other events of the same (user, item) follow them.

    keys: [n], a seeded hash of (user, item). The events with the highest keys are held out, so that
        the split depends only on the set of rows.
    """
    if log.target is not None:
        return of_pairs(log, random_hold_out(log.targets, keys[log.target], at))
    if not (isinstance(at, float) and 0 < at < 1):
        raise SplitError(f"split.at must be a share between 0 and 1 for kind 'random', got {at!r}")
    roles = np.zeros(len(log), dtype=np.int8)
    carve(log, roles, keys, 1 - at, Role.TEST)
    carve(log, roles, keys, 1 - at, Role.VALIDATION)
    return roles


def carve(
    log: Interactions, roles: Roles, keys: NDArray[np.uint64], share: float, role: Role
) -> None:
    """Give `role`, in place, to the share of each user's training events with the highest keys.

    Their number is rounded to the nearest. A user's last training event is never taken.
    """
    training = np.flatnonzero(roles == Role.TRAIN)
    user = log.user[training]
    order = np.lexsort((keys[training], user))
    count = np.bincount(user, minlength=log.users)
    take = np.minimum(np.round(count * share).astype(np.int64), np.maximum(count - 1, 0))
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    rank = np.arange(len(training)) - start[user[order]]
    held_out = rank >= (count - take)[user[order]]
    roles[training[order[held_out]]] = role


def drawn_validation(
    log: Interactions, roles: Roles, keys: NDArray[np.uint64]
) -> tuple[Roles, int]:
    """Hold out a tenth of each user's training targets for validation; return roles and number.

    Other events of the same (user, item) follow their target.

    keys: [n], as for `random_hold_out`.
    """
    target = slice(None) if log.target is None else log.target
    drawn = roles[target]
    carve(log.targets, drawn, keys[target], 0.1, Role.VALIDATION)
    held_out = np.where(drawn == Role.VALIDATION, drawn, Role.TRAIN).astype(np.int8)
    if log.target is not None:
        held_out = of_pairs(log, held_out)
    return np.maximum(roles, held_out), int((drawn == Role.VALIDATION).sum())


def cold_items(log: Interactions, keys: NDArray[Any], at: Any = 0.8) -> Roles:
    """Keep a share `at` of the items for training, and hold out the others with all their events.

    Items that are never a target stay in training.

    keys: [items]. The items with the highest keys become test; validation is taken the same way
        from what is left.

    Returns the role of each item, [items] int8. Errors: SplitError if a part has no item.
    """
    if not (isinstance(at, float) and 0 < at < 1):
        raise SplitError(
            f"split.at must be a share between 0 and 1 for kind 'cold-items', got {at!r}"
        )
    present = np.unique(log.targets.item)
    ordered = present[np.argsort(keys[present], kind="stable")]
    kept = len(ordered) - round(len(ordered) * (1 - at))
    trained = kept - round(kept * (1 - at))
    if not 0 < trained < kept < len(ordered):
        raise SplitError(
            f"split.at = {at} of {len(ordered)} items leaves {trained} to train, "
            f"{kept - trained} to validate and {len(ordered) - kept} to test: each needs one"
        )
    roles = np.full(len(keys), Role.TRAIN, dtype=np.int8)
    roles[ordered[trained:kept]] = Role.VALIDATION
    roles[ordered[kept:]] = Role.TEST
    return roles


def first_seen(items: int, *logs: Interactions | None) -> NDArray[Any]:
    """Return the time of the first event of each item in any of the logs, [items]."""
    given = [log for log in logs if log is not None]
    times = np.concatenate([log.time for log in given if log.time is not None])
    never = np.inf if times.dtype.kind == "f" else np.iinfo(times.dtype).max
    first = np.full(items, never, dtype=times.dtype)
    np.minimum.at(first, np.concatenate([log.item for log in given]), times)
    return first


def _after_targets(log: Interactions, roles: Roles) -> Roles:
    """Extend the roles of the targets of an ordered log to all events, [n].

    Other events get the role of their user's latest target before them, as they are known as soon
    as that target is.
    """
    assert log.target is not None
    every = np.zeros(len(log), dtype=np.int64)
    every[log.target] = roles
    # One running maximum serves all users, because later users have larger numbers.
    span = len(Role)
    latest = np.maximum.accumulate(log.user.astype(np.int64) * span + every)
    result: Roles = (latest - log.user.astype(np.int64) * span).astype(np.int8)
    return result


def of_pairs(log: Interactions, roles: Roles) -> Roles:
    """Extend the roles of the targets of a log to all events, [n].

    Other events get the highest role of a target of the same user and item. Without times nobody
    knows which came first, and such an event must not reveal what is held out.
    """
    assert log.target is not None
    width = int(log.item.max(initial=0)) + 1
    _, pair = np.unique(log.user.astype(np.int64) * width + log.item, return_inverse=True)
    highest = np.zeros(int(pair.max(initial=0)) + 1, dtype=np.int8)
    np.maximum.at(highest, pair[log.target], roles)
    every = highest[pair]
    every[log.target] = roles
    return every


def from_column(
    values: NDArray[Any], name: str, needed: tuple[Role, ...] = (Role.TRAIN, Role.TEST)
) -> Roles:
    """Read roles from a column that holds 'train', 'validation' (or 'valid', 'val') and 'test'.

    needed: roles that must occur.

    Errors: SplitError for another value, or a missing role.
    """
    names = {"train": Role.TRAIN, "validation": Role.VALIDATION, "test": Role.TEST}
    names |= {"valid": Role.VALIDATION, "val": Role.VALIDATION}
    present, inverse = np.unique(values, return_inverse=True)
    unknown = [str(v) for v in present if v not in names]
    if unknown:
        raise SplitError(
            f"column '{name}' holds {unknown[0]!r}; expected train, validation and test"
        )
    roles = np.array([names[v] for v in present], dtype=np.int8)[inverse]
    for role in needed:
        if not (roles == role).any():
            raise SplitError(f"column '{name}' names no row as {role.name.lower()}")
    return roles


def known_before(log: Interactions, others: Interactions, *, one_moment: bool) -> Roles:
    """Return the roles of events outside a log, so that each cut keeps those that came before it.

    An event is before a cut if it is earlier than everything the cut holds out, of its user or with
    `one_moment` of anybody. An event at that very time is not.

    log: the log with its roles.

    Returns roles, [others] int8, as `Interactions.before` reads them.
    """
    assert log.role is not None
    assert log.time is not None
    assert others.time is not None
    roles = np.zeros(len(others), dtype=np.int8)
    never = np.inf if log.time.dtype.kind == "f" else np.iinfo(log.time.dtype).max
    for role in (Role.VALIDATION, Role.TEST):
        held = log.role >= role
        first = np.full(log.users, never, dtype=log.time.dtype)
        np.minimum.at(first, log.user[held], log.time[held])
        if one_moment:
            first[:] = first.min()
        roles[others.time >= first[others.user]] = role
    return roles


def _moment(times: NDArray[Any], at: Any) -> Any:
    """Convert a quantile in (0, 1) to the time at that position; other values are times already."""
    if isinstance(at, float) and 0 < at < 1:
        return np.partition(times, int(len(times) * at))[int(len(times) * at)]
    return at
