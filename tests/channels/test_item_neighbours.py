"""Item vectors that read the neighbours of the item, and cosines with popularity beside them."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError
from shortlist.similarity import normalize
from shortlist.towers.neighbours import WEIGHT
from shortlist.training.lesson import Lesson

SMALL = {"dim": 8, "epochs": 1, "batch_size": 256, "history": "mean"}


@pytest.fixture(scope="module")
def split():
    """Users of one half meet items of one half only; no times."""
    random = np.random.default_rng(0)
    rows = [
        {"user_id": user, "item_id": int(item) + user % 2 * 10}
        for user in range(80)
        for item in random.permutation(10)[:8]
    ]
    return Dataset.load(pl.DataFrame(rows), schema=Schema()).split("random", at=0.9)


def begun(split, **options):
    model = TwoTower(**(SMALL | options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.set_data(split.training_data("train"))
    drawn = model.towers.item.id.weight.detach().clone()
    model._begin_weights()
    return model, drawn


def second_half(data):
    return torch.tensor([int(name) >= 10 for name in data.items.ids])


def test_the_vector_of_an_item_is_its_embedding_and_the_weighted_sum_of_its_neighbours(split):
    model, _ = begun(split, item_neighbours=3)
    data, part = model.data, model.towers.item.neighbours
    table = model.towers.item.id.weight.detach()
    log = data.training_log
    met = np.zeros((log.users, data.items.trained + 1))
    met[log.user, log.item] = 1
    users, items = np.maximum(met.sum(1), 1), np.maximum(met.sum(0), 1)
    near = (met / users[:, None]).T @ met / np.sqrt(np.outer(items, items))
    np.fill_diagonal(near, 0)
    for row in range(1, data.items.trained + 1):
        best = np.sort(near[row])[::-1][:3]
        np.testing.assert_allclose(part.weights[row].numpy(), WEIGHT * best / best.sum(), rtol=1e-5)
        np.testing.assert_allclose(near[row][part.rows[row].numpy()], best, rtol=1e-5)
        by_hand = table[row] + part.weights[row] @ table[part.rows[row]]
        vector = model.encode_item_rows(torch.tensor([row]))[0]
        torch.testing.assert_close(vector, by_hand)


def test_training_begins_where_items_of_the_same_users_lie_side_by_side(split):
    model, drawn = begun(split, item_neighbours=3)
    weight, second = model.towers.item.id.weight.detach(), second_half(model.data)
    units = normalize(weight[1:])
    near = units @ units.T
    assert near[second][:, second].min() > near[second][:, ~second].max()
    length = torch.linalg.vector_norm(drawn[1:], dim=1).mean()
    torch.testing.assert_close(
        torch.linalg.vector_norm(weight[1:], dim=1), length.expand(len(weight) - 1)
    )
    assert not weight[0].any()


@pytest.mark.parametrize("optimizer", ["dense", "row-wise"])
def test_what_neighbours_say_is_trained_kept_in_a_bundle_and_gone_on_from(
    split, optimizer, tmp_path
):
    options = SMALL | {"item_neighbours": 3, "popularity": 0.1, "similarity": "dot"}
    model = TwoTower(**options, optimizer=optimizer).fit(split)
    again = TwoTower(**options, optimizer=optimizer).fit(split)
    assert torch.equal(model.item_vectors, again.item_vectors)
    _, begins = begun(split, item_neighbours=3)
    assert not torch.equal(model.towers.item.id.weight, begins)
    save(model, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert torch.equal(loaded.item_vectors, model.item_vectors)
    assert torch.equal(loaded.towers.item.neighbours.rows, model.towers.item.neighbours.rows)
    learn = np.zeros(len(model.data.log.user), dtype=bool)
    learn[:40] = True
    gone = model.refreshed(model.data, Lesson(learn))
    assert torch.equal(gone.towers.item.neighbours.rows, model.towers.item.neighbours.rows)
    assert not torch.equal(gone.item_vectors, model.item_vectors)


def test_neighbours_that_a_bundle_cannot_have_are_refused(split):
    model = TwoTower(**SMALL, item_neighbours=3).fit(split)
    settings, states = model.state()
    rows = states["towers"]["item.neighbours.rows"].clone()
    rows[1, 0] = 10_000
    states["towers"]["item.neighbours.rows"] = rows
    with pytest.raises(ModelError, match="neighbours must be rows from 0 to"):
        TwoTower.from_state(model.data, settings, states)


def test_other_models_keep_no_word_of_it(split):
    kept = TwoTower(**SMALL).fit(split).state()[0]["model"]
    assert not {"item_neighbours", "popularity"} & set(kept)


def test_with_popularity_a_score_is_a_cosine_and_how_often_the_item_was_met(split):
    model = TwoTower(**SMALL, similarity="dot", temperature=0.1, popularity=0.2).fit(split)
    data, ids = model.data, model.towers.item.id.weight.detach()[1:]
    vectors = model.encode_item_rows(torch.arange(1, data.items.trained + 1))
    torch.testing.assert_close(vectors[:, :7], normalize(ids[:, :7]))
    often = np.log(np.bincount(data.training_log.item)[1:])
    np.testing.assert_allclose(vectors[:, 7].numpy(), 0.2 * often, rtol=1e-5)
    users = model.encode_users(data.users.ids.head(5))
    torch.testing.assert_close(torch.linalg.vector_norm(users[:, :7], dim=1), torch.ones(5))
    assert torch.equal(users[:, 7], torch.ones(5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"popularity": 0.1}, "use similarity = 'dot'"),
        ({"popularity": 0.1, "similarity": "dot", "dim": 1}, "use 2 or more"),
        ({"popularity": 0.1, "similarity": "dot", "biases": True}, "leave one of them out"),
        ({"item_neighbours": 3, "item_id": False}, "item_id = false leaves none"),
        ({"item_neighbours": 3, "optimizer": "sharded"}, "use optimizer = 'row-wise'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_data(options, said):
    with pytest.raises(ModelError, match=said):
        TwoTower(**options)
    with pytest.raises(ModelError, match="item_neighbours does nothing"):
        ItemToItem(item_neighbours=3)
