"""What can be seen of one column: its values, their frequencies, and the words of its name."""

import re
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from shortlist.data.lost_ids import NULL_WORDS
from shortlist.data.times import checked_times, told
from shortlist.durations import TimeUnit
from shortlist.errors import DataError

CLOCKS = ("s", "ms", "us", "ns", "day", "yyyymmdd", "yyyymmddhhmmss")
"""Units of time that the size of numbers or the form of text reveals."""

_BETWEEN = (" ", ",", "|", ";")
_LOOKED = 10_000


@dataclass(frozen=True)
class Column:
    """A column of a head, by its name in the recipe. named: whether the file names it."""

    name: str
    values: pl.Series
    named: bool = True

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its name, in lower case.

        >>> Column("reviewerID", pl.Series([1])).words, Column("events.aid", pl.Series([1])).words
        (('reviewer', 'id'), ('aid',))
        """
        if not self.named:
            return ()
        own = self.name.rpartition(".")[2]
        written = self.name if own.lower() in ("id", "key", "code") else own
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", written)
        return tuple(part.lower() for part in parts)

    @property
    def can_be_named(self) -> bool:
        """Whether a recipe can name the column."""
        return bool(self.name) and "\0" not in self.name

    @cached_property
    def given(self) -> pl.Series:
        """The values that are not missing."""
        return self.values.drop_nulls()

    @property
    def missing(self) -> int:
        """The number of rows without a value."""
        return len(self.values) - len(self.given)

    @cached_property
    def unknown(self) -> float:
        """The share of rows with no value, or with a word such as NULL."""
        words = self.given.is_in(self.null_words).sum() if self.null_words else 0
        return (self.missing + int(words)) / max(len(self.values), 1)

    @property
    def reach(self) -> str:
        """The lowest and the highest number, as text.

        >>> Column("x", pl.Series([1 / 3, 2.0])).reach
        '0.333333 to 2'
        """
        values = self.given.cast(pl.Float64) if not self.is_whole else self.given
        ends = (values.to_numpy().min(), values.to_numpy().max())
        return " to ".join(str(end) if self.is_whole else f"{end:.6g}" for end in ends)

    @cached_property
    def distinct(self) -> int:
        """The number of distinct values."""
        if self.is_nested or not len(self.given):
            return 0
        return int(self.given.n_unique())

    @property
    def is_nested(self) -> bool:
        """Whether its values are lists or structs."""
        return self.values.dtype.is_nested()

    @property
    def is_text(self) -> bool:
        """Whether its values are text."""
        return self.values.dtype in (pl.String, pl.Categorical, pl.Enum)

    @property
    def is_whole(self) -> bool:
        """Whether its values are integers."""
        return self.values.dtype.is_integer()

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, whole or not."""
        return self.values.dtype.is_numeric()

    @cached_property
    def repeats(self) -> float:
        """How often each value occurs, on average."""
        return len(self.given) / max(self.distinct, 1)

    @cached_property
    def runs(self) -> int:
        """The number of runs of equal values in the order of the rows."""
        return 1 + int((self.given != self.given.shift()).sum())

    @cached_property
    def unit(self) -> TimeUnit | None:
        """The unit of its values as times; "number" if it is unknown, None if they are no times."""
        return self._time[0]

    @property
    def is_clock(self) -> bool:
        """Whether its values are times since 1970, or dates as text or numbers."""
        return self.unit in CLOCKS

    @property
    def times(self) -> str:
        """How its values are read as times, or why they cannot be."""
        return self._time[1]

    @cached_property
    def _time(self) -> tuple[TimeUnit | None, str]:
        if self.is_nested or not len(self.given) or self.values.dtype == pl.Boolean:
            return None, ""
        try:
            keys, unit = checked_times(self.given, "")
        except DataError as error:
            return None, str(error).removeprefix(": ")
        return unit, told(keys, unit)

    @property
    def ordered(self) -> bool:
        """Whether its values never decrease from row to row."""
        return bool(self.given.is_sorted())

    def counts(self, other: "Column") -> bool:
        """Return whether it numbers the rows of each value of another column, as a position does.

        >>> users, place = Column("u", pl.Series([7, 7, 7, 9, 9])), pl.Series([0, 1, 2, 0, 1])
        >>> Column("n", place).counts(users)
        True
        """
        if not self.is_whole or len(self.given) != len(other.given) or self.runs < 3:
            return False
        goes_on = self.given.diff().slice(1) == 1
        same = (other.given == other.given.shift()).slice(1)
        if not goes_on.any() or goes_on.all():
            return False
        return bool((goes_on == same).all())

    @property
    def is_binary(self) -> bool:
        """Whether its values are exactly the numbers 0 and 1."""
        if self.values.dtype == pl.Boolean:
            return False
        return self.is_number and set(self.given.unique().to_list()) == {0, 1}

    @cached_property
    def null_words(self) -> list[str]:
        """Those of its values that usually mean a missing value, such as NULL."""
        if self.values.dtype != pl.String:
            return []
        odd = self.given.is_in(NULL_WORDS) | (self.given.str.strip_chars() == "")
        return sorted(self.given.filter(odd).unique().to_list())

    @cached_property
    def several(self) -> str | None:
        """The separator of the ids in each of its texts; "" for bracketed lists, None if single."""
        if self.values.dtype != pl.String or not len(self.given):
            return None
        texts = self.given.head(_LOOKED)
        if bool(texts.str.contains(r"^\s*\[.*\]\s*$").all()):
            return ""
        for mark in _BETWEEN:
            marked = int(texts.str.contains(mark, literal=True).sum())
            parts = texts.str.split(mark).explode(empty_as_null=False, keep_nulls=False)
            ids = int(parts.str.contains(r"^[^\s:,;|]*\d[^\s:,;|]*$").sum())
            if 3 * marked > len(texts) and ids == len(parts) and 2 * parts.n_unique() < len(parts):
                return mark
        return None

    def counted(self) -> str:
        """Return how many values there are and how often each occurs, in words.

        >>> Column("u", pl.Series([1, 1, 2, 2])).counted()
        '2 values, each 2 times on average'
        """
        if self.distinct == len(self.given):
            return f"{self.distinct:,} values, each once"
        return f"{self.distinct:,} values, each {self.repeats:.3g} times on average"
