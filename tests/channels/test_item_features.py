"""Items without events are read from a history, and placed, by their features."""

import numpy as np
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.config import Model
from shortlist.data.dataset import Dataset
from shortlist.data.synthetic import FIRST_ITEM_ID, FIRST_USER_ID
from shortlist.errors import ModelError
from shortlist.similarity import normalize, score
from shortlist.towers.two_tower import ItemTower, TwoTowers

SMALL = {"dim": 8, "epochs": 1, "batch_size": 256}
COLD = range(FIRST_ITEM_ID, FIRST_ITEM_ID + 200, 5)


@pytest.fixture(scope="module")
def cold_split(world, world_schema):
    """The planted world, a fifth of its items without an event."""
    log = world.interactions.remove(world.interactions["item_id"].is_in(list(COLD)))
    return Dataset.load(log, users=world.users, items=world.items, schema=world_schema).split()


@pytest.fixture(scope="module", params=["recency", "attention", "gru", "comirec"])
def reading(request, cold_split):
    return TwoTower(history=request.param, history_reads="items", **SMALL).fit(cold_split)


def test_histories_are_read_with_the_vectors_of_the_item_tower(reading):
    data, towers = reading.data, reading.towers
    history = [3, 9, 3, 7]
    everything = torch.arange(1, data.items.trained + 1)
    with torch.no_grad():
        table = towers.encode_items(data.item_features.take(everything))
        table = torch.cat([torch.zeros(1, 8), table])
        lists = reading._known(
            type(data.item_features.columns["tags"])(torch.tensor(history), torch.tensor([0, 4]))
        )
        by_hand = towers.query(data.user_features.take(torch.tensor([0])), lists, table)
    found = reading.encode_users(Queries(histories=[data.items.external(np.array(history))]))
    torch.testing.assert_close(found, normalize(by_hand))


def test_an_item_without_an_event_moves_the_vector_by_its_features(reading, cold_split):
    warm = reading.data.items.external(np.array([4]))[0]
    one, other = COLD[1], COLD[2]
    plain, with_one, with_other = reading.encode_users(
        Queries(histories=[[warm], [one, warm], [other, warm]])
    )
    assert (with_one - plain).norm() > 1e-4 * plain.norm()
    assert (with_one - with_other).norm() > 1e-4 * plain.norm()
    assert not reading.recommend(Queries(histories=[[one]]), 5).fallback.any()
    assert reading.recommend(Queries(histories=[[-7]]), 5).fallback.all()
    ids = TwoTower(**SMALL).fit(cold_split)
    assert ids.recommend(Queries(histories=[[one]]), 5).fallback.all()


def test_training_reads_as_serving_does(reading):
    batch = next(reading._batches(reading.data).epoch(torch.Generator().manual_seed(0)))
    reading.towers.train()
    reading._encode_batch(batch).sum().backward()
    fields = reading.towers.item.fields
    assert all(parameter.grad.any() for parameter in fields.parameters())


@pytest.mark.parametrize("history", ["attention", "gru", "comirec"])
def test_features_of_the_user_join_every_history(split, history):
    data = split.training_data()
    shape = Model(dim=8, history=history, dropout=0.0)
    towers = TwoTowers(data.user_features, data.item_features, shape).eval()
    met = data.item_features.columns["tags"]._replace(
        values=torch.tensor([3, 5, 3, 5]), offsets=torch.tensor([0, 2, 4])
    )
    users = torch.tensor([1, 2])
    first, second = towers.encode_queries(data.user_features.take(users), met)
    assert (first - second).abs().max() > 1e-3
    same, again = towers.encode_queries(data.user_features.take(torch.tensor([1, 1])), met)
    torch.testing.assert_close(same, again)


def test_a_share_of_ids_is_left_out_in_training_alone(split):
    data = split.training_data()
    torch.manual_seed(0)
    tower = ItemTower(data.user_features, data.item_features, Model(dim=8, id_dropout=0.3))
    rows = torch.arange(1, data.items.trained + 1).repeat(20)
    with torch.no_grad():
        features = dict(data.item_features.take(rows))
        whole = tower.eval()(features)
        noisy = tower.train()(features)
        bare = tower.eval()(features | {"<id>": torch.zeros_like(rows)})
    same = torch.isclose(noisy, whole).all(dim=1)
    assert torch.isclose(noisy, bare).all(dim=1)[~same].all()
    assert float((~same).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_id_dropout_places_untouched_items_among_those_that_were_trained(world, cold_split):
    """How often a cold item of a user's own group beats an item of another group: .5 is chance."""
    found = {}
    for share in (0.0, 0.3):
        options = {"dim": 16, "epochs": 12, "validate_every": 12, "batch_size": 128, "seed": 1}
        fitted = TwoTower(id_dropout=share, **options).fit(cold_split)
        ids, items = fitted.encode_items()
        users = fitted.data.users.ids.head(200)
        row = np.array(ids.to_list()) - FIRST_ITEM_ID
        cold = row % 5 == 0
        assert cold.sum() == len(COLD)
        scores = score(fitted.encode_users(users), items, "cosine").numpy()
        group = world.user_group[np.array(users.to_list()) - FIRST_USER_ID]
        liked = group[:, None] == world.item_group[row]
        wins = [
            (line[own & cold][:, None] > line[~own]).mean()
            for line, own in zip(scores, liked, strict=True)
        ]
        found[share] = float(np.mean(wins))
    assert found[0.3] > found[0.0] + 0.04
    assert found[0.3] > 0.8


def test_what_needs_features_is_refused_without_them(split):
    for options in ({"history_reads": "items"}, {"id_dropout": 0.2}):
        with pytest.raises(ModelError, match="needs item features"):
            TwoTower(item_features=[], **options, **SMALL).fit(split)
    for retriever in (ItemToItem, UserToUser):
        with pytest.raises(ModelError, match="history_reads does nothing"):
            retriever(history_reads="items")
