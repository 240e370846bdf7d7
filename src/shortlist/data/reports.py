"""What became of each row of a log while it was read?"""

from dataclasses import dataclass

from shortlist.data.schema import Tie
from shortlist.data.text import TextFormat
from shortlist.durations import TimeUnit


@dataclass(frozen=True)
class ReadReport:
    """What became of each row of a log: `rows` = `rows_read` minus all that was left out.

    duplicates: rows equal to another in every column read, merged into one. conflicts: rows that
    differ from another in weight alone; one of them was kept (see `read_interactions`).
    zero_weight: rows kept although they weigh nothing. time_unit: what a step of the time column
    is, for `times.time_key`; None without a time column. times: what that column was taken for.
    null_ids: rows left out as their user or item is missing. text: how the file is written, None if
    it is no text. notes: what else was noticed in its values. beside: what became of other logs.
    kinds: of each kind of events, its name, its rows that were kept (or dropped), and what it is
    for. warnings: what is wrong, most likely.
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
        """Return the report as sentences; the first is always there.

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
                f"{self.min_weight:g}, left out of training; their users are known to have met "
                "these items."
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
    """Write a number with its noun.

    >>> counted(1200, "row")
    '1,200 rows'
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
