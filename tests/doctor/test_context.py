"""Columns of a request that give the item away are found, and honest ones are left alone."""

import numpy as np
import polars as pl
import pytest

from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Schema
from shortlist.doctor import CHECKS, Subject


def finding(column, kind="categorical", known="before"):
    """What the doctor says of a column of 2,000 events of 100 items, from the items' rows."""
    rng = np.random.default_rng(0)
    item = rng.integers(100, size=2_000)
    user, time = np.divmod(np.arange(2_000), 20)
    log = pl.DataFrame({"user_id": user, "item_id": item, "time": time, "page": column(rng, item)})
    features = (EventFeature("page", kind, known=known),)
    data = Dataset.load(log, schema=Schema(time="time", event_features=features)).split()
    return CHECKS["context-knows-item"](Subject(data=data.training_data("train")))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (lambda rng, item: item // 34, "categorical"),  # three devices that decide all
        (lambda rng, item: rng.integers(500, size=len(item)), "categorical"),
        (lambda rng, item: rng.random(len(item)), "numeric"),
        (lambda rng, item: np.where(rng.random(len(item)) < 0.5, item, 0), "categorical"),
        (lambda rng, item: [None] * len(item), "categorical"),
    ],
)
def test_an_honest_context_is_left_alone(column, kind):
    assert finding(column, kind) is None


@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_a_column_that_is_one_with_the_item_is_found(kind):
    prices = np.random.default_rng(1).random(100)
    for column in (lambda rng, item: 7 * item, lambda rng, item: prices[item]):
        assert "are of one item" in finding(column, kind).evidence
        assert finding(column, kind, known="after") is None


def test_a_column_of_the_item_is_found_though_items_share_its_values():
    assert "it is a column of the item" in finding(lambda rng, item: item % 25).evidence
