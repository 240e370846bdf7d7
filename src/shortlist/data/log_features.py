"""What do the rows of a log say about their users and items, and which of it does a cut know?

A log that was joined with a user table repeats the age of a user in each row. Contradicting rows
are counted, and the latest value before the cut is used.
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
"""Columns of a log's frame that hold the version of the user and of the item of each event."""

ROW = "row"
"""Column of a log's frame with the number of each row in the file, which orders equal times."""

BESIDE = (*VERSION.values(), ROW)

FEWEST = 20
"""With fewer users or items than this, a share of them is not reported."""


def described_sides(schema: Schema, users: Any, items: Any) -> tuple[Side, ...]:
    """Return the sides (user, item) without a table, whose features are columns of the log.

    Errors: DataError for a column that has another role in the log.
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
    """Return the distinct columns that describe a side: its features, and the title of items."""
    features = schema.user_features if side == "user" else schema.item_features
    titles = [schema.title] if side == "item" and schema.title is not None else []
    return list(dict.fromkeys([*(feature.name for feature in features), *titles]))


@dataclass(frozen=True)
class Versions:
    """All distinct descriptions that the rows of a log give of a side's ids.

    table: the column `id` and the describing columns, with one row for each distinct description.
        An id has several rows where its events contradict each other or leave out values.
    of: the row of `table` that describes each event, [n] int32.
    contradictions: the number of ids with several values, by column.
    """

    table: pl.DataFrame
    of: NDArray[np.int32]
    contradictions: Mapping[str, int]


def read_versions(
    table: Table, ids: pl.Series, raw: pl.DataFrame, schema: Schema, side: Side, where: str
) -> tuple[Versions, list[str]]:
    """Read what the rows of a log say about a side, checked like the columns of its own table.

    ids: the id of each row.
    raw: the columns, as `table` loaded them.

    Returns the versions, and sentences about contradictions.
    """
    names = columns_of(schema, side)
    if "id" in names and ids.name != "id":
        raise fault(where, "id", f"the ids are in '{ids.name}'; rename this column.")
    distinct, of = distinct_rows(raw.select(names).insert_column(0, ids.alias("id")))
    features = {
        f.name: f for f in (schema.user_features if side == "user" else schema.item_features)
    }
    columns = [distinct["id"]]
    for name in names:
        try:
            columns.append(_checked(table, distinct[name], where, features.get(name), schema.title))
        except DataError:
            # Checking all rows raises the same error with the number of the row in the file.
            _checked(table, raw[name], where, features.get(name), schema.title)
            raise
    table_of = pl.DataFrame(columns)
    found = _contradictions(table_of)
    return Versions(table_of, of, {n: count for n, (count, _) in found.items()}), [
        f"{where}: column '{name}': {counted(count, side)} with several values, such as {example}; "
        "the latest before the cut of the split is kept."
        for name, (count, example) in found.items()
    ]


def versions_in(table: pl.DataFrame) -> Versions:
    """Return the versions of a table of them, without those of events."""
    found = _contradictions(table)
    return Versions(table, np.zeros(0, np.int32), {n: count for n, (count, _) in found.items()})


def _checked(
    table: Table, column: pl.Series, where: str, feature: Feature | None, title: str | None
) -> pl.Series:
    """Return a column in the form of its kind. Missing values stay null, also missing lists."""
    exact = feature is None or feature.kind != "numeric"
    typed = table.typed_column(column, exact=exact)
    checked = typed if feature is None else checked_feature(typed, where, feature)
    if column.name == title:
        checked = checked_title(checked, where)
    return _nothing_as_null(checked)


def _nothing_as_null(column: pl.Series) -> pl.Series:
    """Replace empty lists by null, so that they do not override an older value."""
    if not isinstance(column.dtype, pl.List):
        return column
    filled = pl.when(pl.col(column.name).list.len() > 0).then(pl.col(column.name))
    return column.to_frame().select(filled).to_series()


def _nulls_as_nothing(column: pl.Series) -> pl.Series:
    if not isinstance(column.dtype, pl.List):
        return column
    return column.fill_null(pl.Series([[]], dtype=column.dtype))


def distinct_rows(frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int32]]:
    """Return the sorted distinct rows, and the position among them of each row, [n]."""
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
    """Return by column how many ids have several values, and an example."""
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
    """What the log says about one side, for each of its events.

    table: the versions, see `Versions`.
    log, met: the row of `table` for each event, [n] int32, in the order of these logs.
    ages: the position of each event by time, [n], for both logs; None if no id has two versions.
    follows: warnings about columns that belong to the other side.
    """

    table: pl.DataFrame
    log: NDArray[np.int32]
    met: NDArray[np.int32] | None
    ages: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    follows: tuple[str, ...] = ()

    def part(self, kept: NDArray[np.bool_], met_kept: NDArray[np.bool_] | None) -> "Described":
        """Return the same for the events where `kept` (and `met_kept`), bool [n], is true."""
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
        """Return the table of this side that the events before a cut give, one row an id.

        Each column has its latest value that is not missing. Ids with only later events have no
        row.
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
    """Return one row an id, with the latest value of each column that is not missing.

    of: the row of `table` for each event, [n].
    ages: the position of each event by time, [n].
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
    """Return the position of each event by time, then by the tie rule's key, then by row, [n]."""
    columns = {"time": time, "tie": keys if time is not None else None, "row": row}
    given = {name: column for name, column in columns.items() if column is not None}
    order = pl.DataFrame(given).select(pl.arg_sort_by(list(given))).to_series().to_numpy()
    ages = np.empty(len(row), dtype=np.int64)
    ages[order] = np.arange(len(row))
    return ages


def following(frame: pl.DataFrame, versions: Versions, side: Side) -> list[str]:
    """Warn about columns that depend on the other side of the event rather than on their own.

    Such a user feature reveals the item that the user took last.

    frame: the events, with the columns user, item and VERSION.
    """
    other = "item" if side == "user" else "user"
    found = []
    for name in versions.contradictions:
        distinct, code = distinct_rows(versions.table.select(name))
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
    """Return how many ids with two events or more have several values, and how many there are."""
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
    """Merge what new events say into a table: newer values replace old ones, older ones fill gaps.

    old: the table as it is known.
    older, newer: what new events say; `older` events precede what is known about their ids.
    text: whether the new events come from text, whose numbers have no type of their own.

    Errors: DataError for values of another type, and for numbers too far from those of training.
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


def described_of(
    events: pl.DataFrame,
    met: pl.DataFrame | None,
    every: Mapping[Side, Versions],
    order: NDArray[Any],
    met_order: NDArray[Any] | None,
    keys: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None,
) -> dict[Side, Described]:
    """Return what the log says about the sides without a table, in the order of its sorted events.

    events, met: the rows of the log, with the columns `log_features.BESIDE`.
    every: the versions of each side.
    order, met_order: the sort orders of the events and of `met`.
    keys: the tie-breaking hashes of both, in the order of their rows.
    """
    ages = None
    if any(versions.contradictions for versions in every.values()):
        both = events if met is None else pl.concat([events, met], how="diagonal")
        tie = None if keys is None else np.concatenate(keys)
        age = ages_of(
            both["time"].to_numpy() if "time" in both.columns else None, tie, both[ROW].to_numpy()
        )
        ages = (
            age[: len(events)][order],
            age[len(events) :] if met_order is None else age[len(events) :][met_order],
        )
    return {
        side: Described(
            table=versions.table,
            log=events[VERSION[side]].to_numpy()[order],
            met=None if met is None else met[VERSION[side]].to_numpy()[met_order],
            ages=ages,
            follows=tuple(following(events, versions, side)),
        )
        for side, versions in every.items()
    }
