"""training.precision: layers and scores in 16 bits, and everything else as before."""

import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.errors import CheckpointError, ModelError
from shortlist.evaluation.evaluate import evaluate
from shortlist.sampling import SAMPLERS
from shortlist.towers.mlp import has_perceptron
from shortlist.training import precision
from shortlist.training.blocks import Encoders
from shortlist.training.checkpoint import Checkpoints
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
        TwoTower(mode=mode, dim=16, epochs=2, seed=1, precision=name).fit(split)
        for name in ("float32", "bfloat16")
    )
    losses = [model.epochs_run[-1].loss for model in (whole, half)]
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


@pytest.fixture
def native(monkeypatch):
    """Say what the device can do, whatever the machine that runs the tests."""

    def has(answer):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: answer)

    return has


ALONE = {"history": "none", "user_id": True, "user_features": [], "item_features": []}
"""Ids alone: no layers."""


@pytest.mark.parametrize("answer", [True, False])
def test_auto_is_what_the_device_multiplies_and_the_model_can_use(split, native, answer):
    native(answer)
    options = {"dim": 16, "epochs": 1, "seed": 1}
    auto = TwoTower(precision="auto", **options).fit(split)
    same = TwoTower(precision="bfloat16" if answer else "float32", **options).fit(split)
    assert auto.precision == same.precision == same.training_section.precision
    assert torch.equal(auto.item_vectors, same.item_vectors)
    report = evaluate(auto, k=(5,))
    assert any(f"trained in {auto.precision}" in line for line in report.lines())
    assert report.to_dict()["channels"]["two-tower"]["precision"] == auto.precision


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_without_layers_auto_is_bfloat16_where_the_loss_can_use_it(split, native, sampler, loss):
    native(True)
    for shared in (None, False):
        given = {**ALONE, "dim": 4, "loss": loss, "sampler": sampler, "shared": shared}
        if sampler == "mixture":
            given["mixture"] = {"uniform": 1.0}
        try:
            model = TwoTower(**given, precision="auto")
        except ModelError:  # its pool is always one for all rows
            assert shared is False
            continue
        model.set_data(split.training_data("train"))
        trainer = model._trainer(model.data)
        batch = next(iter(model._batches(model.data).epoch(torch.Generator().manual_seed(0))))
        pool = trainer._sampler.sample(batch, torch.Generator().manual_seed(0))
        usable = trainer._objective.in_blocks(torch.zeros(*pool.ids.shape, 4))
        assert trainer.precision == ("bfloat16" if usable else "float32")


def test_what_auto_chose_is_kept_in_the_bundle_which_loads_on_any_machine(split, native, tmp_path):
    native(True)
    model = TwoTower(precision="auto", dim=8, epochs=1).fit(split)
    save(model, tmp_path / "bundle")
    native(False)
    again = load(tmp_path / "bundle").retriever
    assert (again.precision, again.training_section.precision) == ("bfloat16", "auto")
    users = model.data.users.ids
    assert again.recommend(users, 5).ids == model.recommend(users, 5).ids


def test_a_training_that_would_go_on_in_another_precision_is_refused(split, native, tmp_path):
    def fit(**options):
        checkpoints = Checkpoints(tmp_path, every=0.0)
        return TwoTower(dim=8, epochs=1, **options).fit(split, checkpoints=checkpoints)

    native(True)
    whole = fit(precision="auto")
    native(False)
    with pytest.raises(CheckpointError, match=r"training\.precision = 'bfloat16' to resume"):
        fit(precision="auto")
    resumed = fit(precision="bfloat16")
    assert torch.equal(resumed.item_vectors, whole.item_vectors)


@pytest.mark.parametrize(
    ("machine", "library", "limit", "bits", "answer"),
    [
        ("x86_64", True, "", {"_is_avx512_bf16_supported"}, True),
        ("x86_64", True, "", {"_is_amx_tile_supported"}, True),
        ("x86_64", True, "", set(), False),  # AVX-512 alone: emulated
        ("x86_64", True, "avx512_core", {"_is_avx512_bf16_supported"}, False),
        ("x86_64", False, "AVX2", {"_is_avx512_bf16_supported"}, False),
        ("aarch64", True, "", set(), True),
        ("aarch64", False, "", set(), False),
    ],
)
def test_a_cpu_has_bfloat16_where_it_and_the_library_have(
    monkeypatch, machine, library, limit, bits, answer
):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in bits, raising=False)
    assert precision.multiplies_bfloat16("cpu") is answer


def test_other_devices_count_as_without():
    assert not precision.multiplies_bfloat16("mps")
