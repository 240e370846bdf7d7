"""Is the text of a cell a list, and of what? JSON, Python and numpy write lists in brackets."""

import json
import re
from collections.abc import Callable

import polars as pl

from shortlist.errors import DataError

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = rf"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|{_NUMBER})"""
_BETWEEN = rf"(?:{_VALUE}(?:\s*,\s*{_VALUE})*\s*,?|{_VALUE}(?:\s+{_VALUE})*)?"
_TUPLE = rf"\(\s*(?:{_VALUE}\s*,\s*)+(?:{_VALUE}\s*)?\)"  # (2009) alone is a number in brackets
_LIST = re.compile(rf"\[\s*{_BETWEEN}\s*\]|\{{\s*{_BETWEEN}\s*\}}|{_TUPLE}", re.DOTALL)
_EACH = re.compile(_VALUE, re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}
_WRAPPED = r"(?s)^\s*(?:\[.*\]|\{.*\})\s*$"


def listed(column: pl.Series, refuse: Callable[[str, int], DataError]) -> pl.Series | None:
    """Return lists of text if the column's text writes lists, or None if it does not.

    A list is numbers and quoted text in brackets, separated by commas or white space. Refused are
    bracketed columns with other content (objects, nested lists, null), and columns where only some
    rows are lists. If unbracketed words occur too, "[live]" is a word.

    refuse: makes the error from a message and a row.

    >>> listed(pl.Series("tags", ['["a", "b"]', "[27, 9]", None]), DataError).to_list()
    [['a', 'b'], ['27', '9'], None]
    >>> listed(pl.Series("tags", ["a|b", "[live]"]), DataError) is None
    True
    """
    distinct = column.drop_nulls().unique(maintain_order=True)
    distinct = distinct.filter(distinct.str.strip_chars() != "")
    marked = distinct.filter(distinct.str.strip_chars().str.contains(r"^[\[({]"))
    if not len(marked):
        return None
    read = {text: found for text in marked if (found := _read(text)) is not None}
    others = distinct.filter(~distinct.is_in(list(read)))
    brackets = bool(distinct.str.contains(_WRAPPED).all())
    if not read and not brackets:
        return None
    if len(others):
        row = int((column == others[0]).fill_null(False).arg_true()[0]) + 1
        told = "is no list of numbers or quoted text" if brackets else "is none"
        raise refuse(
            f"{'the values stand in brackets' if brackets else 'other rows are lists'}, and "
            f'{others[0]!r:.80} {told}: write all rows as ["a", "b"], or as text with a separator.',
            row,
        )
    rows = [None if text is None else read.get(text, []) for text in column]
    return pl.Series(column.name, rows, dtype=pl.List(pl.String))


def _read(text: str) -> list[str] | None:
    """Return the values of a bracketed list as text, or None if the text is no such list."""
    if not _LIST.fullmatch(text.strip()):
        return None
    return [_bare(found) for found in _EACH.findall(text)]


def _bare(value: str) -> str:
    """Return a value without its quotes; numbers stay as they are written."""
    if value[0] == '"':
        try:
            return str(json.loads(value))
        except ValueError:  # an escape of Python that JSON does not know
            pass
    if value[0] not in "\"'":
        return value
    return _ESCAPE.sub(_unescaped, value[1:-1])


def _unescaped(escape: re.Match[str]) -> str:
    what = escape[1]
    return chr(int(what[1:], 16)) if len(what) > 1 else _CONTROL.get(what, what)
