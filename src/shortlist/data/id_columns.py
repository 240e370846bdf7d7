"""How are the ids of a column checked? Missing ones are refused or counted, and types kept."""

import polars as pl

from shortlist.data.columns import checked_ids, fault, first_row
from shortlist.data.lost_ids import NULL_WORDS
from shortlist.data.reports import counted
from shortlist.data.schema import NullIds
from shortlist.errors import DataError


def with_ids(frame: pl.DataFrame, ids: list[str], null_ids: NullIds) -> tuple[pl.DataFrame, int]:
    """Drop the rows that lack one of these ids, if missing ids may be dropped; return their number.

    A table without any row left is refused by a later check.
    """
    if null_ids != "drop" or not any(frame[name].null_count() for name in ids):
        return frame, 0
    kept = frame.filter(pl.all_horizontal(pl.col(ids).is_not_null()))
    return kept, frame.height - kept.height


def counted_without(where: str, dropped: int) -> str:
    """Return a table's name with the remark that row numbers do not count the dropped rows."""
    return f"{where} (rows counted without the {dropped:,} whose id is missing)"


def given_ids(column: pl.Series, where: str, null_ids: NullIds) -> pl.Series:
    """Check ids as `checked_ids` does, and refuse words such as NULL that mean a missing value."""
    if column.null_count():
        cure = 'data.null_ids = "drop" leaves such rows out and counts them'
        message = f"the id is missing or empty; every row needs one ({cure})."
        raise fault(where, column.name, message, first_row(column.is_null()))
    if not len(column):
        raise fault(where, column.name, "every id is missing.")
    ids = checked_ids(column, where)
    if ids.dtype != pl.String or null_ids == "keep":
        return ids
    if (words := ids.is_in(NULL_WORDS)).any():
        row = first_row(words)
        raise fault(
            where,
            column.name,
            f"the id {ids[row - 1]!r} looks like a missing value. If it is one, set "
            f'data.null_values = [{as_toml(ids[row - 1])}] and data.null_ids = "drop"; if it is an '
            'id, data.null_ids = "keep".',
            row,
        )
    return ids


def text_among_numbers(ids: pl.Series, where: str) -> list[str]:
    """Report a few non-numbers (at most 1 %) because of which all ids of a text file are text."""
    if ids.dtype != pl.String:
        return []
    odd = ids.cast(pl.Int64, strict=False).is_null()
    count = int(odd.sum())
    if not 0 < count * 100 <= len(ids):
        return []
    row = first_row(odd)
    return [
        f"{where}: column '{ids.name}': {counted(count, 'id')} of {len(ids):,} is text among "
        f"numbers, the first {ids[row - 1]!r} in row {row:,}; so all are read as text."
    ]


def align_ids(
    left: pl.Series, right: pl.Series, *, left_text: bool, right_text: bool, where: str
) -> tuple[pl.Series, pl.Series]:
    """Return two id columns in one type, or refuse them: 1 and '1' are different ids.

    Only integers from a text file may become text again: their digits are all that was written.

    left_text, right_text: whether the column comes from a text file (`is_text`).
    where: what is compared, for errors: "items.csv".

    >>> log, items = pl.Series([1, 2]), pl.Series(["1", "x2"])
    >>> align_ids(log, items, left_text=True, right_text=False, where="items")[0].to_list()
    ['1', '2']
    """
    if left.dtype == right.dtype:
        return left, right
    if left.dtype == pl.Int64 and left_text:
        return left.cast(pl.String), right
    if right.dtype == pl.Int64 and right_text:
        return left, right.cast(pl.String)
    number, text = (left, right) if left.dtype == pl.Int64 else (right, left)
    raise DataError(
        f"{where}: ids are integers ({number[0]!r}) in one table and text ({text[0]!r}) in the "
        "other, and 1 is not '1'; give both the same type."
    )


def as_toml(text: str) -> str:
    """Return a text as a TOML string."""
    return f"'{text}'" if "\\" in text else f'"{text}"'


def few_shared(side: str, in_log: pl.Series, table: pl.DataFrame | None) -> str | None:
    """Return a warning if fewer than half of the log's ids of a side are in its table, else None.

    in_log: the distinct ids of the log.
    >>> few_shared("item", pl.Series(["1.0", "2.0"]), pl.DataFrame({"id": ["1", "2"]}))
    "0 of 2 items of the log are in the items table (the log has '1.0', the table '1')"
    """
    if table is None or not len(in_log):
        return None
    known = in_log.is_in(table["id"].implode())
    if 2 * known.sum() >= len(in_log):
        return None
    others = table["id"].filter(~table["id"].is_in(in_log.implode()))
    theirs = f"the table {others[0]!r}" if len(others) else "which the table lacks"
    return (
        f"{known.sum():,} of {len(in_log):,} {side}s of the log are in the {side}s table (the log "
        f"has {in_log.filter(~known)[0]!r}, {theirs})"
    )
