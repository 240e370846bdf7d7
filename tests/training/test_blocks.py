"""Gradient caching: blocks that are encoded twice give the step of blocks that are held."""

import pytest
import torch
from torch import nn

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.config import Training
from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.training.blocks import Encoders, in_blocks, parts

ROWS = 24
COMMON = {"dim": 8, "batch_size": 128, "history_length": 10, "seed": 3}
KINDS = {
    "recency": {"history": "recency", "item_layers": (12,), "user_layers": (12,)},
    "mean of items": {"history": "mean", "history_reads": "items"},
    "attention": {"history": "attention", "similarity": "dot"},
    "gru": {"history": "gru", "loss": "bce", "sampler": "uniform", "negatives": 4},
    "comirec": {"history": "comirec"},
    "catalogue": {"sampler": "catalogue", "learn_temperature": True},
    "hardest": {"hard": "hardest"},
    "row-wise": {"history": "attention", "optimizer": "row-wise", "clip": 1.0},
}
NOISE = {"dropout": 0.3, "history_dropout": 0.2, "id_dropout": 0.2}
QUIET = {"dropout": 0.0}


def trainer_of(split, **options):
    """A trainer with towers in float64, and its first batch."""
    retriever = TwoTower(**{**COMMON, **options})
    data = split.training_data("train")
    torch.manual_seed(3)
    retriever.set_data(data)
    retriever.towers.double().train()
    for table in (retriever._user_table, retriever._item_table):
        for name, column in table.columns.items():
            if isinstance(column, torch.Tensor) and column.is_floating_point():
                table.columns[name] = column.double()
    trainer = retriever._trainer(data)
    return retriever.towers, trainer, next(iter(trainer._begin_epoch()))


def all_held(encoders):
    """The same blocks, none of which is forgotten."""
    return Encoders(
        lambda batch: torch.cat([encoders.queries(part) for part in parts(batch, ROWS)]),
        lambda ids: torch.cat([encoders.items(part) for part in ids.split(ROWS)]),
    )


def step(towers, trainer, batch):
    """The loss, every gradient, and what is left of the generator of dropout."""
    torch.manual_seed(5)
    loss = trainer._loss(batch)
    loss.backward()
    found = {n: p.grad.to_dense() for n, p in towers.named_parameters() if p.grad is not None}
    found |= {f"objective {n}": p.grad for n, p in trainer._objective.named_parameters()}
    return loss.detach(), found, torch.get_rng_state()


@pytest.mark.parametrize("noise", [QUIET, NOISE], ids=["quiet", "noisy"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_that_of_the_whole_batch(kind, noise, split):
    options = {**KINDS[kind], **noise}
    loss, found, left = step(*trainer_of(split, **options, encode_rows=ROWS))
    towers, trainer, batch = trainer_of(split, **options)
    if noise is NOISE:  # which a whole batch draws in another order
        trainer._encoders = all_held(trainer._encoders)
    whole, wanted, left_of_it = step(towers, trainer, batch)
    torch.testing.assert_close(loss, whole, rtol=1e-9, atol=0)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    assert torch.equal(left, left_of_it)


def test_each_block_is_encoded_once_more_when_its_gradient_is_known():
    table = nn.Linear(2, 3)
    calls = []

    def encode(rows):
        calls.append(len(rows))
        return table(rows.float().unsqueeze(1).expand(-1, 2)).tanh()

    encoders = in_blocks(Encoders(encode, encode), 4, table)
    vectors = encoders.items(torch.arange(10))
    assert calls == [4, 4, 2]
    vectors.sum().backward()
    assert calls == [4, 4, 2, 2, 4, 4]  # the last block first, one at a time


def test_what_a_tower_counts_is_counted_once():
    counting = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    plain.load_state_dict(counting.state_dict())
    rows = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    encoders = in_blocks(Encoders(counting, counting), 3, counting)
    encoders.items(rows).square().sum().backward()
    torch.cat([plain(part) for part in rows.split(3)]).square().sum().backward()
    for mine, theirs in zip(counting.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(counting[0].weight.grad, plain[0].weight.grad)


def test_parts_of_shared_histories_keep_to_their_rows_and_positions():
    history = Ragged(torch.arange(1, 13), torch.tensor([0, 3, 4, 8, 12]))
    batch = Batch(
        torch.tensor([1, 1, 2, 3, 3, 4]),
        torch.arange(6),
        torch.arange(6).float(),
        history,
        place=torch.tensor([1, 2, 3, 5, 7, 11]),
    )
    found = list(parts(batch, 6))
    assert [part.history.lengths.tolist() for part in found] == [[3, 1], [4], [4]]
    assert [part.users.tolist() for part in found] == [[1, 1, 2], [3, 3], [4]]
    met = torch.cat([part.history.values[part.place] for part in found])
    assert torch.equal(met, history.values[batch.place])
    assert torch.cat([part.positive for part in found]).tolist() == [0, 1, 2, 3, 4, 5]
    assert [part.weight.tolist() for part in found] == [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (TwoTower, {"history": "attention", "hard": "mined", "hard_ranks": (2, 9)}),
        (ItemToItem, {"session_gap": 10**9}),
        (UserToUser, {"mode": "pairwise"}),
    ],
)
def test_every_kind_of_positive_trains_in_blocks(kind, options, split):
    found = kind(dim=8, epochs=1, batch_size=256, encode_rows=50, **options).fit(split)
    assert found.epochs_run[0].loss > 0


def test_rows_that_save_nothing_are_refused(split):
    with pytest.raises(ModelError, match=r"encode_rows = 64 must be below batch_size = 64"):
        TwoTower(batch_size=64, encode_rows=64)
    ids = {"history": "none", "user_id": True, "user_features": [], "item_features": []}
    with pytest.raises(ModelError, match=r"encode_rows.*consist of"):
        TwoTower(**ids, batch_size=64, encode_rows=32).fit(split)
    assert Training(batch_size=64, encode_rows=63).encode_rows == 63
