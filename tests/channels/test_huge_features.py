"""A feature's value near the limits of floats is refused by its column, or does no harm."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError
from shortlist.similarity import SIMILARITIES

BARE = {"history": "none", "user_id": True}


def given(world, kind, side, size):
    """The world with a feature 'f' whose value is huge for the last of a side, met by nobody."""
    column = "user_id" if side == "users" else "item_id"
    table = getattr(world, side)
    last = table[column].max()
    values = np.random.default_rng(0).normal(size=(table.height, 2))
    values[(table[column] == last).to_numpy()] *= size
    f = values.tolist() if kind == "vector" else values[:, 0]
    tables = {"users": world.users, "items": world.items}
    tables[side] = table.with_columns(pl.Series("f", f, strict=False))
    features = {f"{side[:-1]}_features": (Feature("f", kind),)}
    log = world.interactions.filter(pl.col(column) != last)
    schema = Schema(time="timestamp", **features)
    return Dataset.load(log, **tables, schema=schema).split("leave-last-out")


@pytest.mark.parametrize("side", ["users", "items"])
@pytest.mark.parametrize("kind", ["numeric", "vector"])
@pytest.mark.parametrize("size", [1e20, 1e38, 1e300])
def test_a_huge_value_is_refused_by_its_column_row_or_id_and_value(world, kind, side, size):
    value = r"'f', (row \d+|id \d+): -?\d\.?\d*e\+?(19|20|37|38|299|300) is too large"
    with pytest.raises(DataError, match=value):
        given(world, kind, side, size).training_data("train")


@pytest.mark.parametrize("side", ["users", "items"])
@pytest.mark.parametrize("kind", ["numeric", "vector"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_accepted_trains_and_answers(world, kind, side, similarity):
    model = TwoTower(dim=4, epochs=1, batch_size=512, similarity=similarity, **BARE)
    model.fit(given(world, kind, side, 1e14))
    users = pl.concat([model.data.users.ids.head(3), model.data.users.ids.tail(3)])
    assert np.isfinite(model.recommend(users, 5).scores).all()
    assert torch.isfinite(model.item_vectors).all()
    assert np.isfinite([epoch.loss for epoch in model.epochs_run]).all()
