"""What do the values of a time column mean? Finds their unit and makes keys to sort by.

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

_UTC = re.compile(r" ?(UTC|GMT)$")
"""A time zone that is written as a word at the end."""

_ISO_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%#z")
"""Formats of ISO 8601. The first that fits the first value must fit the whole column."""

_OTHER_FORMS = (
    *("%Y/%m/%d", "%Y/%m/%dT%H:%M", "%Y/%m/%dT%H:%M:%S%.f"),
    *("%d.%m.%Y", "%d.%m.%YT%H:%M", "%d.%m.%YT%H:%M:%S%.f"),
)
"""Other unambiguous formats: the year first, or the day first with points."""

_CLOCKS = ("", "T%H:%M", "T%H:%M:%S", "T%I:%M %p", "T%I:%M:%S %p")
"""What may follow a date with slashes, where either the day or the month is first."""

_MICROSECOND = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_SINCE, _UNTIL = (
    631_152_000,
    4_102_444_800,
)  # 1990 and 2100, in seconds: "auto" expects times between them
_SIZES: dict[TimeUnit, tuple[int, int]] = {
    "s": (_SINCE, _UNTIL),
    "ms": (_SINCE * 10**3, _UNTIL * 10**3),
    "us": (_SINCE * 10**6, _UNTIL * 10**6),
    "ns": (_SINCE * 10**9, _UNTIL * 10**9),
    "yyyymmdd": (1900_01_01, 2100_12_31),
    "yyyymmddhhmmss": (1900_01_01_00_00_00, 2100_12_31_23_59_59),
}
"""The lowest and highest numbers of each unit, both included; the ranges do not overlap."""

_DATE_FORMS: dict[str, tuple[str, int]] = {
    "yyyymmdd": ("%Y%m%d", 86_400_000_000),
    "yyyymmddhhmmss": ("%Y%m%d%H%M%S", 1_000_000),
}
"""How a date is written as a number, and the length of its step in microseconds."""

_HALF_WRITTEN = (10, 12)
"""Numbers of digits of yyyymmddhh and yyyymmddhhmm."""

_SERIALS = (32_874, 73_051)
"""1990 and 2100 in days since 1899-12-30, as spreadsheets count."""

_MOST_PLAIN = 0.1
"""The largest share of times outside every unit's range for which the others give the unit."""

_MOST_DATES = 100_000
"""The most distinct dates that are examined in a log read in parts."""

_FAR = 10
"""New events may be this many years, or this many times the log's range, away from the log."""


def checked_times(
    column: pl.Series, where: str, unit: WrittenUnit | TimeUnit = "auto"
) -> tuple[pl.Series, TimeUnit]:
    """Return keys that sort as the times do, and their unit.

    Numbers stay as they are, in the given unit or that of their size (`unit_of`). Numbers that
    write a date, such as 20240131, become days or seconds since 1970. Dates become days, and dates
    with a time become counts of their own unit since 1970 (UTC if a zone is given), whatever `unit`
    says; all of this is exact.

    Text must be in one unambiguous format for the whole column, such as ISO 8601. Other text is
    refused, as it would sort by letters, 10 before 9. A time of day is refused too, since it gives
    no order beyond one day.
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
    """Return the unit that the size of numbers suggests, or "number" if it suggests none.

    Times since 1970 are expected between 1990 and 2100, and date numbers between 1900 and 2100. A
    few other values, such as 0 for an unknown time, are tolerated.

    Errors: DataError for times of two units, for dates with hours but no seconds, and for the day
    numbers of spreadsheets.
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
            "Export them as ISO text (2024-01-31), or set their unit: data.time_unit = 'day' "
            "for days since 1970, 'number' for a plain count.",
        )
    return found or "number"


@dataclass(frozen=True)
class TimeSizes:
    """What is needed to find the unit of numbers that are read in parts; `joined` combines parts.

    low, high: of all numbers.
    head: the first thousand.
    counts: how many numbers are in the range of each unit.
    dates: the distinct numbers that may write a date.
    """

    low: float
    high: float
    head: tuple[float, ...]
    counts: Mapping[TimeUnit, int]
    dates: tuple[float, ...]

    @classmethod
    def of(cls, column: pl.Series) -> "TimeSizes":
        """Examine some numbers, at least one."""
        counts = {unit: int(_within(column, unit).sum()) for unit in _SIZES}
        forms = [unit for unit in _SIZES if unit in _DATE_FORMS]
        written = [column.filter(_within(column, unit)) for unit in forms]
        dates = pl.concat(written).unique().sort().head(_MOST_DATES).to_list()
        low, high = _bounds(column)
        return cls(low, high, tuple(column.head(1000).to_list()), counts, tuple(dates))

    @classmethod
    def joined(cls, parts: Sequence["TimeSizes"]) -> "TimeSizes":
        """Combine the parts, in their order."""
        head = tuple(value for part in parts for value in part.head)[:1000]
        return cls(
            min(part.low for part in parts),
            max(part.high for part in parts),
            head,
            {unit: sum(part.counts[unit] for part in parts) for unit in _SIZES},
            tuple(sorted({value for part in parts for value in part.dates})[:_MOST_DATES]),
        )

    def unit(self, name: str, where: str) -> TimeUnit:
        """Return the unit that `unit_of` gives for the whole column.

        name: the column's name in errors.

        Errors: DataError, also if the parts do not determine one unit.
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

    A number is read as the column's own numbers are. A date with a time and no zone is UTC.

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
    # A key in days may have a fraction: a cut at noon lies between two dates.
    steps = {"us": 1, "ms": 1e3, "s": 1e6, "yyyymmddhhmmss": 1e6}  # microseconds; other: days
    key = microseconds * 1000 if unit == "ns" else microseconds / steps.get(unit, 86_400_000_000)
    return int(key) if key == int(key) else key


def told(times: pl.Series, unit: TimeUnit) -> str:
    """Return how a column of keys was interpreted, for a report.

    >>> told(pl.Series("t", [1_600_000_000, 1_600_090_000]), "s")
    '2020-09-13 to 2020-09-14, read as seconds'
    """
    if unit == "line":
        return NAMES[unit]
    low, high = _written(times.min(), unit), _written(times.max(), unit)
    text = f"{low} to {high}, read as {NAMES[unit]}"
    if unit in _SIZES and unit not in _DATE_FORMS:
        outside = ~_within(times, unit)
        if outside.any():
            row = first_row(outside)
            text += (
                f"; {int(outside.sum()):,} outside 1990 to 2100, the first {times[row - 1]} in row "
                f"{row:,}"
            )
    return text


def refuse_beyond(where: str, column: str, times: pl.Series, unit: TimeUnit) -> None:
    """Refuse a given unit that puts every time after 2100, as another unit must be meant."""
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
    """Refuse new times, as keys in the log's unit, that have another unit or are far from the log.

    Far means more than 10 years and more than 10 times the log's range away. For plain counts it
    means more than 1,000 times their size.

    log: the times of the log.
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
        margin = 1000 * max(high - low, abs(low), abs(high), 1)  # counts have no natural scale
    far = (times < low - margin) | (times > high + margin)
    if far.any():
        raise fault(
            where,
            column,
            f"its times run from {came}, far from those of the log, {own} ({NAMES[unit]}): correct "
            "them, or train on a log that holds both.",
        )


def is_of_clock(times: NDArray[Any], unit: TimeUnit | None) -> bool:
    """Return whether most times of a unit lie between 1990 and 2100, as clock times do.

    >>> is_of_clock(np.array([0, 1_600_000_000, 1_600_000_060]), "s")
    True
    """
    if unit not in STEPS or not len(times):
        return False
    low, high = _of_a_clock(unit)
    return bool(low <= np.median(times) <= high)


def refuse_other_clock(value: object, key: float, unit: TimeUnit) -> None:
    """Refuse a time outside 1990 to 2100, for a log with clock times. Errors: DataError.

    value: the time as it was written, for the error.
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
    """Return microseconds since 1970 as a log of this unit writes them; None for unknown units.

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
    """Return whether numbers of this unit are used as keys unchanged; they do not write dates."""
    return unit not in _DATE_FORMS


def within_clock(low: float, high: float, unit: TimeUnit) -> bool:
    """Return whether two keys lie between 1990 and 2100."""
    if unit not in STEPS:
        return False
    first, last = _of_a_clock(unit)
    return first <= low <= high <= last


def _of_a_clock(unit: TimeUnit) -> tuple[float, float]:
    """Return 1990 and 2100 in the steps of a unit."""
    return _SINCE * STEPS[unit], _UNTIL * STEPS[unit]


def _bounds(column: pl.Series) -> tuple[float, float]:
    """Return the lowest and the highest of some numbers."""
    low, high = column.min(), column.max()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return low, high


def _most(column: pl.Series, where: str) -> TimeUnit | None:
    """Return the unit of nearly all numbers, or None. Refuse the rest if it has another unit."""
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
                f"{NAMES[found]}: write all in one unit, or set their unit (data.time_unit).",
                row,
            )
    return found


def _by_size(low: Any, high: Any) -> TimeUnit | None:
    """Return the unit whose range includes both numbers, or None."""
    for unit, (first, last) in _SIZES.items():
        if first <= low and high <= last:
            return unit
    return None


def _within(column: pl.Series, unit: TimeUnit) -> pl.Series:
    return column.is_between(*_SIZES[unit])


def _dates(column: pl.Series, unit: str) -> pl.Series:
    """Read numbers that write dates as microseconds since 1970; null for other numbers."""
    whole = column.cast(pl.Int64).cast(pl.String)
    return whole.str.to_datetime(_DATE_FORMS[unit][0], time_unit="us", strict=False, exact=True)


def _from_dates(column: pl.Series, where: str, unit: TimeUnit) -> pl.Series:
    # Many events share a day, so each distinct value is parsed only once.
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
    """Refuse dates with hours or minutes but no seconds, which may be plain numbers as well."""
    for digits in _HALF_WRITTEN:
        scale = 10 ** (digits - 4)
        low, high = _bounds(column)
        if not 1900 * scale <= low <= high < 2101 * scale:
            continue
        texts = column.head(1000).cast(pl.Int64).cast(pl.String)
        padded = texts + "0" * (14 - digits)  # polars cannot parse an hour without minutes
        if padded.str.to_datetime("%Y%m%d%H%M%S", strict=False).null_count() == 0:
            raise fault(
                where,
                column.name,
                f"{column[0]} may be a time written as yyyymmddhh or yyyymmddhhmm, or a number: "
                "write it as ISO text (2024-01-31T09:30), or set its unit (data.time_unit).",
                1,
            )


def _written(value: Any, unit: TimeUnit) -> str:
    """Return a key for people: a date if the unit gives one, else the number."""
    if unit in STEPS:
        try:
            moment = _EPOCH + dt.timedelta(seconds=value / STEPS[unit])
        except OverflowError:
            return str(value)
        return moment.date().isoformat()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def moments(column: pl.Series, where: str) -> pl.Series:
    """Return dates, dates with a time, or ISO text as times in UTC in microseconds.

    Missing values stay missing. Errors: DataError for text that is not an ISO date.
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
    """Return ISO text as times; all values need the form of the first. Errors: DataError."""
    text = _iso_text(column)
    # Nanoseconds cover only 1677 to 2262, so they are used only for more than 6 decimal places.
    unit: Literal["ns", "us"] = "ns" if text.str.contains(r"\.\d{7}").any() else "us"
    for form in _ISO_FORMS:
        if text.head(1).str.to_datetime(form, time_unit=unit, strict=False)[0] is None:
            continue
        times = text.str.to_datetime(form, time_unit=unit, strict=False)
        if not times.null_count():
            return times
    raise _odd_time(column, text, where)


def _iso_text(column: pl.Series) -> pl.Series:
    """Return text with a T before the clock, and with Z for a final UTC or GMT (as in REES46)."""
    if len(column) and (first := column[0]) is not None and _UTC.search(first):
        column = column.str.replace(_UTC.pattern, "Z")
    return column.str.replace(" ", "T", literal=True)


def _parse(column: pl.Series, where: str) -> pl.Series:
    """Read ISO text, or one of the forms of spreadsheets if it fits the whole column.

    With slashes the day or the month is first; a number above 12 shows which.
    """
    try:
        return parse_iso(column, where)
    except DataError:
        text = column.str.replace(" ", "T", literal=True)
        if bool(text.str.contains(r"T\d{1,2}$").all()):
            return parse_iso(text + ":00", where)
        if not bool(text.str.contains(r"(^|\D)\d{4}(\D|$)").all()):
            raise  # a year needs four digits
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
    """Return the column read in one form, or None if a value has another form."""
    if first.str.to_datetime(form, time_unit="us", strict=False)[0] is None:
        return None
    read = text.str.to_datetime(form, time_unit="us", strict=False)
    return None if read.null_count() else read


def _odd_time(column: pl.Series, text: pl.Series, where: str) -> DataError:
    """Return the error for the first value that is not written like most others."""
    zeros = column.str.contains(r"^[+-]?0\d")  # such as 07: a code rather than a number
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
