"""precision = "bfloat16": layers and scores in half the bits, everything else as it was."""

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.retrievers.base import Queries
from shortlist.retrievers.item_to_item import ItemToItem
from shortlist.retrievers.vector import TwoTower
from shortlist.towers.mlp import has_perceptron
from shortlist.training.blocks import Encoders
from shortlist.training.precision import in_bfloat16

ROWS = torch.arange(1, 9)


def built(split, **options):
    model = TwoTower(dim=16, **options)
    torch.manual_seed(5)
    model.set_data(split.training_data("train"))
    return model


def item_vectors(model):
    plain = Encoders(model._encode_batch, model._encode_items)
    return plain.items(ROWS), in_bfloat16(plain, "cpu").items(ROWS)


def test_layers_are_multiplied_in_half_the_bits_and_vectors_stay_whole(split):
    whole, half = item_vectors(built(split))
    assert half.dtype == whole.dtype == torch.float32
    assert 0 < (half - whole).abs().max() < 0.02 * whole.abs().max()


def test_a_table_of_ids_is_read_as_it_is(split):
    whole, half = item_vectors(built(split, item_features=[]))
    assert torch.equal(half, whole)


@pytest.mark.parametrize("history", ["mean", "recency", "attention", "gru", "comirec"])
def test_histories_are_read_in_whole_bits(split, history):
    model = built(split, history=history, user_features=[])
    model.towers.query.top = None  # which is the layer over features and pooled histories
    model.towers.eval()
    batch = next(iter(model._batches(model.data).epoch(torch.Generator().manual_seed(0))))
    plain = Encoders(model._encode_batch, model._encode_items)
    whole, half = plain.queries(batch), in_bfloat16(plain, "cpu").queries(batch)
    assert torch.equal(half, whole)


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_a_training_in_half_the_bits_is_another_one_and_ends_near(split, mode):
    """It acts, gives float32 weights, and the model answers in whole bits afterwards."""
    whole, half = (
        TwoTower(mode=mode, dim=16, epochs=2, seed=1, precision=precision).fit(split)
        for precision in ("float32", "bfloat16")
    )
    losses = [model.history[-1].loss for model in (whole, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert {value.dtype for value in half.towers.parameters()} == {torch.float32}
    users = Queries(users=half.data.users.ids.head(4))
    encoded = half.encode_users(users)
    assert not torch.equal(encoded, encoded.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "bpr"},
        {"sampler": "uniform", "negatives": 4, "shared": False},
        {"history": "attention", "loss": "bpr"},
    ],
)
def test_it_is_refused_where_it_would_do_nothing(split, options):
    """Ids and histories alone have no layers; these losses have no shared softmax."""
    alone = {"history": "none", "user_id": True, "user_features": [], "item_features": []}
    with pytest.raises(ModelError, match="bfloat16"):
        TwoTower(**(alone | options), epochs=1, precision="bfloat16").fit(split)


def test_two_items_can_be_trained_so_where_the_tower_has_layers(split):
    ItemToItem(session_gap=86_400, dim=8, epochs=1, precision="bfloat16").fit(split)
    with pytest.raises(ModelError, match="bfloat16"):
        ItemToItem(
            session_gap=86_400, dim=8, epochs=1, loss="bpr", item_features=[], precision="bfloat16"
        ).fit(split)


def test_layers_are_found(split):
    assert has_perceptron(built(split).towers)
    assert not has_perceptron(
        built(split, history="none", user_id=True, user_features=[], item_features=[]).towers
    )
