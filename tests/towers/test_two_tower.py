"""Two towers: what each reads and refuses, and that they meet only at the score."""

import pytest
import torch

from shortlist.config import Model
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.towers.two_tower import TwoTowers

EMPTY = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


@pytest.fixture
def data(split):
    return split.training_data()


def build(data, **options):
    shape = Model(dropout=0.0, **options)
    return TwoTowers(data.user_features, data.item_features, shape).eval()


def test_early_fusion_is_refused_because_such_a_model_cannot_be_indexed(data):
    with pytest.raises(ModelError, match="ranker"):
        build(data, user_features=("price",))
    with pytest.raises(ModelError, match="ranker"):
        build(data, item_features=("age",))


def test_an_unknown_feature_is_refused_with_the_nearest_name(data):
    with pytest.raises(ModelError, match="Did you mean 'region'"):
        build(data, user_features=("regon",))


@pytest.mark.parametrize(
    "options",
    [
        {"history": "none", "user_features": (), "user_id": False},
        {"item_id": False, "item_features": ()},
    ],
)
def test_a_tower_with_nothing_to_read_is_refused(data, options):
    with pytest.raises(ModelError, match="has no input"):
        build(data, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": "none", "user_id": True, "user_features": ()}, "user_layers"),
        ({"history": "attention", "user_features": ()}, "user_layers"),
        ({"history": "gru", "user_features": ()}, "user_layers"),
        ({"item_features": ()}, "item_layers"),
    ],
)
def test_layers_over_nothing_are_refused(data, options, message):
    with pytest.raises(ModelError, match=f"model.{message} read"):
        build(data, dim=8, **options, **{message: (4,)})


def test_an_unknown_history_is_refused(data):
    with pytest.raises(ModelError, match="recency"):
        build(data, history="recent")


@pytest.mark.parametrize("layers", [(), (32,), (32, 16)])
@pytest.mark.parametrize("history", ["recency", "mean", "none"])
def test_every_shape_gives_each_entity_a_vector_of_its_own_alone_as_beside_others(
    data, history, layers
):
    towers = build(
        data, dim=8, history=history, user_id=True, user_layers=layers, item_layers=layers
    )
    users, items = torch.tensor([1, 2]), torch.tensor([1, 2, 3])
    queries = towers.encode_queries(data.user_features.take(users), EMPTY)
    vectors = towers.encode_items(data.item_features.take(items))
    assert (queries.shape, vectors.shape) == ((2, 8), (3, 8))
    alone = towers.encode_items(data.item_features.take(items[1:2]))
    torch.testing.assert_close(vectors[1:2], alone)
    for found in (queries, vectors):
        assert (torch.pdist(found) > 1e-4).all()


def test_matrix_factorisation_is_two_towers_of_ids(data):
    towers = build(data, dim=8, history="none", user_id=True, user_features=(), item_features=())
    vectors = towers.encode_queries(data.user_features.take(torch.tensor([1, 2])), EMPTY)
    assert torch.equal(vectors, towers.query.id.weight[[1, 2]])


def test_an_untrained_item_is_placed_by_its_features_alone(data):
    towers = build(data, dim=8)
    cold = dict(data.item_features.take(torch.tensor([1])))
    cold["<id>"] = torch.tensor([0])
    with_id = towers.encode_items(data.item_features.take(torch.tensor([1])))
    torch.testing.assert_close(with_id - towers.encode_items(cold), towers.item.id.weight[1:2])


@pytest.mark.parametrize("shared", [True, False])
def test_histories_are_read_with_the_items_embeddings_only_where_shared(data, shared):
    towers = build(data, dim=8, shared_items=shared)
    history = Ragged(torch.tensor([1]), torch.tensor([0, 1]))
    towers.encode_queries(data.user_features.take(torch.tensor([1])), history).sum().backward()
    assert (towers.item.id.weight.grad is not None) == shared
    names = {name for name, _ in towers.named_parameters()}
    assert ("query.table.weight" in names) != shared
