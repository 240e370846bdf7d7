"""How are durations of a recipe, such as "30min", converted to the unit of a time column?"""

import math
import re
from typing import Literal

from shortlist.errors import DataError

TimeUnit = Literal["number", "line", "s", "ms", "us", "ns", "day", "yyyymmdd", "yyyymmddhhmmss"]
"""The unit of a time column.

number: unknown.
line: no times; the position of a line in its file.
s, ms, us, ns, day: seconds, milliseconds, microseconds, nanoseconds or days since 1970.
yyyymmdd, yyyymmddhhmmss: the file has numbers such as 20240131, which are stored as days or seconds
since 1970.
"""

WrittenUnit = Literal["auto", "number", "s", "ms", "us", "ns", "day", "yyyymmdd", "yyyymmddhhmmss"]
"""The units that a recipe can give for a time column of numbers; "auto" infers it from their size.
"""

STEPS: dict[TimeUnit, float] = {
    "s": 1.0,
    "ms": 1e3,
    "us": 1e6,
    "ns": 1e9,
    "day": 1 / 86_400,
    "yyyymmdd": 1 / 86_400,
    "yyyymmddhhmmss": 1.0,
}
"""Number of steps per second of each unit; "number" and "line" have none."""

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|min|h|d|w)")


def checked_duration(value: object) -> float | str:
    """Return a valid duration as it was written: seconds above 0, or text such as "30min".

    Errors: ValueError for anything else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("must be a finite number")
    if is_number and value > 0:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, str) and (found := _FORM.fullmatch(value)) and float(found[1]) > 0:
        return value
    if is_number or isinstance(value, str):
        raise ValueError(
            "must be > 0: seconds, or text with a number and a unit (ms, s, min, h, d, w), such as "
            '"30min" or "7d"'
        )
    raise ValueError('must be a number of seconds, or text such as "30min" or "7d"')


def seconds_of(duration: float | str) -> float:
    """Return a duration in seconds; a number is in seconds already.

    >>> seconds_of("30min"), seconds_of("1.5h"), seconds_of("7d"), seconds_of(60)
    (1800.0, 5400.0, 604800.0, 60)
    """
    if not isinstance(duration, str):
        return duration
    found = _FORM.fullmatch(duration)
    if not found:
        raise DataError(f'{duration!r} is not a duration such as "30min" or "7d"')
    return float(found[1]) * _SECONDS[found[2]]


def in_units(duration: float | str, unit: TimeUnit | None, name: str = "the duration") -> float:
    """Convert a duration to the unit of a time column.

    If the unit is unknown ("number" or None), a number is returned as it is, in the column's own
    unit.

    name: name of the duration in errors.
    Errors: DataError for text if the unit is unknown, and for any duration if unit is "line".

    >>> in_units("30min", "ms"), in_units(86400, "day"), in_units(1800, "number")
    (1800000.0, 1.0, 1800)
    """
    if unit == "line":
        raise DataError(
            f"{name} = {duration!r} is a time span, but with data.order = 'file' the log has no "
            "times: leave it out, or give data.time"
        )
    if unit in STEPS:
        return seconds_of(duration) * STEPS[unit]
    if isinstance(duration, str):
        raise DataError(
            f"{name} = {duration!r} has a unit, but the log's times are plain numbers of an "
            "unknown unit: give their unit (such as data.time_unit = 's'), or write the duration "
            "as a number in their unit"
        )
    return duration
