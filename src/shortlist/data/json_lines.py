"""How are JSON Lines read, one object a row, without confusing the ids 1 and "1"?

A file is read twice, block by block: first for the types of all values, then for the requested
columns, so that memory holds only these columns and one block. A key with numbers in some rows and
text in others is refused with the row.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.data.text import opened, unpacked
from shortlist.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json")

BLOCK = 32 << 20
"""Bytes that are parsed at once, rounded up to a whole line."""

_NUMBERS = (pl.Int64, pl.Int128, pl.Float64)
"""The types of JSON numbers; each holds the values of those before it."""

Kinds = dict[str, pl.DataType]


@dataclass(frozen=True)
class JsonLines:
    """A file of JSON objects whose rows have compatible types.

    schema: all keys and the types of their values over the whole file.
    rows: number of rows.
    most: only this many bytes are read; None reads the whole file.
    """

    path: Path
    schema: Kinds
    rows: int
    most: int | None = None

    def parts(self, columns: list[str]) -> Iterator[pl.DataFrame]:
        """Yield these columns, some rows at a time, in order. Errors: DataError."""
        rows = 0
        for block in _blocks(self.path, self.most):
            frame = pl.read_ndjson(io.BytesIO(block), schema={c: self.schema[c] for c in columns})
            rows += frame.height
            yield frame
        if rows != self.rows:
            raise DataError(f"{self.path}: it changed while it was read; read it again.")


def open_json(path: Path, most: int | None = None) -> JsonLines:
    """Scan a file of JSON objects, one a line. Errors: DataError with the first faulty row."""
    schema: Kinds = {}
    rows = 0
    for number, block in enumerate(_blocks(path, most)):
        if number == 0 and block.lstrip()[:1] == b"[":
            raise DataError(
                f"{path}: this is one JSON list; write one object a line (JSON Lines), as "
                "polars.read_json(path).write_ndjson(target) does."
            )
        clashes: list[str] = []
        try:
            frame = pl.read_ndjson(io.BytesIO(block), infer_schema_length=None)
            schema = _merged(schema, dict(frame.schema), clashes)
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise _first_broken(path, most, error) from error
        rows += frame.height
        if clashes or _may_be_mixed(block, schema):
            _refuse_mixed(path, most, schema)
    if not rows:
        raise DataError(f"{path}: there are no rows; nothing can be learned from it.")
    return JsonLines(path, schema, rows, most)


def _blocks(path: Path, most: int | None) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines, without blank blocks."""
    if most is not None:
        yield unpacked(path, most)[:].removeprefix(b"\xef\xbb\xbf")
        return
    with opened(path) as stream:
        left = [stream.read(BLOCK).removeprefix(b"\xef\xbb\xbf")]
        if left[0].lstrip()[:1] == b"[":  # a JSON list may have no second line
            yield left[0]
            return
        while left[-1]:
            end = left[-1].rfind(b"\n") + 1
            if end:
                block = b"".join([*left[:-1], left[-1][:end]])
                left = [left[-1][end:]]
                if block.strip():
                    yield block
            left.append(stream.read(BLOCK))
        if (block := b"".join(left)).strip():
            yield block


def _merged(one: Kinds, other: Kinds, clashes: list[str]) -> Kinds:
    """Return the keys of both, each with a type that holds the values of both. Errors: TypeError.

    clashes: a list that receives the keys that are text in one and something else in the other.
    """

    def holding(name: str, one: Any, other: Any) -> Any:
        if other in (one, pl.Null):
            return one
        if one == pl.Null:
            return other
        if one in _NUMBERS and other in _NUMBERS:
            return max(one, other, key=lambda kind: _NUMBERS.index(type(kind)))
        if isinstance(one, pl.List) and isinstance(other, pl.List):
            return pl.List(holding(name, one.inner, other.inner))
        if isinstance(one, pl.Struct) and isinstance(other, pl.Struct):
            return pl.Struct(_merged(_fields(one), _fields(other), clashes))
        if pl.String in (one, other):
            clashes.append(name)
            return pl.String()
        raise TypeError(f"{one} and {other}")

    return one | {
        name: holding(name, one[name], kind) if name in one else kind
        for name, kind in other.items()
    }


def _fields(struct: pl.Struct) -> Kinds:
    return {field.name: field.dtype for field in struct.fields}  # type: ignore[misc]


def _lines(path: Path, most: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, numbered from 1."""
    before = 0
    for block in _blocks(path, most):
        lines = block.splitlines()
        yield from ((n, line) for n, line in enumerate(lines, before + 1) if line.strip())
        before += len(lines)


def _first_broken(path: Path, most: int | None, error: Exception) -> DataError:
    kinds: dict[str, tuple[type, int]] = {}
    for row, line in _lines(path, most):
        try:
            value = json.loads(line)
        except ValueError as fault:
            return DataError(f"{path}: row {row:,}: {line[:60]!r} is no JSON object: {fault}.")
        if not isinstance(value, dict):
            return DataError(f"{path}: row {row:,}: expected an object, got {line[:60]!r}.")
        for name, inside in value.items():
            kind, first = kinds.setdefault(name, (type(inside), row))
            if kind is type(None):
                kinds[name] = (type(inside), row)
            elif inside is not None and {kind, type(inside)} not in ({kind}, {int, float}):
                return DataError(
                    f"{path}: column '{name}', row {row:,}: {str(inside)[:40]!r} is of another "
                    f"type than in row {first:,}; write all rows alike."
                )
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path}: cannot be read as JSON Lines, one object a line: {said}.")


# --- numbers among text ---------------------------------------------------------------------------


def _may_be_mixed(block: bytes, schema: Kinds) -> bool:
    """Return whether a text key may have other values here. A nested key may give a false alarm."""
    names = set(_texts(schema))
    if not names:
        return False
    keys = b"|".join(sorted(re.escape(json.dumps(name).encode()) for name in names))
    return re.search(rb"(?:" + keys + rb")\s*:\s*[-\dtf{[]", block) is not None


def _texts(schema: Kinds) -> Iterator[str]:
    """Yield the keys whose values are text, at any depth."""
    for name, kind in schema.items():
        if kind == pl.String:
            yield name
        elif isinstance(inner := _element(kind), pl.Struct):
            yield from _texts(_fields(inner))


def _element(kind: Any) -> Any:
    return kind.inner if isinstance(kind, pl.List) else kind


def _refuse_mixed(path: Path, most: int | None, schema: Kinds) -> None:
    """Refuse the first value in a text column that is not text."""
    for row, line in _lines(path, most):
        if (found := _no_text(json.loads(line), schema, "")) is not None:
            name, value = found
            number = isinstance(value, (int, float))
            what = f"{value!r} is a number" if number else f"{json.dumps(value)[:40]} is no text"
            alike = "write all of them as numbers or all as text" if number else "write rows alike"
            raise DataError(
                f"{path}: column '{name}', row {row:,}: {what}, and other rows have text there; "
                f"{alike}."
            )


def _no_text(values: Mapping[str, Any], schema: Kinds, path: str) -> tuple[str, Any] | None:
    """Return the path and value of the first value that should be text and is not."""
    for name, kind in schema.items():
        value = values.get(name)
        if kind == pl.String and not isinstance(value, str | None):
            return f"{path}{name}", value
        if not isinstance(inner := _element(kind), pl.Struct):
            continue
        for one in value if isinstance(value, list) else [value]:
            found = _no_text(one, _fields(inner), f"{path}{name}.") if one is not None else None
            if found is not None:
                return found
    return None
