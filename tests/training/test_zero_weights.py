"""Weighted training on logs where most weights are 0, as in Book-Crossing."""

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import TrainingError
from shortlist.training.progress import Bars

OPTIONS = {"weighted": True, "dim": 8, "epochs": 1, "batch_size": 32}


def split_of(world, weight):
    log = world.interactions.with_columns(rating=weight)
    return Dataset.load(log, schema=Schema(time="timestamp", weight="rating")).split()


@pytest.mark.parametrize("history", ["mean", "gru"])
def test_a_batch_whose_weights_are_all_0_is_skipped_and_counted(world, history):
    rare = (pl.col("item_id").hash(1) % 150 == 0).cast(pl.Float64) * 5
    split = split_of(world, rare)
    weights = split.training_data().training_log.weight
    assert 0 < (weights > 0).mean() < 0.02
    said = io.StringIO()
    with Bars(Console(file=said, width=200)) as bars:
        model = TwoTower(**OPTIONS, history=history).fit(split, progress=bars)
    skipped = [epoch.skipped for epoch in model.epochs_run]
    assert all(0 < count < len(weights) for count in skipped)
    assert all(np.isfinite(epoch.loss) and epoch.loss > 0 for epoch in model.epochs_run)
    assert f"({skipped[0]:,} positives skipped: batches of weight 0)" in said.getvalue()


def test_weights_above_0_skip_nothing(world):
    model = TwoTower(**OPTIONS).fit(split_of(world, pl.lit(0.5)))
    assert [epoch.skipped for epoch in model.epochs_run] == [0]


def test_a_sequence_tower_whose_positives_all_weigh_0_says_so(world):
    first = (pl.col("timestamp") == pl.col("timestamp").min().over("user_id")).cast(pl.Float64)
    with pytest.raises(TrainingError, match="weights of all positives are 0"):
        TwoTower(**OPTIONS, history="gru").fit(split_of(world, first))
