"""A two-tower with a sequence tower: trained at every position, asked like any other."""

import numpy as np
import pytest
import torch

from answers import assert_same_up_to_rounding
from shortlist.asking.queries import Queries
from shortlist.asking.rows import RowQueries
from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.ragged import Ragged
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError
from shortlist.similarity import normalize
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
    first, *_, last = trained.epochs_run
    assert last.loss < 0.95 * first.loss
    assert trained.epochs_run[trained.best_epoch - 1].score > 0.06


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
    many = trained.recommend(users, 10)
    for at, user in enumerate(users[:12]):
        one = trained.recommend([user], 10)
        expected = many.rows[at : at + 1], many.scores[at : at + 1]
        assert_same_up_to_rounding((one.rows, one.scores), expected)


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
    assert np.isfinite(model.epochs_run[0].loss)
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
    assert [epoch.epoch for epoch in model.epochs_run] == [5, 7]


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


@pytest.fixture(scope="module")
def timed(split):
    """A tower that reads times, with loud biases, so that what it reads is seen."""
    retriever = TwoTower(**(SHAPE | {"history_time": True}), epochs=1, batch_size=256).fit(split)
    torch.manual_seed(0)
    for block in retriever.towers.query.history.blocks:
        torch.nn.init.normal_(block.time, std=2.0)
        torch.nn.init.normal_(block.found.weight, std=0.3)
    return retriever


def test_a_known_user_is_read_with_the_times_of_the_log(timed, split):
    data = timed.data
    user = data.users.ids[3]
    log = data.log.before("test")
    mine = log.user == data.users.rows([user])[0]
    history = torch.from_numpy(log.item[mine][-12:].astype(np.int64))
    lists = Ragged(history, torch.tensor([0, len(history)]))
    time = torch.from_numpy(log.time[mine][-12:])
    row = torch.from_numpy(data.users.rows([user]))
    by_hand = normalize(timed._encode(row, lists, time))
    found = timed.encode_users(Queries(users=[user], before="test"))
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-5)
    without = timed.encode_users(Queries(histories=[data.items.external(history.numpy())]))
    nobody = normalize(timed._encode(row * 0, lists))
    torch.testing.assert_close(without, nobody, atol=1e-5, rtol=1e-5)
    assert (found - without).abs().max() > 0.01


def test_times_keep_to_their_events_in_every_batch_and_bundle(timed, tmp_path):
    users = timed.data.users.ids.head(40)
    together = timed.encode_users(Queries(users=users, before="test"))
    alone = [timed.encode_users(Queries(users=[user], before="test")) for user in users[:8]]
    torch.testing.assert_close(together[:8], torch.cat(alone), atol=1e-5, rtol=1e-5)
    save(timed, tmp_path / "bundle")
    again = load(tmp_path / "bundle").retriever
    assert torch.equal(again.encode_users(users), timed.encode_users(users))


def test_times_of_events_that_are_not_read_are_left_out_with_them(timed):
    block = RowQueries(
        torch.tensor([0]),
        Ragged(torch.tensor([3, 0, 5]), torch.tensor([0, 3])),
        True,
        time=torch.tensor([10, 500, 90_000]),
    )
    lists = Ragged(torch.tensor([3, 5]), torch.tensor([0, 2]))
    wanted = timed._encode(torch.tensor([0]), lists, torch.tensor([10, 90_000]))
    torch.testing.assert_close(timed.encode_block(block), wanted)


def test_the_biases_of_time_learn(split):
    found = TwoTower(**(SHAPE | {"history_time": True}), epochs=1, encode_rows=64, batch_size=256)
    found.fit(split)
    for block in found.towers.query.history.blocks:
        assert block.time.abs().max() > 1e-4


def test_times_are_refused_where_nothing_reads_them(world):
    with pytest.raises(ModelError, match="history_time is for history = 'attention'"):
        TwoTower(history="gru", history_time=True)
    unordered = Dataset.load(world.interactions, schema=Schema()).split("random")
    with pytest.raises(ModelError, match=r"no time column \(data\.time\)"):
        TwoTower(**(SHAPE | {"history_time": True})).fit(unordered)
