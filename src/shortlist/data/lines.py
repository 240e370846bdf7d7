"""Does every line of a text file have as many fields as the header, and are its quotes quotes?

Bytes are looked at, not parsed: a parser that is asked for some of the columns hides the others.
"""

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from shortlist.compiled import compiled
from shortlist.errors import DataError

Bytes = bytes | mmap.mmap

_BLOCK = 1 << 20
_SMALL = 1 << 16  # bytes that are read before machine code would be loaded


class Layout(NamedTuple):
    """Where a text file's rows are, and what stands between the fields of one.

    start: its first byte; separator: one byte; fields: how many a row has; header: whether the
    first line is one; shown: the separator as people know it.
    """

    where: str
    start: int
    separator: bytes
    fields: int
    header: bool
    shown: str

    def ragged(self, record: int, fields: int, line: bytes) -> DataError:
        """The error for the record (1 is the first line) that has another number of fields."""
        than = "the header has" if self.header else "data.columns names"
        cure = "Each line needs all of its separators; an unknown value is an empty field."
        if fields > self.fields:
            cure = (
                f"A field that holds {self.shown!r} must stand in quotes; if another separator is "
                "meant, set data.separator."
            )
        elif fields == 1:
            cure = f"If the separator is not {self.shown!r}, set data.separator."
        return self.error(
            record,
            f"{fields} {'field' if fields == 1 else 'fields'} where {than} {self.fields}: "
            f"{excerpt(line)}. {cure}",
        )

    def error(self, record: int, message: str) -> DataError:
        """The error for a record."""
        row = record - self.header
        place = f"row {row:,}" if row else "the header"
        return DataError(f"{self.where}: {place}: {message}")


def excerpt(line: bytes) -> str:
    """The beginning of a line, as errors show it."""
    text = line.decode(errors="replace").strip("\r\n")
    return repr(text if len(text) <= 60 else text[:60] + "...")


def count_lines(data: Bytes, layout: Layout) -> int:
    """Count the lines without blank ones at the end, each a record whose quotes mean nothing.

    Errors: DataError for the first line that has another number of fields and is not blank.
    """
    separator, breaks = layout.separator, layout.fields - 1
    others = bytes(set(range(256)) - {separator[0], 10})
    one_line = separator * breaks + b"\n"
    lines = last = 0
    for block in _blocks(data, layout.start):
        marks = block.translate(None, others)
        count = len(marks) // layout.fields
        if breaks and marks == one_line * count:
            lines += count
            last = lines
            continue
        numbers = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(numbers == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        places = np.flatnonzero(numbers == separator[0])
        found = np.searchsorted(places, ends) - np.searchsorted(places, starts)
        blank = (ends == starts) | ((ends == starts + 1) & (numbers[starts] == 13))
        wrong = np.flatnonzero((found != breaks) & ~blank)
        if len(wrong):
            at = int(wrong[0])
            line = block[starts[at] : ends[at]]
            raise layout.ragged(lines + at + 1, int(found[at]) + 1, line)
        filled = np.flatnonzero(~blank)
        last = lines + int(filled[-1]) + 1 if len(filled) else last
        lines += len(ends)
    return last


def _blocks(data: Bytes, start: int) -> Iterator[bytes]:
    """The bytes in blocks of whole lines; the last line gets its end if it has none."""
    while start < len(data):
        end = min(start + _BLOCK, len(data))
        if end < len(data):
            end = data.rfind(b"\n", start, end) + 1 or data.find(b"\n", end) + 1 or len(data)
        block = data[start:end]
        yield block if block.endswith(b"\n") else block + b"\n"
        start = end


class Quotes(NamedTuple):
    """What the quotes of a file are, if they are read as quotes; records count from 1, 0 is none.

    records: without blank ones at the end. good: fields that begin with a quote and end with one;
    bad: those that only begin with one, the first in first_bad. inner: quotes inside of fields
    without any around. double: the first record that is also several whole lines.
    """

    records: int
    good: int
    bad: int
    first_bad: int
    inner: int
    double: int
    ragged: int
    ragged_fields: int
    ragged_at: int
    bad_at: int


def read_quotes(data: Bytes, layout: Layout, quote: str) -> Quotes:
    """Walk through the file as a parser does that knows quotes."""
    found = np.zeros(len(Quotes._fields), dtype=np.int64)
    given: Any = (layout.start, layout.separator[0], ord(quote), layout.fields, found)
    if len(data) < _SMALL:
        _walk.function(data[:], *given)  # type: ignore[attr-defined]
    else:
        _walk(np.frombuffer(data, dtype=np.uint8), *given)
    return Quotes(*map(int, found))


def are_quotes(data: Bytes, layout: Layout, quote: str, found: Quotes, *, said: bool) -> bool:
    """Decide whether quotes are quotes or characters like others; said: data.quote is given.

    Errors: DataError if some are and some are not, or if a row could as well be several.
    """
    cure = (
        f"data.quote = 'none' reads every quote as a character, data.quote = {quote!r} none of "
        "those around a field"
    )
    if found.bad and (found.good or said):
        first = data[found.bad_at : found.bad_at + 61]
        raise layout.error(
            found.first_bad,
            f"a field begins with {quote} and does not end with it: {excerpt(first)}, while "
            f"others do. Write it as {quote}...{quote} with each quote inside doubled, or, if "
            "quotes mean nothing in this file, say data.quote = 'none'.",
        )
    if not found.good:
        return said
    if found.double and not said:
        raise layout.error(
            found.double,
            "the quotes around a field hold the ends of lines that are whole rows themselves: "
            f"{cure}.",
        )
    return True


def refuse_ragged(data: Bytes, layout: Layout, found: Quotes) -> None:
    """Refuse the first record that has another number of fields."""
    if found.ragged:
        line = data[found.ragged_at : found.ragged_at + 61]
        raise layout.ragged(found.ragged, found.ragged_fields, line.split(b"\n")[0])


# One function, as it runs as machine code and, for small files, as plain Python.
@compiled
def _walk(  # noqa: PLR0912, PLR0915
    data: Any, start: int, separator: int, quote: int, fields: int, found: Any
) -> None:
    """Fill `found` with the numbers of `Quotes`."""
    size = len(data)
    at = begin = start
    record = last = good = bad = first_bad = inner = double = bad_at = 0
    ragged = ragged_fields = ragged_at = 0
    count = 1  # fields of this record
    marks = 0  # separators since the last end of a line, inside of quotes too
    several = False  # the record has more than one line
    whole = True  # and each of them so far could be a record
    opening = True
    most = max(separator, quote, 10)  # nearly all letters and digits are above it
    while at < size or begin < size:
        while not opening and at < size and data[at] > most:
            at += 1
        byte = data[at] if at < size else 10
        if opening and byte == quote:
            end, inside, lines, all_whole = at + 1, marks, 0, whole
            while end < size:
                if data[end] > most:
                    end += 1
                    continue
                if data[end] == quote:
                    if end + 1 < size and data[end + 1] == quote:
                        end += 2
                        continue
                    break
                if data[end] == separator:
                    inside += 1
                elif data[end] == 10:
                    lines += 1
                    all_whole = all_whole and inside == fields - 1
                    inside = 0
                end += 1
            after = end + 1
            closed = end < size and (
                after == size
                or data[after] == separator
                or data[after] == 10
                or (data[after] == 13 and (after + 1 == size or data[after + 1] == 10))
            )
            opening = False
            if closed:
                good += 1
                several = several or lines > 0
                marks, whole, at = inside, all_whole, after
                continue
            bad += 1
            if first_bad == 0:
                first_bad, bad_at = record + 1, at
        elif byte == quote:
            inner += 1
        opening = False
        if byte == separator:
            count += 1
            marks += 1
            opening = True
        elif byte == 10:
            record += 1
            blank = at == begin or (at == begin + 1 and data[begin] == 13)
            if not blank:
                last = record
                if count != fields and ragged == 0:
                    ragged, ragged_fields, ragged_at = record, count, begin
                if several and whole and marks == fields - 1 and double == 0:
                    double = record
            count, marks, several, whole, opening, begin = 1, 0, False, True, True, at + 1
        at += 1
    found[0], found[1], found[2], found[3], found[4] = last, good, bad, first_bad, inner
    found[5], found[6], found[7], found[8], found[9] = (
        double,
        ragged,
        ragged_fields,
        ragged_at,
        bad_at,
    )
