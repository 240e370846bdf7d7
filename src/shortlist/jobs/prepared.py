"""How does a prepared log become a `Split`? By the one-machine code, whose roles must agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Recipe
from shortlist.data.dataset import Dataset, Split
from shortlist.data.event_columns import PREFIX
from shortlist.data.impressions import every_shown
from shortlist.data.kind_column import named
from shortlist.data.kinds import read_codes
from shortlist.data.log_features import (
    ROW,
    SIDES,
    VERSION,
    Described,
    Side,
    described_of,
    versions_in,
)
from shortlist.data.ordering import pair_hash
from shortlist.data.readers import is_text
from shortlist.data.schema import Schema
from shortlist.data.text import TextFormat
from shortlist.errors import JobError
from shortlist.jobs.local import files_in
from shortlist.jobs.reading import event_columns
from shortlist.runs.pipeline import schema_of, split_of
from shortlist.sections.events import Events


def prepared_split(recipe: Recipe, folder: Path, stored: dict[str, Any]) -> Split:
    """Return the split of a log that `prepare` made, with the recipe's other tables and logs.

    The whole log is read into memory. The recipe's split is applied to it, and must give the roles
    that the parts have.

    folder: folder of the stage `log`.
    stored: the entry `told` of its manifest.
    Errors: JobError if the roles differ.
    """
    schema = schema_of(recipe)
    frame = pl.concat([pl.read_parquet(path) for path in files_in(folder)]).sort("user", "place")
    reading, names = _of_rows(schema, frame.columns, recipe)
    rows = frame.drop("place", "role", "met", "line", *VERSION.values(), strict=False)
    if schema.events:
        rows = rows.with_columns(kind=_named(frame["kind"].to_numpy(), schema.events))
    dataset = Dataset.load(
        rows.rename(names, strict=False),
        users=recipe.users_path,
        items=recipe.items_path,
        schema=reading,
    )
    text = None if stored["text"] is None else TextFormat(**stored["text"])
    shown = every_shown(
        recipe.impressions_path,
        recipe.dropped_path,
        schema,
        dataset.user_ids,
        dataset.item_ids,
        dataset.log,
        stored["unit"],
    )
    report = replace(
        dataset.report,
        where=stored["where"],
        rows_read=stored["rows_read"],
        time_unit=stored["unit"],
        text=text,
    )
    described = _described(folder, frame, schema, dataset)
    dataset = replace(dataset, schema=schema, report=report, shown=shown, described=described)
    split = split_of(recipe, dataset)
    for log, met in ((split.log, False), (split.met, True)):
        if log is None or log.role is None:
            continue
        kept = frame.filter(pl.col("met") == met) if "met" in frame.columns else frame
        if not np.array_equal(kept["role"].to_numpy(), log.role):
            raise JobError(
                f"{folder}: the split of the parts differs from that of the whole log. This is a "
                "bug of shortlist: remove the folder, and use shortlist train"
            )
    return split


def _described(
    folder: Path, frame: pl.DataFrame, schema: Schema, dataset: Dataset
) -> dict[Side, Described]:
    """Return what the log says about the sides without a table, from versions and lines of rows."""
    every = {
        side: versions_in(pl.read_ipc(folder / f"{side}.arrow"))
        for side in SIDES
        if VERSION[side] in frame.columns
    }
    if not every:
        return {}
    rows = frame.rename({"line": ROW})
    met = None if dataset.met is None else rows.filter("met")
    events = rows if met is None else rows.filter(~pl.col("met"))
    keys = None
    if "file" not in (schema.tie, schema.order):
        of_log, of_met = (
            np.zeros(0, np.uint64)
            if log is None
            else pair_hash(dataset.user_ids, dataset.item_ids, log.user, log.item)
            for log in (dataset.log, dataset.met)
        )
        keys = of_log, of_met
    return described_of(
        *(events, met, every),
        np.arange(len(events)),
        None if met is None else np.arange(len(met)),
        keys,
    )


def _named(kinds: NDArray[np.int8], events: Events) -> pl.Series:
    """Return the names of kinds from their codes in `Kinds`, or -1 minus their place in events."""
    read = np.flatnonzero(read_codes(events) >= 0)
    return named(
        np.where(kinds >= 0, read[np.maximum(kinds, 0)], -1 - kinds).astype(np.int8), events
    )


def _of_rows(schema: Schema, columns: list[str], recipe: Recipe) -> tuple[Schema, dict[str, str]]:
    """Return the schema for reading the rows of a prepared log, and its columns' names in it.

    Event features have their names in the files, and so have the kind and the weight, of which
    event features may be declared. Other columns get names that no feature has.
    """
    names = {column: f"{column} of the log" for column in columns}
    names |= {PREFIX + feature.name: feature.name for feature in event_columns(schema)}
    if schema.weight is not None and schema.weight != schema.event:
        names["weight"] = schema.weight
    if schema.event is not None:
        names["kind"] = schema.event
    roles = ("user", "item", "time", "weight", "session", "split")
    there: Any = {role: names[role] if role in columns else None for role in roles}
    written = any(
        path is not None and is_text(path) for path in (recipe.users_path, recipe.items_path)
    )
    of_log = {side: VERSION[side] in columns for side in SIDES}
    reading = replace(
        schema,
        user_features=() if of_log["user"] else schema.user_features,
        item_features=() if of_log["item"] else schema.item_features,
        title=None if of_log["item"] else schema.title,
        **there,
        users_id=schema.id_of("users"),
        items_id=schema.id_of("items"),
        time_unit="number" if "time" in columns else "auto",
        order="time",
        click=None,
        null_ids=schema.null_ids,
        text=replace(schema.text, columns=()) if written else TextFormat(),
    )
    return reading, names
