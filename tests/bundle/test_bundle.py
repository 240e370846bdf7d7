"""The bundle: what was measured is what is served, byte for byte, or it is not served at all."""

import json

import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from shortlist.bundle.bundle import load, save
from shortlist.bundle.store import publish, verify
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import _Unfilled
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.errors import BundleError
from shortlist.evaluation.evaluate import evaluate
from shortlist.towers.features import embedding


@pytest.fixture
def saved(fitted, tmp_path):
    save(fitted, tmp_path / "bundle", metrics=evaluate(fitted, k=(10,)).to_dict())
    return tmp_path / "bundle"


def test_a_loaded_bundle_answers_and_measures_exactly_as_before(fitted, saved):
    loaded = load(saved)
    users = fitted.data.users.ids
    one, two = fitted.recommend(users, 20), loaded.retriever.recommend(users, 20)
    assert (one.rows == two.rows).all()
    assert (one.scores == two.scores).all()
    assert evaluate(loaded.retriever, k=(10,)).to_dict() == loaded.metrics


def test_a_loaded_retriever_holds_the_tensors_it_was_given_and_no_copies(fitted):
    settings, states = fitted.state()
    again = TwoTower.from_state(fitted.data, settings, states)
    weight = again.towers.item.id.weight
    assert weight.data_ptr() == states["towers"]["item.id.weight"].data_ptr()
    assert again.item_vectors.data_ptr() == states["item_vectors"]["vectors"].data_ptr()
    assert again.index.items.vectors.data_ptr() == states["index"]["vectors"].data_ptr()


def test_towers_about_to_be_loaded_are_not_drawn():
    with torch.random.fork_rng(), _Unfilled():
        before = torch.get_rng_state()
        embedding(1000, 8)
        torch.nn.Linear(8, 8)
        assert torch.equal(torch.get_rng_state(), before)
    embedding(2, 8)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_bundle_of_before_its_index_was_kept_is_given_one(fitted):
    settings, states = fitted.state()
    older = {name: state for name, state in states.items() if name != "index"}
    again = TwoTower.from_state(
        fitted.data, {k: v for k, v in settings.items() if k != "index"}, older
    )
    users = fitted.data.users.ids
    assert (again.recommend(users, 9).rows == fitted.recommend(users, 9).rows).all()


def test_equal_trainings_give_equal_bundles(fitted, tmp_path):
    assert save(fitted, tmp_path / "a") == save(fitted, tmp_path / "b")


def test_string_ids_and_features_survive(world, world_schema, tmp_path):
    import polars as pl

    from shortlist.channels.learned.two_tower import TwoTower
    from shortlist.data.dataset import Dataset

    text = pl.format("00{}é", "item_id").alias("item_id")
    split = Dataset.load(
        world.interactions.with_columns(text),
        users=world.users,
        items=world.items.with_columns(text),
        schema=world_schema,
    ).split()
    model = TwoTower(dim=8, epochs=1, batch_size=256).fit(split)
    save(model, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert loaded.recommend([10_001], 5).ids == model.recommend([10_001], 5).ids
    assert loaded.recommend([10_001], 5).ids[0][0].startswith("00")
    assert loaded.data.item_features.encoders == model.data.item_features.encoders


def test_any_retriever_of_the_table_can_be_kept(split, tmp_path):
    popular = Popular().fit(split)
    save(popular, tmp_path / "bundle")
    assert (
        load(tmp_path / "bundle").retriever.recommend([1], 5).ids == popular.recommend([1], 5).ids
    )


def resealed(saved, target, file, change):
    """A bundle whose files were changed by somebody who also made the digests right."""
    manifest = verify(saved)
    files = {name: manifest.read(name) for name in manifest.files}
    files[file] = change(files[file])
    publish(target, files, manifest.fields)
    return target


def test_vectors_of_other_towers_are_refused_even_with_the_digests_right(saved, tmp_path):
    def other_space(data):
        tensors = read_tensors(data)
        tensors["embedding_space"] = tensors["embedding_space"].flip(0)
        return write_tensors(tensors)

    bad = resealed(saved, tmp_path / "bad", "item_vectors.safetensors", other_space)
    with pytest.raises(BundleError, match="item_vectors belongs to other towers"):
        load(bad)


def test_changed_towers_are_refused_even_with_the_digests_right(saved, tmp_path):
    def nudged(data):
        tensors = read_tensors(data)
        tensors["item.id.weight"] = tensors["item.id.weight"] + 1e-3
        return write_tensors(tensors)

    with pytest.raises(BundleError, match="other towers"):
        load(resealed(saved, tmp_path / "bad", "towers.safetensors", nudged))


def test_a_log_of_another_bundle_is_refused_even_with_the_digests_right(saved, tmp_path):
    import io

    import polars as pl

    def reversed_log(data):
        buffer = io.BytesIO()
        frame = pl.read_parquet(data)
        frame.with_columns(pl.col("item").reverse()).write_parquet(buffer)
        return buffer.getvalue()

    with pytest.raises(BundleError, match="do not belong together"):
        load(resealed(saved, tmp_path / "bad", "log.parquet", reversed_log))


def test_a_truncated_file_is_refused_by_name(saved):
    path = saved / "item_vectors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"item_vectors\.safetensors"):
        load(saved)


def test_the_bundle_holds_no_code_only_tensors_tables_and_json(saved):
    assert {path.suffix for path in saved.iterdir()} == {
        ".safetensors",
        ".parquet",
        ".json",
        ".sha256",
    }
    json.loads((saved / "manifest.json").read_text())


def test_vectors_are_finite_and_as_wide_as_said(saved, fitted):
    vectors = load(saved).retriever.item_vectors
    assert vectors.shape == (len(fitted.item_rows), 16)
    assert torch.isfinite(vectors).all()
