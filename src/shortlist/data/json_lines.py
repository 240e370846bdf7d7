"""How are JSON Lines read, one object a row, without two ids becoming one?

Types come from the values of the whole file, and 1 and "1" are different: a key that has numbers in
some rows and text in others is refused with the row.
"""

import io
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.data.text import unpacked
from shortlist.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json")


def open_json(path: Path, most: int | None = None) -> pl.LazyFrame:
    """Return the rows of a file of JSON objects, checked as far as no column is asked for.

    most: of the first so many bytes only. Errors: DataError with the first line that is no object.
    """
    data = unpacked(path, most)[:].removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"[":
        raise DataError(
            f"{path}: this is one JSON list; write one object a line (JSON Lines), as "
            "polars.read_json(path).write_ndjson(target) does."
        )
    try:
        frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise _first_broken(data, path, error) from error
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    if texts and (mixed := _first_mixed(data, texts)) is not None:
        row, name, value = mixed
        raise DataError(
            f"{path}: column '{name}', row {row:,}: {value!r} is a number, and other rows have "
            "text there; write all of them as numbers or all as text."
        )
    return frame.lazy()


def _first_broken(data: bytes, path: Path, error: Exception) -> DataError:
    kinds: dict[str, tuple[type, int]] = {}
    for row, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as fault:
            return DataError(f"{path}: row {row:,}: {line[:60]!r} is no JSON object: {fault}.")
        if not isinstance(value, dict):
            return DataError(f"{path}: row {row:,}: expected an object, got {line[:60]!r}.")
        for name, inside in value.items():
            kind, first = kinds.setdefault(name, (type(inside), row))
            if inside is not None and kind not in (type(inside), type(None)):
                return DataError(
                    f"{path}: column '{name}', row {row:,}: {str(inside)[:40]!r} is of another "
                    f"type than in row {first:,}; write all rows alike."
                )
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path}: cannot be read as JSON Lines, one object a line: {said}.")


def _first_mixed(data: bytes, names: Collection[str]) -> tuple[int, str, Any] | None:
    """The first number in a column of text: row, column and value."""
    keys = b"|".join(re.escape(json.dumps(name).encode()) for name in names)
    if re.search(rb"(?:" + keys + rb")\s*:\s*[-\dtf]", data) is None:
        return None
    for row, line in enumerate(data.splitlines(), 1):
        value = json.loads(line) if line.strip() else {}
        for name in names:
            if isinstance(value.get(name), (int, float)):
                return row, name, value[name]
    return None
