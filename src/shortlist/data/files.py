"""Which files does a source name: one, several, or all of a folder or pattern?"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shortlist.data.json_lines import SUFFIXES
from shortlist.data.text import is_text_file, suffix_of
from shortlist.errors import DataError, suggest_path

KINDS = ".csv, .tsv, .txt, .dat, .jsonl, .parquet, .inter, .user or .item"
_URL = re.compile(r"(?:^|/)([a-z][a-z0-9+.-]+):/", re.IGNORECASE)


class ManyFiles(str):
    """The name, in errors, of several files that are read as one.

    files: the name and number of rows of each, in the order they are read; it grows meanwhile.
    """

    def __init__(self, name: object) -> None:  # noqa: ARG002
        self.files: list[tuple[str, int]] = []

    def place(self, row: int) -> tuple[str, int]:
        """Return the file that holds a row of the whole, and the row's number in that file."""
        for name, rows in self.files:
            if row <= rows:
                return name, row
            row -= rows
        return self, row


class SlicedFile(ManyFiles):
    """The name, in errors, of a file that is read from a later row. first: the rows before it."""

    first: int = 0

    def place(self, row: int) -> tuple[str, int]:
        """Return the file, and the number of a row counted from the start of the file."""
        return str(self), row + self.first


def is_path(source: Any) -> bool:
    """Return whether a source is a path, or a list of paths."""
    if isinstance(source, (list, tuple)):
        return bool(source) and all(isinstance(part, (str, Path)) for part in source)
    return isinstance(source, (str, Path))


def files_of(source: Any) -> list[Path]:
    """Return the files that a path, a list of paths, a folder or a pattern names, in order.

    Files of a folder or pattern are sorted by name. Errors: DataError if there are none.
    """
    if isinstance(source, (list, tuple)):
        return [file for part in source for file in files_of(part)]
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if _is_table(file, path))
        if not found:
            raise DataError(f"{path}: the folder holds no table ({KINDS}).")
        return _alike(found, path)
    if url := _URL.search(str(source)):
        raise DataError(
            f"{source}: files at {url[1]} addresses are not fetched: download it first, or give a "
            "frame in Python, such as polars.scan_parquet of this address."
        )
    if set(str(path)) & set("*?[") and not path.exists():
        root = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(root.glob(str(path.relative_to(path.anchor)) if path.anchor else str(path)))
        found = [file for file in found if file.is_file()]
        if not found:
            raise DataError(f"{path}: no file matches this pattern.")
        return _alike(found, path)
    if path.exists():
        raise DataError(
            f"{path}: expected a regular file ({KINDS}), and this is a pipe or a device: "
            "write it to a file first."
        )
    raise DataError(f"{path}: there is no such file.{suggest_path(path)}")


def are_text(source: Any) -> bool:
    """Return whether a source consists of text files, whose ids have no type of their own."""
    if not is_path(source):
        return False
    try:
        return all(is_text_file(file) for file in files_of(source))
    except DataError:  # the reader reports a file that is not there
        return not isinstance(source, (list, tuple)) and is_text_file(Path(source))


def hive_values(file: Path) -> dict[str, str]:
    """Return the columns that a file's folders name: the folder day=2024-01-31 gives `day`."""
    parts = (part.partition("=") for part in file.parent.parts)
    return {name: value for name, equals, value in parts if equals and name and value}


def is_table(file: Path) -> bool:
    """Return whether the file name has the suffix of a table that can be read."""
    return is_text_file(file) or suffix_of(file) in (*SUFFIXES, ".parquet")


def _is_table(file: Path, folder: Path) -> bool:
    inside = file.relative_to(folder).parts
    return (
        is_table(file)
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in inside)
    )


def _alike(found: Sequence[Path], path: Path) -> list[Path]:
    kinds = {suffix_of(file): file for file in found}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise DataError(
            f"{path}: files of several kinds, such as {first.name} and {second.name}; name those "
            "that belong together, by a pattern such as '*.csv'."
        )
    return list(found)
