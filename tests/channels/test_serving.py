"""The served model is the trained one, and has nothing that only training needs."""

import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.channels.learned.base import validation_score
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.similarity import score

SMALL = {"dim": 8, "epochs": 1, "batch_size": 256}


def test_a_long_history_is_answered_by_its_latest_events(split):
    model = TwoTower(**SMALL, history_length=2, user_features=[]).fit(split)
    items = model.data.items.ids.head(6).to_list()
    latest, other_start, other_end = (
        model.encode_users(Queries(histories=[history]))
        for history in (items[4:], [*items[2:4], *items[4:]], [*items[4:], *items[2:4]])
    )
    torch.testing.assert_close(other_start, latest)
    assert not torch.allclose(other_end, latest)


@pytest.mark.parametrize("loss", ["bce", "neg", "nce"])
def test_the_bias_of_a_pointwise_loss_is_not_served(split, loss):
    model = TwoTower(**SMALL, mode="pointwise", loss=loss).fit(split)
    ids, vectors = model.encode_items()
    users = model.data.users.ids.head(3)
    place = {item: position for position, item in enumerate(ids)}
    by_hand = score(model.encode_users(users), vectors, "cosine")
    answer = model.recommend(users, 5)
    wanted = [[by_hand[u, place[i]].item() for i in items] for u, items in enumerate(answer.ids)]
    torch.testing.assert_close(torch.from_numpy(answer.scores), torch.tensor(wanted))


def test_items_are_placed_without_dropout(split):
    model = TwoTower(**SMALL, item_layers=[16], dropout=0.5).fit(split)
    placed = model.item_vectors
    model.towers.train()
    model.place_items()
    assert torch.equal(model.item_vectors, placed)


def test_the_weights_of_the_best_epoch_are_restored(split, monkeypatch):
    planned, met = iter([0.2, 0.5, 0.3, 0.1]), []

    def validate(self):
        met.append(self.towers.item.id.weight.detach().clone())
        return next(planned)

    monkeypatch.setattr(TwoTower, "_measured", validate)
    model = TwoTower(**(SMALL | {"epochs": 4}), patience=0).fit(split)
    assert model.best_epoch == 2
    assert torch.equal(model.towers.item.id.weight, met[1])
    assert not torch.equal(met[1], met[3])


def test_the_monitored_figure_is_the_one_named(split):
    model = TwoTower(**SMALL).fit(split)
    names = ("ndcg@10", "recall@10", "recall@20")
    figures = []
    for name in names:
        figures.append(validation_score(model, name))
    assert figures[0] < figures[1] < figures[2]  # a gain is at most a hit, and 20 hold the 10
