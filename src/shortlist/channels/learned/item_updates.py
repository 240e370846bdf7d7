"""How are items added and removed between two fits, and encoded by their features?"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.channels.counting.popular import Popular
from shortlist.data.item_updates import item_table, rows_of, with_items, with_removed
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.errors import DataError, ModelError
from shortlist.index.servers import ServerIndex

Rows = NDArray[np.int64]


def with_changed_items(
    retriever: Any, add: Sequence[Mapping[str, Any]], remove: Ids, restore: Ids
) -> Any:
    """Return a copy of this retriever with other items; see `Learner.change_items`.

    The copy shares towers and log with the old retriever, which can answer all the while.
    """
    if not isinstance(add, list | tuple):
        raise DataError(f"add takes a list of items, [{{'id': ...}}], got {add!r:.60}")
    if retriever.placed != "item_vectors":
        raise ModelError(f"a {type(retriever).__name__} has no vectors of items to change")
    if isinstance(retriever.index, ServerIndex):
        raise ModelError(
            "the index is in a server, where other programs read it: publish a new bundle"
        )
    data = retriever.data
    gone, back = rows_of(data, remove), rows_of(data, restore)
    _check_rows(data, gone, set(retriever.item_rows.tolist()), "is not among the candidates")
    _check_rows(data, back, data.removed, "was not removed, so it cannot be restored")
    came = np.zeros(0, dtype=np.int64)
    if len(add):
        table = item_table(data, add)
        _check_new(retriever, table)
        data = with_items(data, table)
        came = data.items.rows(table["id"])
        _check_rows(data, np.intersect1d(came, np.union1d(gone, back)), (), "is in two lists")
    left = (data.removed - set(back.tolist()) - set(came.tolist())) | set(gone.tolist())
    return _placed_again(retriever, with_removed(data, left), gone, np.union1d(came, back))


def _placed_again(retriever: Any, data: TrainingData, gone: Rows, come: Rows) -> Any:
    """Return the retriever over this data. gone: rows to remove; come: rows to encode and add."""
    new = copy(retriever)
    new.data = data
    new._item_table = data.item_features.to(new.device)
    new._mark_readable()
    rows, vectors = new._placed()
    # Added rows that the index already has get new features, so they are encoded again.
    leave = torch.isin(rows, torch.from_numpy(np.union1d(gone, come)))
    coming = torch.from_numpy(come)
    if bool(leave.all()) and not len(coming):
        raise DataError("no item would be left to recommend")
    new.towers.eval()
    with torch.no_grad():
        fresh = torch.cat(
            [vectors[:0], *(new._encode_items(part).cpu() for part in torch.split(coming, 65536))]
        )
    squares = fresh.square().sum(dim=1)
    comparable = squares.isfinite() & ((squares > 1e-30) | (new.index.similarity != "cosine"))
    _check_rows(data, coming[~comparable].numpy(), (), "has features that give no usable vector")
    # Copy the index, because other threads may be searching the old one.
    index = type(new.index).from_state(new.index.similarity, new.index.state())
    if leave.any():
        index.remove(rows[leave])
    if len(coming):
        index.add(coming, fresh, torch.from_numpy(data.items.tie_keys)[coming])
    new.set_items(torch.cat([rows[~leave], coming]), torch.cat([vectors[~leave], fresh]), index)
    new.popular = Popular().fit_data(data)
    return new


def _check_new(retriever: Any, table: pl.DataFrame) -> None:
    """Refuse items that the tower cannot encode, and items that were trained on."""
    names = sorted(retriever.item_columns)
    if not names:
        raise ModelError(
            "the item tower reads no features, so it cannot place an item it was not trained on"
        )
    items = retriever.data.items
    rows = items.rows(table["id"])
    learned = rows[(rows > 0) & (rows <= items.trained)]
    _check_rows(
        retriever.data, learned, (), "was trained on, and what was learned of it would be lost"
    )
    held = [
        pl.col(name).list.len().fill_null(0) > 0
        if isinstance(table.schema[name], pl.List)
        else pl.col(name).is_not_null()
        for name in names
    ]
    nothing = table.filter(~pl.any_horizontal(held))
    if len(nothing):
        raise DataError(
            f"item {nothing['id'][0]!r:.40} has none of the features that place it: "
            f"{', '.join(names)}"
        )


def _check_rows(data: TrainingData, rows: Rows, among: Any, fault: str) -> None:
    """Refuse a row that is not in `among`. Errors: DataError, which names the item's id."""
    for row in rows.tolist():
        if row not in among:
            raise DataError(f"item {data.items.external(np.array([row]))[0]!r:.40} {fault}")
