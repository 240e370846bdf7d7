"""What do the values of a time column mean? Their unit, told or read off them, and keys to sort by.

Each function that takes a column raises a DataError that names the file, the column and the row.
"""

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.columns import INT64_MAX, fault, first_row, refuse_not_finite, refuse_null
from shortlist.durations import STEPS, TimeUnit, WrittenUnit, in_units
from shortlist.errors import DataError

NAMES: dict[TimeUnit, str] = {
    "number": "plain numbers in no known unit",
    "line": "the order of the lines",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "day": "days",
    "yyyymmdd": "dates written as yyyymmdd",
    "yyyymmddhhmmss": "times written as yyyymmddhhmmss",
}

# Tried in this order on the first value; the whole column must then follow that one form.
_UTC = re.compile(r" ?(UTC|GMT)$")
"""How text ends that names its zone by a word."""

_ISO_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%#z")
_OTHER_FORMS = (
    *("%Y/%m/%d", "%Y/%m/%dT%H:%M", "%Y/%m/%dT%H:%M:%S%.f"),
    *("%d.%m.%Y", "%d.%m.%YT%H:%M", "%d.%m.%YT%H:%M:%S%.f"),
)
"""Other forms that are read in one way only: the year first, or the day first before points."""

_CLOCKS = ("", "T%H:%M", "T%H:%M:%S", "T%I:%M %p", "T%I:%M:%S %p")
"""What follows a date with strokes, of which the day or the month stands first."""

_MICROSECOND = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_SINCE, _UNTIL = (
    631_152_000,
    4_102_444_800,
)  # 1990 and 2100, in seconds: what "auto" takes for times
_SIZES: dict[TimeUnit, tuple[int, int]] = {
    "s": (_SINCE, _UNTIL),
    "ms": (_SINCE * 10**3, _UNTIL * 10**3),
    "us": (_SINCE * 10**6, _UNTIL * 10**6),
    "ns": (_SINCE * 10**9, _UNTIL * 10**9),
    "yyyymmdd": (1900_01_01, 2100_12_31),
    "yyyymmddhhmmss": (1900_01_01_00_00_00, 2100_12_31_23_59_59),
}
"""Between which numbers the times of a unit lie, both included; no two of them meet."""

_DATE_FORMS: dict[str, tuple[str, int]] = {
    "yyyymmdd": ("%Y%m%d", 86_400_000_000),
    "yyyymmddhhmmss": ("%Y%m%d%H%M%S", 1_000_000),
}
"""How a date is written as a number, and the microseconds of the step it becomes."""

_HALF_WRITTEN = (10, 12)
"""Digits of yyyymmddhh and yyyymmddhhmm."""

_SERIALS = (32_874, 73_051)
"""Days since 1899-12-30, as spreadsheets count, from 1990 to 2100."""

_MOST_PLAIN = 0.1
"""The share of times of no unit's size up to which the others tell the unit."""

_MOST_DATES = 100_000
"""So many distinct dates are looked at, of a log that is read in parts."""

_FAR = 10
"""New events may lie so many years, or so many times the log's own range, away from it."""


def checked_times(
    column: pl.Series, where: str, unit: WrittenUnit | TimeUnit = "auto"
) -> tuple[pl.Series, TimeUnit]:
    """Return a key that orders as the times do, and its unit.

    Numbers stay as they are, in the unit given or read off their size (`unit_of`); those that write
    a date, such as 20240131, become days or seconds since 1970. Dates become days, and dates with a
    time the count of their own unit, since 1970 (UTC where a zone is given): all exact. They have a
    unit of their own, whatever `unit` is. Text must be ISO 8601, in one form for the whole column:
    other text would sort as letters do, with 10 before 9. A time of day is refused, since it orders
    nothing beyond one day.
    """
    refuse_null(column, where, "the time is missing; every row needs one.")
    if column.dtype == pl.String:
        column = _parse(column, where)
    kind = column.dtype
    if kind.is_float() or kind.is_integer():
        refuse_not_finite(column, where)
        if kind in (pl.UInt64, pl.Int128) and int(column.max()) > INT64_MAX:  # type: ignore[arg-type]
            raise fault(where, column.name, "times beyond 2^63 - 1 cannot be ordered exactly.")
        column = column.cast(pl.Float64 if kind.is_float() else pl.Int64)
        found = unit_of(column, where) if unit == "auto" else unit
        return (_from_dates(column, where, found) if found in _DATE_FORMS else column), found
    if kind == pl.Date:
        return column.cast(pl.Int32).cast(pl.Int64), "day"
    if isinstance(kind, (pl.Datetime, pl.Duration)):
        own: TimeUnit = kind.time_unit
        return column.cast(pl.Int64), own
    raise fault(
        where, column.name, f"times must be numbers, dates or ISO 8601 text, not {kind}; convert."
    )


def unit_of(column: pl.Series, where: str) -> TimeUnit:
    """Return the unit that the size of numbers tells, "number" where it tells none.

    Times since 1970 lie between 1990 and 2100, and date numbers between 1900 and 2100. A few other
    values, such as 0 where the time was not known, change nothing. Refused are times of two units,
    dates written with hours, and the days that spreadsheets count.
    """
    if not len(column):
        return "number"
    low, high = _bounds(column)
    found = _by_size(low, high) or _most(column, where)
    if found in _DATE_FORMS:
        read = _dates(column.filter(_within(column, found)).unique(), found)
        return found if read.null_count() <= _MOST_PLAIN * len(read) else "number"
    _refuse_half_written(column, where)
    if _SERIALS[0] <= low <= high <= _SERIALS[1]:
        day = dt.date(1899, 12, 30) + dt.timedelta(days=math.floor(low))
        raise fault(
            where,
            column.name,
            f"the times have the size of days as spreadsheets count them ({low} would be {day}). "
            "Export them as ISO text (2024-01-31), or say what they are: data.time_unit = 'day' "
            "for days since 1970, 'number' for a plain count.",
        )
    return found or "number"


@dataclass(frozen=True)
class TimeSizes:
    """What must be known of numbers to tell their unit, part by part; `joined` puts parts together.

    low, high: of all; head: the first thousand; counts: how many have the size of each unit;
    dates: the distinct ones that may write a date.
    """

    low: float
    high: float
    head: tuple[float, ...]
    counts: Mapping[TimeUnit, int]
    dates: tuple[float, ...]

    @classmethod
    def of(cls, column: pl.Series) -> "TimeSizes":
        """Look at some numbers, of which there is one at least."""
        counts = {unit: int(_within(column, unit).sum()) for unit in _SIZES}
        forms = [unit for unit in _SIZES if unit in _DATE_FORMS]
        written = [column.filter(_within(column, unit)) for unit in forms]
        dates = pl.concat(written).unique().sort().head(_MOST_DATES).to_list()
        low, high = _bounds(column)
        return cls(low, high, tuple(column.head(1000).to_list()), counts, tuple(dates))

    @classmethod
    def joined(cls, parts: Sequence["TimeSizes"]) -> "TimeSizes":
        """Return what is to be known of all numbers of the parts, in their order."""
        head = tuple(value for part in parts for value in part.head)[:1000]
        return cls(
            min(part.low for part in parts),
            max(part.high for part in parts),
            head,
            {unit: sum(part.counts[unit] for part in parts) for unit in _SIZES},
            tuple(sorted({value for part in parts for value in part.dates})[:_MOST_DATES]),
        )

    def unit(self, name: str, where: str) -> TimeUnit:
        """Return the unit that `unit_of` the whole column gives; refused where parts cannot tell.

        Errors: DataError.
        """
        found = _by_size(self.low, self.high)
        mixed = found is None and any(self.counts.values())
        if mixed or (found in _DATE_FORMS and len(self.dates) == _MOST_DATES):
            raise fault(
                where,
                name,
                f"the sizes of the times, {self.low} to {self.high}, do not tell one unit: say "
                "what they are (data.time_unit).",
            )
        values = self.dates if found in _DATE_FORMS else (*self.head, self.low, self.high)
        return unit_of(pl.Series(name, values), where)


def time_key(value: str | float | dt.date, unit: TimeUnit) -> int | float:
    """Return one time as a key of `checked_times`, to compare with a column of that unit.

    A number is taken as the column writes its own. A date with a time and no zone is taken as UTC.

    >>> time_key("1970-01-02", "ms"), time_key(dt.date(1970, 1, 3), "day"), time_key(5, "number")
    (86400000, 2, 5)
    >>> time_key(19700103, "yyyymmdd")
    2
    """
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise DataError(f"a time must be finite, got {value}.")
        if unit not in _DATE_FORMS:
            return value
        form = _DATE_FORMS[unit][0]
        try:
            value = dt.datetime.strptime(str(int(value)), form).replace(tzinfo=dt.UTC)
        except ValueError as error:
            raise DataError(f"{value!r} is no date written as {unit}.") from error
    if unit in ("number", "line"):
        raise DataError(
            f"the log's times are {NAMES[unit]}; {value!r} must be a number too, or data.time_unit "
            "must say what they are."
        )
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(_UTC.sub("Z", value))
        except ValueError as error:
            raise DataError(f"{value!r} is not an ISO 8601 date or time.") from error
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    microseconds = (value - _EPOCH) // _MICROSECOND
    # Days may end up with a fraction: a cut at noon lies between two dates.
    steps = {"us": 1, "ms": 1e3, "s": 1e6, "yyyymmddhhmmss": 1e6}  # in microseconds; else days
    key = microseconds * 1000 if unit == "ns" else microseconds / steps.get(unit, 86_400_000_000)
    return int(key) if key == int(key) else key


def told(times: pl.Series, unit: TimeUnit) -> str:
    """Say what a column of keys was taken for.

    >>> told(pl.Series("t", [1_600_000_000, 1_600_090_000]), "s")
    '2020-09-13 to 2020-09-14, read as seconds'
    """
    if unit == "line":
        return NAMES[unit]
    low, high = _written(times.min(), unit), _written(times.max(), unit)
    said = f"{low} to {high}, read as {NAMES[unit]}"
    if unit in _SIZES and unit not in _DATE_FORMS:
        outside = ~_within(times, unit)
        if outside.any():
            row = first_row(outside)
            said += (
                f"; {int(outside.sum()):,} outside 1990 to 2100, the first {times[row - 1]} in row "
                f"{row:,}"
            )
    return said


def refuse_beyond(where: str, column: str, times: pl.Series, unit: TimeUnit) -> None:
    """Refuse a unit that puts every time after 2100: another was meant."""
    if unit not in _SIZES or not len(times) or _bounds(times)[0] <= _SIZES[unit][1]:
        return
    found = _by_size(*_bounds(times))
    meant = "" if found is None else f" They have the size of {NAMES[found]} ('{found}')."
    raise fault(
        where,
        column,
        f"data.time_unit = '{unit}', and as {NAMES[unit]} the first time, {times[0]}, lies after "
        f"2100.{meant}",
        1,
    )


def refuse_far(
    where: str, column: str, times: pl.Series, log: NDArray[Any], unit: TimeUnit | None
) -> None:
    """Refuse new times (read in the log's unit) that are of another unit, or far from the log's.

    Far is more than 10 years and more than 10 times the range of the log away from it; of plain
    counts, more than 1,000 times their size.
    """
    if not len(times) or not len(log):
        return
    unit = unit or "number"
    low, high = log.min().item(), log.max().item()
    first, last = _bounds(times)
    of_log, of_new = (
        _by_size(*[float(np.median(values))] * 2) for values in (log, times.to_numpy())
    )
    own = f"{_written(low, unit)} to {_written(high, unit)}"
    came = f"{_written(first, unit)} to {_written(last, unit)}"
    if of_log is not None and of_new is not None and of_log != of_new:
        raise fault(
            where,
            column,
            f"its times have the size of {NAMES[of_new]} ({first} to {last}), those "
            f"of the log that of {NAMES[of_log]} ({low} to {high}); give both in one unit.",
        )
    clock = unit if unit in STEPS else of_log
    margin = _FAR * (high - low)
    if clock is not None:
        margin = max(margin, in_units(f"{_FAR * 365}d", clock))
    else:
        margin = 1000 * max(high - low, abs(low), abs(high), 1)  # counts grow, and have no size
    far = (times < low - margin) | (times > high + margin)
    if far.any():
        raise fault(
            where,
            column,
            f"its times run from {came}, far from those of the log, {own} ({NAMES[unit]}): correct "
            "them, or train on a log that holds both.",
        )


def is_of_clock(times: NDArray[Any], unit: TimeUnit | None) -> bool:
    """Whether times of a unit lie between 1990 and 2100, most of them, as those of a clock do.

    >>> is_of_clock(np.array([0, 1_600_000_000, 1_600_000_060]), "s")
    True
    """
    if unit not in STEPS or not len(times):
        return False
    low, high = _of_a_clock(unit)
    return bool(low <= np.median(times) <= high)


def refuse_other_clock(value: object, key: float, unit: TimeUnit) -> None:
    """Refuse a time that no clock of today shows, in a log whose times are a clock's.

    value: as it was written, to be told. Errors: DataError.
    """
    low, high = _of_a_clock(unit)
    if low <= key <= high:
        return
    number = isinstance(value, int | float)
    found = _by_size(value, value) if number else None
    meant = "write one between 1990 and 2100"
    if found is not None and found != unit:
        meant = f"it has the size of {NAMES[found]}; write {NAMES[unit]}, or ISO 8601 text"
    raise DataError(
        f"the time {value!r:.60} would be {_written(key, unit)}, as the log's times are "
        f"{NAMES[unit]}: {meant}"
    )


def written_time(microseconds: int, unit: TimeUnit) -> float | dt.datetime | None:
    """Return a moment since 1970 as a log of a unit has it; None where nobody knows the unit.

    >>> written_time(86_400_500_000, "s"), written_time(86_400_500_000, "ms")
    (86400.5, 86400500)
    """
    if unit not in STEPS:
        return None
    if unit in _DATE_FORMS:
        return _EPOCH + dt.timedelta(microseconds=microseconds)
    steps = STEPS[unit]
    if steps >= 1e6:
        return microseconds * round(steps / 1e6)
    size = round(1e6 / steps)
    return microseconds // size if microseconds % size == 0 else microseconds / size


def is_plain(unit: TimeUnit) -> bool:
    """Whether numbers of a unit are keys as they are, and do not write a date."""
    return unit not in _DATE_FORMS


def within_clock(low: float, high: float, unit: TimeUnit) -> bool:
    """Whether two keys lie between 1990 and 2100."""
    if unit not in STEPS:
        return False
    first, last = _of_a_clock(unit)
    return first <= low <= high <= last


def _of_a_clock(unit: TimeUnit) -> tuple[float, float]:
    """1990 and 2100 in the steps of a unit."""
    return _SINCE * STEPS[unit], _UNTIL * STEPS[unit]


def _bounds(column: pl.Series) -> tuple[float, float]:
    """The lowest and the highest of some numbers."""
    low, high = column.min(), column.max()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return low, high


def _most(column: pl.Series, where: str) -> TimeUnit | None:
    """The unit whose size nearly all numbers have; refused where some have that of another."""
    counts = {unit: int(_within(column, unit).sum()) for unit in _SIZES}
    if sum(counts.values()) < (1 - _MOST_PLAIN) * len(column):
        return None
    found = max(_SIZES, key=lambda unit: counts[unit])
    for other in _SIZES:
        if counts[other] and other != found:
            row = first_row(_within(column, other))
            raise fault(
                where,
                column.name,
                f"the time {column[row - 1]!r} has the size of {NAMES[other]}, most others that of "
                f"{NAMES[found]}: write all in one unit, or say what they are (data.time_unit).",
                row,
            )
    return found


def _by_size(low: Any, high: Any) -> TimeUnit | None:
    """The unit whose times both numbers could be, if there is one."""
    for unit, (first, last) in _SIZES.items():
        if first <= low and high <= last:
            return unit
    return None


def _within(column: pl.Series, unit: TimeUnit) -> pl.Series:
    return column.is_between(*_SIZES[unit])


def _dates(column: pl.Series, unit: str) -> pl.Series:
    """Numbers that write a date, as microseconds since 1970; null where they write none."""
    whole = column.cast(pl.Int64).cast(pl.String)
    return whole.str.to_datetime(_DATE_FORMS[unit][0], time_unit="us", strict=False, exact=True)


def _from_dates(column: pl.Series, where: str, unit: TimeUnit) -> pl.Series:
    # Days repeat: each is read once.
    distinct = column.unique().sort()
    read = _dates(distinct, unit)
    bad = read.is_null() | (distinct != distinct.cast(pl.Int64).cast(distinct.dtype))
    if bad.any():
        row = first_row(column == distinct[first_row(bad) - 1])
        raise fault(where, column.name, f"{column[row - 1]!r} is no date written as {unit}.", row)
    steps = read.cast(pl.Int64) // _DATE_FORMS[unit][1]
    places = np.searchsorted(distinct.to_numpy(), column.to_numpy())
    return steps.gather(places).alias(column.name)


def _refuse_half_written(column: pl.Series, where: str) -> None:
    """Refuse dates written with hours or minutes but no seconds: they may be numbers as well."""
    for digits in _HALF_WRITTEN:
        scale = 10 ** (digits - 4)
        low, high = _bounds(column)
        if not 1900 * scale <= low <= high < 2101 * scale:
            continue
        texts = column.head(1000).cast(pl.Int64).cast(pl.String)
        padded = texts + "0" * (14 - digits)  # an hour alone is no time to polars
        if padded.str.to_datetime("%Y%m%d%H%M%S", strict=False).null_count() == 0:
            raise fault(
                where,
                column.name,
                f"{column[0]} may be a time written as yyyymmddhh or yyyymmddhhmm, or a number: "
                "write it as ISO text (2024-01-31T09:30), or say what it is (data.time_unit).",
                1,
            )


def _written(value: Any, unit: TimeUnit) -> str:
    """A key as a person reads it: a date where the unit gives one, else the number."""
    if unit in STEPS:
        try:
            moment = _EPOCH + dt.timedelta(seconds=value / STEPS[unit])
        except OverflowError:
            return str(value)
        return moment.date().isoformat()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def moments(column: pl.Series, where: str) -> pl.Series:
    """Return dates, dates with a time or ISO text as dates with a time in UTC, in microseconds.

    What is missing stays so. Raises DataError for text that is no ISO date.
    """
    if column.dtype == pl.String:
        given = column.is_not_null()
        read = moments(parse_iso(column.filter(given), where), where)
        empty = pl.Series(column.name, [None] * len(column), dtype=read.dtype)
        return empty.scatter(given.arg_true(), read)
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(pl.Datetime("us"))


def parse_iso(column: pl.Series, where: str) -> pl.Series:
    """Return text as dates with a time; the form of the first is that of all, else DataError."""
    text = _iso_text(column)
    # Nanoseconds reach from 1677 to 2262 only: they are taken where microseconds would lose digits.
    unit: Literal["ns", "us"] = "ns" if text.str.contains(r"\.\d{7}").any() else "us"
    for form in _ISO_FORMS:
        if text.head(1).str.to_datetime(form, time_unit=unit, strict=False)[0] is None:
            continue
        times = text.str.to_datetime(form, time_unit=unit, strict=False)
        if not times.null_count():
            return times
    raise _odd_time(column, text, where)


def _iso_text(column: pl.Series) -> pl.Series:
    """Return text with a T before the clock, and Z for a zone written UTC, as REES46 has it."""
    if len(column) and (first := column[0]) is not None and _UTC.search(first):
        column = column.str.replace(_UTC.pattern, "Z")
    return column.str.replace(" ", "T", literal=True)


def _parse(column: pl.Series, where: str) -> pl.Series:
    """`parse_iso`, and the forms of spreadsheets, where all of the column can be read in one way.

    With strokes the day or the month stands first: days above 12 tell which.
    """
    try:
        return parse_iso(column, where)
    except DataError:
        text = column.str.replace(" ", "T", literal=True)
        if bool(text.str.contains(r"T\d{1,2}$").all()):
            return parse_iso(text + ":00", where)
        if not bool(text.str.contains(r"(^|\D)\d{4}(\D|$)").all()):
            raise  # without its century a year is none
        first = text.head(1)
        for form in _OTHER_FORMS:
            if (read := _all_of(text, first, form)) is not None:
                return read
        for clock in _CLOCKS:
            found = [_all_of(text, first, f"{date}/%Y{clock}") for date in ("%m/%d", "%d/%m")]
            read, other = found
            if read is not None and other is not None and not bool((read == other).all()):
                raise fault(
                    where,
                    column.name,
                    f"{column[0]!r} may have the day or the month first, and no day is above 12: "
                    "write ISO text (2024-01-31).",
                    1,
                ) from None
            if read is not None or other is not None:
                return next(times for times in found if times is not None)
        raise


def _all_of(text: pl.Series, first: pl.Series, form: str) -> pl.Series | None:
    """All of a column, read in one form; None where one value is of another."""
    if first.str.to_datetime(form, time_unit="us", strict=False)[0] is None:
        return None
    read = text.str.to_datetime(form, time_unit="us", strict=False)
    return None if read.null_count() else read


def _odd_time(column: pl.Series, text: pl.Series, where: str) -> DataError:
    """The error for the first value that is not written as most of them are."""
    zeros = column.str.contains(r"^[+-]?0\d")  # such as 07: a code, and no number
    odd = {"a number": column.cast(pl.Float64, strict=False).is_null() | zeros}
    for form in _ISO_FORMS:
        read = text.str.to_datetime(form, time_unit="us", strict=False)
        odd[f"a time of the form {form}"] = read.is_null()
    form = min(odd, key=lambda name: int(odd[name].sum()))
    if odd[form].all() or not odd[form].any():
        return fault(
            where,
            column.name,
            f"the time {column[0]!r} is text and not ISO 8601 (2024-01-31T09:30:00). Text sorts as "
            "letters do, 10 before 9: give numbers or ISO times.",
            1,
        )
    row, usual = first_row(odd[form]), first_row(~odd[form])
    return fault(
        where,
        column.name,
        f"the time {column[row - 1]!r} is not written like most of the others, such as "
        f"{column[usual - 1]!r} in row {usual:,} ({form}); write all times in one way.",
        row,
    )
