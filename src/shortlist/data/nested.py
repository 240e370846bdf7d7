"""Which values lie within structs and lists of structs? They are read by dotted paths.

The path `events.aid` reads a column `events` of lists of structs; each element becomes a row.
"""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from shortlist.errors import DataError


class Inner(NamedTuple):
    """A value within a column. list: the column whose elements become rows, if it is a list."""

    value: pl.Expr
    list: str | None


def inner_columns(schema: Mapping[str, pl.DataType]) -> dict[str, Inner]:
    """Return the values that can be read by a path, such as `meta.lang`, by their path.

    >>> list(inner_columns({"meta": pl.Struct({"lang": pl.String}), "user": pl.Int64()}))
    ['meta.lang']
    """
    found: dict[str, Inner] = {}
    for name, kind in schema.items():
        inside: object = kind
        rows = None
        if isinstance(kind, pl.List):
            inside, rows = kind.inner, name
        _walk(inside, name, Inner(pl.col(name), rows), found)
    return found


def _walk(kind: object, path: str, at: Inner, found: dict[str, Inner]) -> None:
    if not isinstance(kind, pl.Struct):
        return
    for field in kind.fields:
        inner = Inner(at.value.struct.field(field.name), at.list)
        found[f"{path}.{field.name}"] = inner
        _walk(field.dtype, f"{path}.{field.name}", inner, found)


def select(lazy: pl.LazyFrame, columns: list[str], inner: Mapping[str, Inner]) -> pl.LazyFrame:
    """Select columns by name or path. Errors: DataError for paths through two different lists."""
    lists = {at.list for name in columns if (at := inner.get(name)) is not None and at.list}
    if len(lists) > 1:
        raise DataError(
            f"the lists {' and '.join(sorted(map(str, lists)))} cannot both become rows; read one."
        )
    for name in lists:
        lazy = lazy.filter(pl.col(name).list.len() > 0).explode(name)
    return lazy.select(
        inner[name].value.alias(name) if name in inner else pl.col(name) for name in columns
    )
