"""Has every line of a text file as many fields as the header, and do its quotes enclose fields?

The bytes are scanned rather than parsed, as a parser asked for some columns ignores faults in the
others.
"""

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple, overload

import numpy as np

from shortlist.compiled import compiled
from shortlist.errors import DataError

Bytes = bytes | mmap.mmap

_BLOCK = 1 << 20
_SMALL = 1 << 16  # bytes that are scanned in Python, as loading compiled code takes longer


class Layout(NamedTuple):
    """Where the rows of a text file are, and what separates their fields.

    where: the file's name in errors.
    start: the first byte.
    separator: one byte.
    fields: number of fields of a row.
    header: whether the first line is a header.
    shown: the separator as the user knows it.
    """

    where: str
    start: int
    separator: bytes
    fields: int
    header: bool
    shown: str

    def ragged(self, record: int, fields: int, line: bytes) -> DataError:
        """Return the error for a record (1 is the first line) with a wrong number of fields."""
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
        """Return the error for a record."""
        row = record - self.header
        place = f"row {row:,}" if row else "the header"
        return DataError(f"{self.where}: {place}: {message}")


def excerpt(line: bytes) -> str:
    """Return the start of a line, for errors."""
    text = line.decode(errors="replace").strip("\r\n")
    return repr(text if len(text) <= 60 else text[:60] + "...")


@overload
def count_lines(data: Bytes, layout: Layout) -> int: ...
@overload
def count_lines(data: Bytes, layout: Layout, quote: str) -> int | None: ...
def count_lines(data: Bytes, layout: Layout, quote: str = "") -> int | None:
    """Count the lines, each a record, without blank ones at the end.

    quote: stop and return None at this character, as records may then span lines. "" ignores it.

    Errors: DataError for the first line that is not blank and has a wrong number of fields.
    """
    separator, breaks = layout.separator, layout.fields - 1
    others = bytes(set(range(256)) - {separator[0], 10})
    one_line = separator * breaks + b"\n"
    lines = last = 0
    for block in blocks(data, layout.start):
        if quote and quote.encode() in block:
            return None
        whole = block if block.endswith(b"\n") else block + b"\n"
        marks = whole.translate(None, others)
        count = len(marks) // layout.fields
        if breaks and marks == one_line * count:
            lines += count
            last = lines
            continue
        numbers = np.frombuffer(whole, dtype=np.uint8)
        ends = np.flatnonzero(numbers == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        places = np.flatnonzero(numbers == separator[0])
        found = np.searchsorted(places, ends) - np.searchsorted(places, starts)
        blank = (ends == starts) | ((ends == starts + 1) & (numbers[starts] == 13))
        wrong = np.flatnonzero((found != breaks) & ~blank)
        if len(wrong):
            at = int(wrong[0])
            line = whole[starts[at] : ends[at]]
            raise layout.ragged(lines + at + 1, int(found[at]) + 1, line)
        filled = np.flatnonzero(~blank)
        last = lines + int(filled[-1]) + 1 if len(filled) else last
        lines += len(ends)
    return last


def blocks(data: Bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes from a position on, in blocks of whole lines, and release their memory."""
    while start < len(data):
        end = min(start + _BLOCK, len(data))
        if end < len(data):
            end = data.rfind(b"\n", start, end) + 1 or data.find(b"\n", end) + 1 or len(data)
        yield data[start:end]
        _let_go(data, start, end - start)
        start = end


def _let_go(data: Bytes, start: int, size: int) -> None:
    """Release the memory of a part of a mapped file; it stays readable."""
    advise = getattr(data, "madvise", None)  # bytes do not have it, nor mmap on some systems
    if advise is not None and size > 0:
        page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        advise(mmap.MADV_DONTNEED, page, start + size - page)


class Quotes(NamedTuple):
    """What a scan finds if quotes enclose fields. Records count from 1; 0 means none.

    records: number of records, without blank ones at the end.
    good: fields that start and end with a quote.
    bad: fields that only start with one; `first_bad` is the record of the first, `bad_at` its byte.
    inner: quotes inside unquoted fields.
    double: the first record that consists of several lines, each with the fields of a row.
    ragged: the first record with a wrong number of fields, `ragged_fields`; it starts at byte
        `ragged_at`.
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
    """Scan the file as a parser that knows quotes does, in blocks of whole records."""
    found = np.zeros(len(Quotes._fields) + 1, dtype=np.int64)  # last: all records, blank ones too
    small = len(data) < _SMALL
    walk = _walk.function if small else _walk  # type: ignore[attr-defined]
    given: Any = (layout.separator[0], ord(quote), layout.fields, found)
    start, size = layout.start, _BLOCK
    while start < len(data):
        block = data[start : start + size]
        whole = start + size >= len(data)
        taken = 0 if small else _regular(np.frombuffer(block, "<u8", len(block) // 64 * 8), *given)
        if not taken:
            bytes_ = block if small else np.frombuffer(block, dtype=np.uint8)
            taken = int(walk(bytes_, start, whole, *given))
        _let_go(data, start, taken)
        start += taken
        size = _BLOCK if taken else 2 * size  # no record ends in this block
    return Quotes(*map(int, found[:-1]))


def are_quotes(data: Bytes, layout: Layout, quote: str, found: Quotes, *, said: bool) -> bool:
    """Decide whether quotes enclose fields or are ordinary characters.

    said: whether the user gives data.quote.

    Errors: DataError if quotes are used both ways, or if a row could equally be several rows.
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
            "quotes mean nothing in this file, set data.quote = 'none'.",
        )
    if not found.good:
        return said
    if found.double and not said:
        raise layout.error(
            found.double,
            "the quotes around a field hold line ends, and each of these lines is a whole row "
            f"itself: {cure}.",
        )
    return True


def refuse_ragged(data: Bytes, layout: Layout, found: Quotes) -> None:
    """Refuse the first record with a wrong number of fields."""
    if found.ragged:
        line = data[found.ragged_at : found.ragged_at + 61]
        raise layout.ragged(found.ragged, found.ragged_fields, line.split(b"\n")[0])


# One function that runs as compiled code, and for small files as plain Python.
@compiled
def _walk(  # noqa: PLR0912, PLR0915
    data: Any, offset: int, whole: bool, separator: int, quote: int, fields: int, found: Any
) -> int:
    """Add a block's records to the counts of `Quotes`; return how many bytes they take.

    offset: where the block starts in the file.
    whole: whether the file ends with the block. If not, a record that may continue after it is left
        for the next block.
    """
    size = len(data)
    at = begin = 0
    last, good, bad, first_bad, inner = found[0], found[1], found[2], found[3], found[4]
    double, ragged, ragged_fields, ragged_at = found[5], found[6], found[7], found[8]
    bad_at, record = found[9], found[10]
    count = 1  # fields of this record
    marks = 0  # separators since the last line end, also inside quotes
    several = False  # the record has more than one line
    all_lines = True  # each of its lines so far could be a record
    opening = True
    most = max(separator, quote, 10)  # nearly all letters and digits are larger
    while at < size or (whole and begin < size):
        while not opening and at < size and data[at] > most:
            at += 1
        if at == size and not whole:
            break
        byte = data[at] if at < size else 10
        if opening and byte == quote:
            end, inside, lines, all_whole = at + 1, marks, 0, all_lines
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
            if after + 1 >= size and not whole:
                break
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
                marks, all_lines, at = inside, all_whole, after
                continue
            bad += 1
            if first_bad == 0:
                first_bad, bad_at = record + 1, offset + at
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
                    ragged, ragged_fields, ragged_at = record, count, offset + begin
                if several and all_lines and marks == fields - 1 and double == 0:
                    double = record
            count, marks, several, all_lines, opening, begin = 1, 0, False, True, True, at + 1
            found[0], found[1], found[2], found[3], found[4] = last, good, bad, first_bad, inner
            found[5], found[6], found[7], found[8] = double, ragged, ragged_fields, ragged_at
            found[9], found[10] = bad_at, record
        at += 1
    return min(begin, size)


_ONE = np.uint64(1)
_ALL = ~np.uint64(0)
_EACH = _ALL // np.uint64(255)  # 1 in each byte
_LOW = _EACH * np.uint64(127)  # all bits of each byte but the highest
_GATHER = np.uint64(0x0102040810204080)


@compiled
def _regular(words: Any, separator: int, quote: int, fields: int, found: Any) -> int:
    """Add a block's records as `_walk` does, 64 bytes at a time; return how many bytes they take.

    Returns 0 and adds nothing if the block is not of the usual form: quotes only around whole
    fields or doubled within them, one line a record, and the right number of fields in each. The
    last record is left for the next block if it does not end in this one.

    words: the bytes, eight in a number, [n] uint64.

    Bit i of a mask stands for byte i of the 64 (Langdale & Lemire 2019).
    """
    inside_before = np.uint64(0)  # all bits set if the 64 bytes start inside quotes
    mark_before = _ONE  # 1 if the byte before is a quote, a separator or a line end
    closed_before = np.uint64(0)  # 1 if the byte before is a closing quote
    return_before = np.uint64(0)  # 1 if the byte before is a carriage return after such a quote
    records = good = met = count = end = 0
    for at in range(0, len(words), 8):
        quotes = separators = ends = np.uint64(0)
        for n in range(8):
            word, place = words[at + n], np.uint64(8 * n)
            quotes |= _where(word, quote) << place
            separators |= _where(word, separator) << place
            ends |= _where(word, 10) << place
        marks = quotes | separators | ends
        inside = quotes  # becomes: from an opening quote to the byte before the closing one
        for step in (1, 2, 4, 8, 16, 32):
            inside = inside ^ (inside << np.uint64(step))
        inside = inside ^ inside_before
        inside_before = _ALL * (inside >> np.uint64(63))
        opens, closes = quotes & inside, quotes & ~inside
        closed = (closes << _ONE) | closed_before
        closed_before = closes >> np.uint64(63)
        if (ends & inside) | (opens & ~((marks << _ONE) | mark_before)) | (return_before & ~ends):
            return 0
        mark_before = marks >> np.uint64(63)
        return_before = np.uint64(0)
        odd = closed & ~marks
        if odd:
            returns = np.uint64(0)
            for n in range(8):
                returns |= _where(words[at + n], 13) << np.uint64(8 * n)
            if (odd & ~returns) | ((odd << _ONE) & ~ends):
                return 0
            return_before = odd >> np.uint64(63)
        begun = opens & ~closed
        separators = separators & ~inside
        while ends:
            below = (ends & (~ends + _ONE)) - _ONE
            line_end = at * 8 + _bits(below)
            count += _bits(separators & below)
            if count != fields - 1 or line_end - end < 2:  # wrong, or a line that may be blank
                return 0
            records += 1
            good = met + _bits(begun & below)
            count, end = 0, line_end + 1
            separators = separators & ~below
            ends = ends & (ends - _ONE)
        count += _bits(separators)
        met += _bits(begun)
    if records:
        found[10] += records
        found[0] = found[10]
        found[1] += good
    return end


@compiled
def _where(word: Any, byte: int) -> Any:
    """Return which of the eight bytes of a word equal `byte`, as a mask of eight bits."""
    other = word ^ (_EACH * np.uint64(byte))
    zeros = ~(((other & _LOW) + _LOW) | other | _LOW)  # the highest bit of each byte that is 0
    return ((zeros >> np.uint64(7)) * _GATHER) >> np.uint64(56)


@compiled
def _bits(mask: Any) -> Any:
    """Return the number of set bits of a mask."""
    two = mask - ((mask >> _ONE) & (_EACH * np.uint64(0x55)))
    pairs = _EACH * np.uint64(0x33)
    four = (two & pairs) + ((two >> np.uint64(2)) & pairs)
    eight = (four + (four >> np.uint64(4))) & (_EACH * np.uint64(0x0F))
    return np.int64((eight * _EACH) >> np.uint64(56))
