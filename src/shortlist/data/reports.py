"""What became of each row of a log while it was read?"""

from dataclasses import dataclass

from shortlist.data.schema import Tie
from shortlist.data.text import TextFormat
from shortlist.durations import TimeUnit


@dataclass(frozen=True)
class ReadReport:
    """What became of each row of a log; `rows` is `rows_read` minus everything left out.

    where: the log's name in errors.
    rows_read: rows of the log, or events of its lists.
    rows: rows that were kept.
    duplicates: rows equal to another in every column, merged into one.
    conflicts: rows that differ from another only in weight; one was kept (`readers.read_log`).
    below_min_weight: rows below `min_weight`.
    zero_weight: rows that were kept although their weight is 0.
    min_weight, tie: as in the schema.
    time_unit: unit of the time column, for `times.time_key`; None without a time column.
    times: how the time column was interpreted, as text.
    null_ids: rows left out because their user or item is missing.
    text: the format of the file; None if it is not a text file.
    kinds: for each kind of event its name, the number of its rows, and its use. Rows are those
        kept, or for dropped kinds those read.
    notes: other remarks about the values.
    beside: what became of the other logs.
    warnings: what is probably a mistake.
    """

    where: str
    rows_read: int
    rows: int
    duplicates: int = 0
    conflicts: int = 0
    below_min_weight: int = 0
    zero_weight: int = 0
    min_weight: float | None = None
    tie: Tie = "hash"
    time_unit: TimeUnit | None = None
    times: str | None = None
    null_ids: int = 0
    text: TextFormat | None = None
    kinds: tuple[tuple[str, int, str], ...] = ()
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the report as sentences; there is always at least one.

        >>> ReadReport("log.csv", rows_read=5, rows=4, duplicates=1).lines()
        ('log.csv: 5 rows read, 4 kept.', '1 exact duplicate merged.')
        """
        said = [f"{self.where}: {counted(self.rows_read, 'row')} read, {self.rows:,} kept."]
        if self.text is not None:
            said.append(f"Written with {self.text.line()}.")
        if self.null_ids:
            said.append(f"{counted(self.null_ids, 'row')} without a user or an item left out.")
        if self.duplicates:
            said.append(f"{counted(self.duplicates, 'exact duplicate')} merged.")
        if self.conflicts:
            kept = "the last in the file" if self.tie == "file" else "the largest weight"
            said.append(
                f"{counted(self.conflicts, 'row')} repeated another with a different weight; "
                f"{kept} was kept."
            )
        if self.kinds:
            listed = (f"{name!r} {rows:,} ({use})" for name, rows, use in self.kinds)
            said.append(f"Kinds of events: {', '.join(listed)}.")
        if self.below_min_weight:
            said.append(
                f"{counted(self.below_min_weight, 'row')} below the smallest weight of a positive, "
                f"{self.min_weight:g}, left out of training; they still count as seen items "
                "of their users."
            )
        if self.zero_weight:
            said.append(
                f"{counted(self.zero_weight, 'row')} of weight 0 counted as positives; "
                "set min_weight to leave them out."
            )
        if self.times is not None:
            said.append(f"Times: {self.times}.")
        warnings = (f"Warning: {warning}." for warning in self.warnings)
        return (*said, *self.notes, *self.beside, *warnings)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    >>> counted(1200, "row")
    '1,200 rows'
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
