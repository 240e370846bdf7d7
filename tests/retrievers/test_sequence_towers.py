"""A two-tower with a sequence tower: trained at every position, asked like any other."""

import numpy as np
import pytest
import torch

from shortlist.bundle.bundle import load, save
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError
from shortlist.retrievers.base import Queries
from shortlist.retrievers.vector import TwoTower
from shortlist.training.objective import Objective

SHAPE = {
    "history": "attention",
    "history_length": 12,
    "dim": 16,
    "dropout": 0.1,
    "user_features": [],
}
OPTIONS = {"epochs": 3, "batch_size": 256, "learning_rate": 0.01, "schedule": "cosine", "clip": 1.0}


@pytest.fixture(scope="module")
def trained(split):
    return TwoTower(**SHAPE, **OPTIONS, sampler="catalogue", seed=3).fit(split)


def test_it_learns_the_planted_world(trained):
    first, *_, last = trained.history
    assert last.loss < 0.95 * first.loss
    assert trained.history[trained.best_epoch - 1].score > 0.06


def test_the_same_run_gives_the_same_bytes(split, trained):
    again = TwoTower(**SHAPE, **OPTIONS, sampler="catalogue", seed=3).fit(split)
    assert torch.equal(again.item_vectors, trained.item_vectors)
    for mine, theirs in zip(
        again.towers.state_dict().values(), trained.towers.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_user_and_a_stranger_with_the_same_history_get_the_same_items(trained):
    data = trained.data
    user = data.users.ids[3]
    log = data.log.before("test")
    rows = log.item[log.user == data.users.rows([user])[0]]
    history = data.items.external(rows.astype(np.int64)).to_list()
    by_id = trained.recommend(Queries(users=[user], before="test"), 10)
    by_history = trained.recommend(Queries(histories=[history]), 10)
    assert by_id.ids == by_history.ids


def test_answers_do_not_depend_on_the_batch(trained):
    users = trained.data.users.ids.head(60)
    together = trained.encode_users(Queries(users=users, before="test"))
    alone = [trained.encode_users(Queries(users=[user], before="test")) for user in users[:12]]
    torch.testing.assert_close(together[:12], torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_nobody_and_strangers_are_answered(trained):
    assert len(trained.recommend(Queries(users=[]), 5)) == 0
    found = trained.recommend(Queries(histories=[[], [-7]]), 5)
    assert found.fallback.tolist() == [True, True]
    assert len(found.ids[0]) == 5


def test_a_bundle_gives_the_same_answers(trained, tmp_path):
    save(trained, tmp_path / "bundle")
    users = trained.data.users.ids.head(20)
    assert load(tmp_path / "bundle").retriever.recommend(users).ids == trained.recommend(users).ids


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "pairwise"},
        {"mode": "pointwise"},
        {"sampler": "in_batch"},
        {"sampler": "mixed", "similarity": "dot", "temperature": 1.0},
        {"hard": "hardest", "sampler": "in_batch"},
        {"sampler": "uniform", "negatives": 32, "shared": True, "mask_known": True},
        {"loss": "gbce"},
        {"precision": "bfloat16", "user_id": True, "user_features": None},
    ],
)
def test_every_objective_trains_it(split, options):
    model = TwoTower(**(SHAPE | OPTIONS | {"epochs": 1} | options)).fit(split)
    assert np.isfinite(model.history[0].loss)
    assert len(model.recommend(model.data.users.ids.head(2), 3).ids[0]) == 3


def test_a_log_without_an_order_is_refused():
    world = planted_world(users=60, items=50, events=600)
    unordered = Dataset.load(world.interactions, schema=Schema()).split()
    with pytest.raises(ModelError, match=r"data\.time"):
        TwoTower(**SHAPE, **OPTIONS).fit(unordered)


def test_patience_waits_for_a_look(split):
    """Between two looks nothing is known, so nothing can have stopped to rise."""
    options = OPTIONS | {"epochs": 7, "patience": 2, "validate_every": 5}
    model = TwoTower(**SHAPE, **options).fit(split)
    assert [epoch.epoch for epoch in model.history] == [5, 7]


@pytest.mark.parametrize(("history", "grouped"), [("attention", True), ("recency", False)])
def test_rows_of_one_history_are_told_apart_from_others(split, monkeypatch, history, grouped):
    """In-batch slots of the row's own user are no independent draws, and are dropped."""
    seen, mean = [], Objective.mean

    def heard(self, *vectors, **given):
        seen.append(given["groups"])
        return mean(self, *vectors, **given)

    monkeypatch.setattr(Objective, "mean", heard)
    TwoTower(history=history, dim=8, epochs=1, batch_size=256, user_features=[]).fit(split)
    assert seen
    assert all((groups is not None) == grouped for groups in seen)
    if grouped:
        assert any(len(groups.unique()) < len(groups) for groups in seen)
