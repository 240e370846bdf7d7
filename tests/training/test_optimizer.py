"""The optimizer: rows of large tables move only if the batch read them; weight averages."""

import math

import pytest
import torch
from torch import nn

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.config import Training
from shortlist.errors import ModelError
from shortlist.sampling.uniform import UniformSampler
from shortlist.training import optimizer
from shortlist.training.optimizer import Optimizer, row_wise_tables

HISTORIES = [{"history": "recency"}, {"history": "attention"}, {"shared_items": False}]


def trainer_of(split, **options):
    """A retriever on the training rows, and its trainer before the first step."""
    torch.manual_seed(0)
    retriever = TwoTower(dim=8, batch_size=64, history_length=8, **options)
    data = split.training_data("train")
    retriever.set_data(data)
    return retriever, retriever._trainer(data)


# With Adam's momentum of .9 one gradient moves a weight by 1 / (1 - .9) = 10 steps in total. A row
# of a table makes these steps at once.


def one_table(**options):
    model = nn.Sequential(nn.Embedding(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    training = Training(optimizer="row-wise", learning_rate=0.01, **options)
    return model, Optimizer(model, [], training)


def test_a_row_moves_by_the_root_of_its_own_sum_of_squares():
    model, step = one_table()
    sums = 0.0
    expected = torch.ones(2)
    for _ in range(2):
        step.zero_grad()
        (model(torch.tensor([2, 2])) * torch.tensor([3.0, 4.0])).sum().backward()
        step.step(0.5)
        slope = torch.tensor([6.0, 8.0])  # read twice
        sums += slope.square().mean().item()  # 50 each time
        expected = expected - 10 * 0.01 * 0.5 * slope / math.sqrt(sums)
    torch.testing.assert_close(model[0].weight[2].detach(), expected)
    assert torch.equal(model[0].weight[[0, 1, 3]].detach(), torch.ones(3, 2))


def test_weight_decay_acts_on_the_rows_that_are_touched():
    model, step = one_table(weight_decay=0.1)
    (model(torch.tensor([1])) * 0.0).sum().backward()
    step.step(1.0)
    expected = torch.ones(4, 2)
    expected[1] -= 10 * 0.01 * 0.1
    torch.testing.assert_close(model[0].weight.detach(), expected)


def test_clipping_counts_the_rows_of_tables_with_everything_else():
    model = nn.ModuleList([nn.Embedding(4, 2), nn.Linear(2, 1, bias=False)])
    training = Training(optimizer="row-wise", clip=1.0)
    step = Optimizer(model, [], training)
    (model[0](torch.tensor([1])) * 3.0).sum().backward()
    (model[1].weight * 4.0).sum().backward()
    step.step(1.0)
    length = math.sqrt(2 * 9 + 2 * 16)
    torch.testing.assert_close(model[1].weight.grad, torch.full((1, 2), 4.0 / length))
    torch.testing.assert_close(model[0].weight.grad.coalesce().values()[0, 0].item(), 3.0 / length)


@pytest.mark.parametrize("options", HISTORIES)
def test_sparse_gradients_are_the_dense_ones(split, options):
    gradients = []
    for kind in ("dense", "row-wise"):
        retriever, trainer = trainer_of(split, optimizer=kind, **options)
        retriever.towers.train()
        batch = next(trainer._batches.epoch(torch.Generator().manual_seed(1)))
        torch.manual_seed(7)
        trainer._loss(batch).backward()
        gradients.append({n: p.grad for n, p in retriever.towers.named_parameters()})
    dense, sparse = gradients
    assert any(grad.is_sparse for grad in sparse.values())
    for name, grad in sparse.items():
        assert dense[name].layout == torch.strided
        plain = grad.to_dense() if grad.is_sparse else grad
        torch.testing.assert_close(plain, dense[name], msg=name)


@pytest.mark.parametrize("options", HISTORIES)
def test_a_step_touches_the_rows_of_its_batch_and_no_others(split, options, monkeypatch):
    retriever, trainer = trainer_of(
        split, optimizer="row-wise", user_id=True, sampler="uniform", shared=True, negatives=3,
        **options,
    )  # fmt: skip
    met = []
    whole = UniformSampler.sample

    def sample(self, batch, generator):
        pool = whole(self, batch, generator)
        met.extend([batch.positive, batch.history.values, pool.ids])
        return pool

    monkeypatch.setattr(UniformSampler, "sample", sample)
    before = {n: p.detach().clone() for n, p in retriever.towers.named_parameters()}
    next(trainer.epoch())
    after = dict(retriever.towers.named_parameters())
    touched = (after["item.id.weight"] != before["item.id.weight"]).any(dim=1)
    rows = set(touched.nonzero().squeeze(1).tolist())
    assert rows
    assert rows <= set(torch.cat(met).tolist()) - {0}
    assert len(rows) < len(touched)
    users = (after["query.id.weight"] != before["query.id.weight"]).any(dim=1)
    assert 0 < users.sum() <= 64


def test_tables_trained_by_rows_learn_the_planted_world_as_well(split):
    scores = {}
    for kind in ("dense", "row-wise"):
        retriever = TwoTower(
            dim=16, epochs=3, batch_size=128, seed=1, optimizer=kind,
            item_features=(), user_features=(),
        ).fit(split)  # fmt: skip
        scores[kind] = max(epoch.score for epoch in retriever.epochs_run)
    assert scores["row-wise"] >= 0.95 * scores["dense"]


def test_auto_trains_by_rows_from_a_size_on_and_ema_keeps_tables_dense(monkeypatch):
    model = nn.ModuleList([nn.Embedding(10, 4), nn.Embedding(9, 4)])
    assert row_wise_tables(model, Training()) == []
    monkeypatch.setattr(optimizer, "ROW_WISE_FROM", 40)
    assert row_wise_tables(model, Training(ema=0.9)) == []
    assert row_wise_tables(model, Training(optimizer="dense")) == []
    assert row_wise_tables(model, Training()) == [model[0]]
    assert (model[0].sparse, model[1].sparse) == (True, False)
    with pytest.raises(ModelError, match="leave one of them out"):
        row_wise_tables(model, Training(optimizer="row-wise", ema=0.9))


def test_the_average_of_the_weights_by_hand(split):
    retriever, trainer = trainer_of(split, ema=0.5, learning_rate=0.1)
    weight = retriever.towers.item.id.weight
    average = weight.detach().clone()
    steps = trainer.epoch()
    for number in range(1, 14):
        next(steps)
        kept = min(0.5, number / (number + 10))
        average = kept * average + (1 - kept) * weight.detach()
        own = weight.detach().clone()
        with trainer.averaged():
            torch.testing.assert_close(weight.detach(), average)
        assert torch.equal(weight.detach(), own)
    assert not torch.equal(average, own)
