"""How do sums per item become the lists of popular and inverted? By the one-machine code."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from shortlist.channels.counting.attributes import categories
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.popular import Popular
from shortlist.config import Recipe
from shortlist.data.dataset import Dataset, Split
from shortlist.data.features import FeatureTable
from shortlist.data.kinds import Kinds
from shortlist.data.readers import read_entities
from shortlist.data.schema import Schema
from shortlist.data.training_data import Fit, TrainingData
from shortlist.data.vocabulary import Vocabulary
from shortlist.durations import TimeUnit
from shortlist.errors import ModelError
from shortlist.runs.pipeline import schema_of


def catalogue_of(
    recipe: Recipe, counted: pl.DataFrame, fit: Fit, unit: TimeUnit | None, ordered: bool
) -> TrainingData:
    """Return training data with one event per item, from which channels build lists of items.

    It has the fitted items and those of the items table. The event of an item is of a target kind
    if one of its events in the log is. The channels get the true counts separately.

    counted: the result of `counted_items`.
    fit: which rows are fitted on.
    unit: unit of the log's times, or None.
    ordered: whether the log has times.
    """
    wanted = schema_of(recipe)
    if recipe.items_path is None:  # Features are columns of the log, which these rows do not have.
        wanted = replace(wanted, item_features=(), title=None)
    schema = Schema(
        user="user",
        item="id",
        items_id=wanted.id_of("items"),
        item_features=wanted.item_features,
        title=wanted.title,
        null_ids=wanted.null_ids,
        items_columns=wanted.items_columns,
        text=replace(wanted.text, columns=(), item_separator=None),
    )
    rows = counted.select("id", user=pl.lit(0, pl.Int64))
    data = Dataset.load(rows, items=recipe.items_path, schema=schema)
    log = replace(data.log, role=np.zeros(len(data.log), dtype=np.int8))
    made = Split(data, log, "random").training_data(fit)
    kinds = Kinds.of(wanted.events) if wanted.events else None
    if kinds is not None and False in kinds.targets:
        aimed = np.append(0, counted["targets"].to_numpy())[made.log.item] > 0
        codes = np.where(aimed, kinds.targets.index(True), kinds.targets.index(False))
        made = replace(made, log=replace(made.log, kind=codes.astype(np.int8), kinds=kinds))
    return replace(made, ordered=ordered, time_unit=unit)


def listed_popular(channel: Popular, data: TrainingData, sums: pl.DataFrame) -> pl.DataFrame:
    """Return `Popular.listed`, computed from the result of `sums_of_items`."""
    by_segment = sums.filter(pl.col("segment").is_not_null())
    names = by_segment["segment"].unique().sort()
    segment = np.asarray(names.search_sorted(by_segment["segment"])) + 1
    keys = segment * (len(data.items) + 1) + data.items.rows(by_segment["item"])
    order = np.argsort(keys)
    counts = by_segment["sum"].to_numpy()[order]
    ranked = type(channel)(channel.options)
    return ranked.rank(
        *(data, _of_items(data, sums), tuple(names), keys[order].astype(np.int64), counts)
    ).listed()


def listed_inverted(channel: Inverted, data: TrainingData, sums: pl.DataFrame) -> pl.DataFrame:
    """Return `Inverted.listed`, computed from the result of `sums_of_items`."""
    sorted_ = type(channel)(channel.options)
    sorted_.found = lambda _: _of_items(data, sums).astype(np.float32)
    return sorted_.fit_data(data).listed()


def segments_of(recipe: Recipe, segment: str, kind: pa.DataType) -> pl.DataFrame:
    """Return the segment of each user of the users table: columns id, segment (null if unknown).

    segment: column of the users table.
    kind: type of the user ids of the log.
    Errors: ModelError without a users table, or for a column that is not categorical.
    """
    schema = schema_of(recipe)
    if recipe.users_path is None:
        raise ModelError(
            f"column '{segment}' is one of the users table, and no such table is given"
        )
    frame = read_entities(
        recipe.users_path,
        schema.id_of("users"),
        schema.user_features,
        name="users",
        text=schema.text_of("users"),
        null_ids=schema.null_ids,
    )
    users = Vocabulary(frame["id"], len(frame), "user")
    features = FeatureTable.fit(schema.user_features, frame, users.ids, users.trained)
    values, codes = categories(segment, frame, features, users)
    named = pl.Series([None, *values], dtype=pl.String).gather(codes[1:])
    ids = frame["id"]
    ids = ids.cast(pl.String) if kind == pa.string() else ids
    return pl.DataFrame({"id": ids, "segment": named})


def _of_items(data: TrainingData, sums: pl.DataFrame) -> np.ndarray:
    found = np.zeros(data.items.trained + 1)
    every = sums.filter(pl.col("segment").is_null())
    found[data.items.rows(every["item"])] = every["sum"].to_numpy()
    return found
