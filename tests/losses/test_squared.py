"""SquaredLoss: by hand, fitted to values, with biases, and what does nothing beside values."""

import numpy as np
import polars as pl
import pytest
import torch

import shortlist
from shortlist import TwoTower
from shortlist.channels.learned.base import value_error
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.config import Recipe
from shortlist.config.unread import unread
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.losses import Scores, SquaredLoss

MATRIX = {
    **{"loss": "squared", "mode": "pointwise", "similarity": "dot", "history": "none"},
    **{"user_id": True, "dim": 6},
}
VALUES = MATRIX | {"values": "explicit", "biases": True, "monitor": "neg_rmse"}


def test_squares_by_hand():
    valid = torch.tensor([[True, True], [True, False]])
    scores = Scores(torch.tensor([0.5, 2.0]), torch.tensor([[1.0, -2.0], [0.5, 9.0]]), valid)
    assert SquaredLoss()(scores).tolist() == [0.25 + 1 + 4, 1 + 0.25]
    rated = scores._replace(value=torch.tensor([4.0, 2.5]))
    assert SquaredLoss("explicit")(rated).tolist() == [12.25, 0.25]


@pytest.fixture(scope="module")
def rated():
    """Ratings that are a mean, biases and one taste, rounded to halves; a tenth is held out."""
    random = np.random.default_rng(2)
    users, items = 80, 60
    a, b = random.normal(0, 0.5, users), random.normal(0, 0.7, items)
    taste = np.outer(random.normal(0, 0.7, users), random.normal(0, 0.7, items))
    met = np.argwhere(random.random((users, items)) < 0.5)
    value = 3.5 + a[met[:, 0]] + b[met[:, 1]] + taste[met[:, 0], met[:, 1]]
    value = np.round(2 * value) / 2 + 1e-3  # no value is 0
    role = random.choice(["train", "validation", "test"], len(met), p=[0.8, 0.1, 0.1])
    frame = pl.DataFrame({"user_id": met[:, 0], "item_id": met[:, 1], "r": value, "role": role})
    return Dataset.load(frame, schema=Schema(weight="r", split="role")).split("column")


@pytest.fixture(scope="module")
def fitted(rated):
    return TwoTower(**VALUES, epochs=60, batch_size=128, learning_rate=0.01, patience=0).fit(rated)


def test_a_score_is_the_value_itself(fitted, tmp_path):
    values = fitted.data.log.at("test").weight
    assert value_error(fitted, "test") < 0.5 * values.std()
    assert fitted.epochs_run[fitted.best_epoch - 1].score == -value_error(fitted, "validation")
    found = fitted.recommend(fitted.data.users.ids[:20], 5)
    assert 3 < found.scores[np.isfinite(found.scores)].mean() < 7
    shortlist.save(fitted, tmp_path / "b")
    again = shortlist.load(tmp_path / "b").retriever.recommend(fitted.data.users.ids[:20], 5)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_biases_are_two_numbers_of_a_vector(fitted):
    queries, (_, items) = fitted.encode_users(fitted.data.users.ids[:4]), fitted.encode_items()
    assert (queries[:, -1] == 1).all()
    assert (items[:, -2] == 1).all()
    values = fitted.data.training_log.weight
    assert fitted.towers.item.mean.item() == pytest.approx(values.mean(), rel=1e-6)
    assert items[:, -1].mean() == pytest.approx(values.mean(), abs=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "cosine", "biases": False}, "defined on the raw dot product"),
        ({"temperature": 0.5}, "would move away from its targets"),
        ({"correct_sampling": True}, "would shift the targets"),
        ({"negatives": 3}, r"training\.negatives does nothing .* has no negatives"),
        ({"sampler": "uniform"}, r"training\.sampler does nothing"),
        ({"mask_known": True}, r"training\.mask_known does nothing"),
        ({"hard": "hardest"}, r"training\.hard does nothing"),
        ({"weighted": True}, "leave one of them out"),
        ({"dim": 2}, r"model\.dim = 2"),
        ({"loss": "bce", "values": None, "monitor": "ndcg@10", "similarity": "cosine"}, "no sum"),
        ({"loss": "bce", "values": None}, "predicts none"),
    ],
    ids=str,
)
def test_what_cannot_work_beside_values_is_refused(options, message):
    given = {k: v for k, v in (VALUES | options).items() if v is not None}
    with pytest.raises(ModelError, match=message):
        TwoTower(**given)


def test_a_recipe_fits_values_with_the_weights_it_names():
    data = {"interactions": "log.csv", "weight": "r"}
    training = {k: VALUES[k] for k in ("loss", "mode", "similarity", "values", "monitor")}
    assert not list(unread(Recipe.model_validate({"data": data, "training": training})))
    assert "data.weight" in next(unread(Recipe.model_validate({"data": data})))


def test_values_need_a_column_and_pairs_have_none(rated):
    log = rated.dataset.log
    frame = pl.DataFrame({"user_id": log.user, "item_id": log.item})
    with pytest.raises(ModelError, match=r"values = 'explicit' needs data\.weight"):
        TwoTower(**VALUES).fit(Dataset.load(frame).split())
    with pytest.raises(ModelError, match="pairs of another kind"):
        ItemToItem(loss="squared", values="explicit", similarity="dot")
