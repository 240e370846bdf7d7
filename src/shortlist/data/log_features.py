"""What do the rows of a log say of their users and items, and what of it is known at a cut?

A log that was joined with everything repeats the age of a user in each of its rows. Rows that
contradict each other are counted, and the latest before the cut holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.columns import checked_feature, checked_title, family, fault
from shortlist.data.features import Encoder, refuse_far
from shortlist.data.interactions import BEFORE, Cut, Interactions
from shortlist.data.reports import counted
from shortlist.data.schema import Feature, Schema
from shortlist.data.tables import Table
from shortlist.errors import DataError

Side = Literal["user", "item"]
SIDES: tuple[Side, ...] = ("user", "item")

VERSION: dict[Side, str] = {"user": "user version", "item": "item version"}
"""Columns beside those of the roles: which version of its user and item an event has."""

ROW = "row"
"""The column of the number of an event's row in the file, which orders equal times."""

BESIDE = (*VERSION.values(), ROW)

FEWEST = 20
"""Users or items below which a share means nothing."""


def described_sides(schema: Schema, users: Any, items: Any) -> tuple[Side, ...]:
    """Return the sides whose features are columns of the log: those without a table of their own.

    Errors: DataError for a column that cannot be of one user or item.
    """
    given = {"user": users is not None, "item": items is not None}
    sides = tuple(side for side in SIDES if columns_of(schema, side) and not given[side])
    owner = {column: f"the {role}" for role, column in schema.roles().items()}
    for side in sides:
        for column in columns_of(schema, side):
            if column in owner:
                raise DataError(
                    f"column '{column}' of the log is {owner[column]}, and cannot be a feature of "
                    f"the {side} as well: leave one out, or give a table of {side}s"
                )
        owner |= dict.fromkeys(columns_of(schema, side), f"a feature of the {side}")
    return sides


def columns_of(schema: Schema, side: Side) -> list[str]:
    """Return the columns that describe a side, each once: its features, and the items' title."""
    features = schema.user_features if side == "user" else schema.item_features
    titles = [schema.title] if side == "item" and schema.title is not None else []
    return list(dict.fromkeys([*(feature.name for feature in features), *titles]))


@dataclass(frozen=True)
class Versions:
    """Every description that the rows of a log give of a side's ids.

    table: the column `id`, and those that describe it; a row for each distinct description. An id
    has several where rows contradict each other, or know different parts. of: the version of each
    row, [n] int32. contradictions: by column, how many ids have several values.
    """

    table: pl.DataFrame
    of: NDArray[np.int32]
    contradictions: Mapping[str, int]


def read_versions(
    table: Table, ids: pl.Series, raw: pl.DataFrame, schema: Schema, side: Side, where: str
) -> tuple[Versions, list[str]]:
    """Return what the rows of a log say of a side, checked as the columns of its table would be.

    ids: of each row; raw: the columns, as `table` loaded them. Returns sentences about them, too.
    """
    names = columns_of(schema, side)
    if "id" in names and ids.name != "id":
        raise fault(where, "id", f"the ids are in '{ids.name}'; rename this column.")
    distinct, of = _distinct(raw.select(names).insert_column(0, ids.alias("id")))
    features = {
        f.name: f for f in (schema.user_features if side == "user" else schema.item_features)
    }
    columns = [distinct["id"]]
    for name in names:
        try:
            columns.append(_checked(table, distinct[name], where, features.get(name), schema.title))
        except DataError:
            # Seen among all rows, the fault has the number of its row.
            _checked(table, raw[name], where, features.get(name), schema.title)
            raise
    versions = Versions(pl.DataFrame(columns), of, {})
    found = _contradictions(versions.table)
    return Versions(versions.table, of, {n: count for n, (count, _) in found.items()}), [
        f"{where}: column '{name}': {counted(count, side)} with several values, such as {example}; "
        "the latest before the cut of the split is kept."
        for name, (count, example) in found.items()
    ]


def _checked(
    table: Table, column: pl.Series, where: str, feature: Feature | None, title: str | None
) -> pl.Series:
    """One column in the form of its kind; what is missing stays null, also in lists."""
    exact = feature is None or feature.kind != "numeric"
    typed = table.typed_column(column, exact=exact)
    checked = typed if feature is None else checked_feature(typed, where, feature)
    if column.name == title:
        checked = checked_title(checked, where)
    return _nothing_as_null(checked)


def _nothing_as_null(column: pl.Series) -> pl.Series:
    """Empty lists are no value that takes the place of an older one."""
    if not isinstance(column.dtype, pl.List):
        return column
    filled = pl.when(pl.col(column.name).list.len() > 0).then(pl.col(column.name))
    return column.to_frame().select(filled).to_series()


def _nulls_as_nothing(column: pl.Series) -> pl.Series:
    if not isinstance(column.dtype, pl.List):
        return column
    return column.fill_null(pl.Series([[]], dtype=column.dtype))


def _distinct(frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int32]]:
    """The distinct rows, sorted, and the place of each row of the frame among them, [n]."""
    names = [str(number) for number in range(frame.width)]
    groups = (
        frame.rename(dict(zip(frame.columns, names, strict=True)))
        .with_row_index("row")
        .group_by(names)
        .agg("row")
        .sort(names)
    )
    of = np.empty(frame.height, dtype=np.int32)
    sizes = groups["row"].list.len().to_numpy()
    of[groups["row"].explode().to_numpy()] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return groups.select(pl.col(n).alias(c) for n, c in zip(names, frame.columns, strict=True)), of


def _contradictions(table: pl.DataFrame) -> dict[str, tuple[int, str]]:
    """By column: how many ids have several values, and one of them with two."""
    found: dict[str, tuple[int, str]] = {}
    if not table["id"].is_duplicated().any():
        return found
    for name in table.columns[1:]:
        values = table.select("id", pl.col(name).alias("value")).drop_nulls().unique()
        several = values.filter(pl.col("id").is_duplicated()).sort("id", "value")
        if several.height:
            first, second = (_shown(several["value"], n) for n in (0, 1))
            example = f"{several['id'][0]!r:.40} with {first} and {second}"
            found[name] = (several["id"].n_unique(), example)
    return found


def _shown(values: pl.Series, number: int) -> str:
    value = values[number]
    return f"{value.to_list() if isinstance(value, pl.Series) else value!r:.40}"


@dataclass(frozen=True)
class Described:
    """What the log says of one side, event by event.

    table: the versions, see `Versions`. log, met: the version each event has, [n] int32, in the
    order of these logs. ages: for both, the place of each event by time, [n]; None where no id
    contradicts itself. follows: sentences about columns that are not of this side.
    """

    table: pl.DataFrame
    log: NDArray[np.int32]
    met: NDArray[np.int32] | None
    ages: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    follows: tuple[str, ...] = ()

    def part(self, kept: NDArray[np.bool_], met_kept: NDArray[np.bool_] | None) -> "Described":
        """Return the same of some of the events, bool [n], and of those met besides."""
        log_ages, met_ages = self.ages or (None, None)
        return replace(
            self,
            log=self.log[kept],
            met=None if self.met is None else self.met[met_kept],
            ages=None
            if log_ages is None or met_ages is None
            else (log_ages[kept], met_ages if met_kept is None else met_ages[met_kept]),
        )

    def known(self, log: Interactions, met: Interactions | None, cut: Cut) -> pl.DataFrame:
        """Return the table of this side as the events before a cut tell it, a row an id.

        Of each column the latest value that is not missing is kept. Ids of later events alone have
        no row.
        """
        of, ages = [], []
        for events, versions, age in zip(
            (log, met), (self.log, self.met), self.ages or (None, None), strict=True
        ):
            if events is None or versions is None:
                continue
            known = np.ones(len(events), dtype=bool)
            if events.role is not None and cut != "end":
                known = events.role < BEFORE[cut]
            of.append(versions[known])
            ages.append(np.zeros(len(of[-1]), dtype=np.int64) if age is None else age[known])
        return as_told(self.table, np.concatenate(of), np.concatenate(ages))


def as_told(table: pl.DataFrame, of: NDArray[np.int32], ages: NDArray[np.int64]) -> pl.DataFrame:
    """Return one row an id: of each column the latest value that is not missing.

    of: the version of each event that tells of an id, [n]; ages: the higher, the later, [n].
    """
    newest = np.full(table.height, -1, dtype=np.int64)
    np.maximum.at(newest, of, ages)
    order = np.argsort(newest, kind="stable")
    seen = table[order[newest[order] >= 0]]
    if seen["id"].is_duplicated().any():
        seen = seen.group_by("id").agg(pl.all().drop_nulls().last())
    return pl.DataFrame([_nulls_as_nothing(column) for column in seen.sort("id")])


def ages_of(
    time: NDArray[Any] | None, keys: NDArray[np.uint64] | None, row: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the place of each event by time, then the tie rule's key, then its row, [n]."""
    columns = {"time": time, "tie": keys if time is not None else None, "row": row}
    given = {name: column for name, column in columns.items() if column is not None}
    order = pl.DataFrame(given).select(pl.arg_sort_by(list(given))).to_series().to_numpy()
    ages = np.empty(len(row), dtype=np.int64)
    ages[order] = np.arange(len(row))
    return ages


def following(frame: pl.DataFrame, versions: Versions, side: Side) -> list[str]:
    """Tell of columns that say nothing of their side: they follow the other side of the event.

    Such a feature of a user is the item the user took last, as far as the column tells items apart.
    frame: the events, with the columns user, item and VERSION.
    """
    other = "item" if side == "user" else "user"
    found = []
    for name in versions.contradictions:
        distinct, code = _distinct(versions.table.select(name))
        if distinct.height < 2:
            continue
        values = frame.select("user", "item").with_columns(
            value=pl.Series(code).gather(frame[VERSION[side]])
        )
        several = {key: _several(values, key) for key in (side, other)}
        (varied, events), (mixed, others) = several[side], several[other]
        if min(events, others) >= FEWEST and varied > 0.5 * events and mixed < 0.1 * others:
            found.append(
                f"{side} feature '{name}' follows the {other}s: {varied:,} of {events:,} {side}s "
                f"with several events have several values, and {others - mixed:,} of {others:,} "
                f"{other}s have one: it is a column of the {other}"
            )
    return found


def _several(values: pl.DataFrame, key: str) -> tuple[int, int]:
    """Of the ids with two events: how many have two values, and how many there are."""
    ids = values.group_by(key).agg(events=pl.len(), values=pl.col("value").n_unique())
    ids = ids.filter(pl.col("events") > 1)
    return ids.filter(pl.col("values") > 1).height, ids.height


def renewed(
    old: pl.DataFrame,
    older: pl.DataFrame,
    newer: pl.DataFrame,
    encoders: Mapping[str, Encoder],
    where: str,
    *,
    text: bool,
) -> pl.DataFrame:
    """Return a table with what new events say: their values where they are newer, or fill a gap.

    older, newer: what events say that are older than what is known of their ids, and the others.
    text: whether they come from text, where numbers have no type of their own. Errors: DataError.
    """
    tables = [older, old, newer]
    for name, kind in old.schema.items():
        for came in (older, newer):
            column = came[name]
            if (encoder := encoders.get(name)) is not None:
                refuse_far(encoder, column, came["id"])
            vector = isinstance(kind, pl.Array)
            alike = column.dtype == kind or (not vector and family(column.dtype) == family(kind))
            if alike or column.dtype == pl.Null:
                continue
            if vector or not text:
                raise fault(where, name, f"expected {kind} as in the bundle, got {column.dtype}.")
            as_text = pl.List(pl.String) if isinstance(kind, pl.List) else pl.String()
            tables = [table.with_columns(pl.col(name).cast(as_text)) for table in tables]
    parts = [pl.DataFrame([_nothing_as_null(column) for column in table]) for table in tables]
    both = pl.concat([part.select(old.columns) for part in parts], how="vertical_relaxed")
    ages = np.repeat(np.arange(3), [part.height for part in parts])
    return as_told(both, np.arange(both.height, dtype=np.int32), ages)
