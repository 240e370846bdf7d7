"""How large is a Parquet file in memory? Its headers tell, before it is decoded.

Run-length encoding stores a billion equal values in a few bytes, so that a small file can exhaust
the memory. The footer can understate the size, so the header of every page is read as well, with a
small reader of the Thrift compact protocol.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAGIC = b"PAR1"
WIDTHS = (1, 4, 8, 12, 4, 8, 16, 0)
"""Bytes per value in memory, by physical type; 0 for the last one, which states its length."""

_DEEPEST = 16
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = (
    *(0, 1, 2, 3, 7, 8, 9, 10, 11, 12),
)
_INTEGERS = (4, 5, 6)


class Unpacked(NamedTuple):
    """The number of rows of a table, and an upper bound of its size in memory, in bytes."""

    rows: int
    size: int


def unpacked(data: bytes) -> Unpacked:
    """Read the headers of a Parquet file. Errors: ValueError if it is not one."""
    if len(data) < 12 or data[:4] != MAGIC or data[-4:] != MAGIC:
        raise ValueError("it does not begin and end with PAR1")
    length = int.from_bytes(data[-8:-4], "little")
    if length > len(data) - 12:
        raise ValueError("its footer is longer than the file")
    try:
        footer, _ = _struct(data[-8 - length : -8], 0, 0)
        widths = [WIDTHS[c[1]] or _whole(c[2]) for c in footer[2] if 1 in c]
        size = rows = 0
        for group in footer[4]:
            rows += _whole(group[3])
            for column, width in zip(group[1], widths, strict=True):
                for page in _pages(data, column[3]):
                    values = max((_whole(page[at][1]) for at in (5, 7, 8) if at in page), default=0)
                    size += _whole(page[2]) + values * width
        if rows != _whole(footer[3]):
            raise ValueError("its row groups have more or fewer rows than its footer says")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("its headers cannot be read") from error
    return Unpacked(rows, size)


def _pages(data: bytes, chunk: Mapping[int, Any]) -> Iterator[dict[int, Any]]:
    """Yield the header of each page of a column chunk; they must fill it exactly."""
    at = min(_whole(chunk[9]), _whole(chunk.get(11) or chunk[9]))
    end = at + _whole(chunk[7])
    if end > len(data):
        raise ValueError("a column ends after the file")
    while at < end:
        page, at = _struct(data, at, 0)
        yield page
        at += _whole(page[3])
    if at != end:
        raise ValueError("the pages of a column do not fill it")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a length in it is below 0")
    return value


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read the struct at position `at`; return {field number: value} and its end position."""
    if depth > _DEEPEST:
        raise ValueError("its headers are nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != _STOP:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        kind = head & 15
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth + 1)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _zigzag(data, at)
    if kind == _BINARY:
        length, at = _varint(data, at)
        if length > len(data) - at:
            raise ValueError("a text in its headers is longer than the file")
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _struct(data, at, depth)
    if kind in (_LIST, _SET):
        return _list(data, at, depth)
    if kind in (_BYTE, _TRUE, _FALSE):
        return data[at], at + 1
    if kind == _DOUBLE:
        return None, at + 8
    raise ValueError("its headers have an unknown type")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if depth > _DEEPEST:
        raise ValueError("its headers are nested too deep")
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    values = []
    for _ in range(count):  # Each value takes at least a byte, so the end of the file ends this.
        value, at = _value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number in its headers is too long")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
