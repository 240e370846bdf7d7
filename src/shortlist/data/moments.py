"""Times of events and of requests as tensors, in the steps of their log, and which are known."""

import math
import numbers
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortlist.data.times import is_plain, refuse_other_clock, time_key, within_clock
from shortlist.durations import TimeUnit
from shortlist.errors import DataError, QueryError

_NOT_A_TIME = torch.iinfo(torch.int64).min
"""The integer that means an unknown time, like numpy's NaT; NaN does for fractional times."""


def unknown_time(kind: torch.dtype) -> float:
    """Return the value that means an unknown time: the lowest int64, or NaN."""
    return math.nan if kind.is_floating_point else _NOT_A_TIME


def is_known(times: Tensor) -> Tensor:
    """Return which times are known, bool like `times`.

    >>> is_known(torch.tensor([5.0, torch.nan])), is_known(torch.tensor([5, -2**63]))
    (tensor([ True, False]), tensor([ True, False]))
    """
    return ~times.isnan() if times.is_floating_point() else times != _NOT_A_TIME


def parsed_times(
    values: Iterable[Any], where: str, unit: TimeUnit | None, kind: torch.dtype, *, clock: bool
) -> Tensor:
    """Return times from a request as a tensor of type `kind`, [n]; None becomes unknown.

    A log of whole steps gets whole steps: for days, the day that contains the moment.

    values: anything that `time_key` reads. A tensor holds steps of the log already.
    where: the name of the list in errors.
    unit: the unit of the log.
    clock: whether the log holds clock times. A time far from them is refused as one of another
        unit.

    Errors: QueryError naming the position.
    """
    if isinstance(values, Tensor):
        return values.to(kind)
    unit = unit or "number"
    values = list(values)
    plain = clock and is_plain(unit) and all(type(value) is int for value in values)
    if plain and values and within_clock(min(values), max(values), unit):  # fast for large stores
        return torch.tensor(values, dtype=kind)
    read = []
    for place, value in enumerate(values):
        try:
            read.append(_key(value, unit, kind, clock=clock))
        except DataError as error:
            raise QueryError(f"{where}[{place}]: {error}") from None
    return torch.tensor(read, dtype=kind)


def _key(value: Any, unit: TimeUnit, kind: torch.dtype, *, clock: bool) -> float:
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")  # item() turns nanoseconds into an integer
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return unknown_time(kind)
    missing = isinstance(value, date) and value != value  # noqa: PLR0124 - pandas' NaT
    if missing or isinstance(value, bool) or not isinstance(value, numbers.Real | str | date):
        raise DataError(f"{value!r:.60} is no time; write {like(unit)}")
    if isinstance(value, numbers.Real):
        try:
            value = value if isinstance(value, int) and math.isfinite(value) else float(value)
        except OverflowError:
            raise DataError(f"{value!r:.60} is no time; write {like(unit)}") from None
    key = time_key(value, unit)
    if clock:
        refuse_other_clock(value, key, unit)
    if kind.is_floating_point:
        return key
    if not -(2**63) < key < 2**63:
        raise DataError(f"{value!r:.60} lies beyond 2^63 steps of the log's times")
    return math.floor(key)


def like(unit: TimeUnit) -> str:
    """Return how a time can be written for a log of this unit."""
    if unit in ("number", "line"):
        return "a number like the log's times"
    text = '"2024-01-31"' if unit in ("day", "yyyymmdd") else '"2024-01-31T09:30:00"'
    return f"ISO 8601 text such as {text}, or a number as the log writes its times"


def is_listed(value: Any) -> bool:
    """Return whether a value is a list or a column of values, and not text."""
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    array = hasattr(value, "__len__") and hasattr(value, "__array__")
    return several or (array and getattr(value, "ndim", 1) == 1)
