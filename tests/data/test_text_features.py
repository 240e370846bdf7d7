"""Texts to vectors: learned from training texts alone, the same for each text whoever else asks."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from shortlist import Dataset, Queries, TwoTower, load, save
from shortlist.bundle.data_files import TEXTS
from shortlist.bundle.store import Manifest
from shortlist.data.columns import checked_feature
from shortlist.data.features import FeatureTable
from shortlist.data.item_updates import item_table, with_items
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.data.text_features import TextEncoder
from shortlist.errors import BundleError, DataError, QueryError
from shortlist.serving.onnx_export import export_onnx

FILMS = pl.Series(["Star Wars", "Star Trek", "Love Story", "Love Letter", None, "", "Star Wars"])
CODE = """
import polars as pl
from shortlist.data.text_features import TextEncoder
print(TextEncoder.fit(pl.Series(["a bee", "a cat", "the bee", "一只猫"]), 3).vectors.tolist())
"""


def test_texts_with_like_words_are_near_and_others_are_not():
    seen = TextEncoder.fit(FILMS, 2)
    near = seen.encode(FILMS) @ seen.encode(pl.Series(["STAR wars 2", "love stories"])).T
    assert near[0, 0] > 0.9
    assert near[2, 1] > 0.9
    assert near[:2, 1].abs().max() < 0.3


def test_a_chinese_title_is_found_by_a_part_of_it_and_letters_in_any_width():
    known = pl.Series(["复仇者联盟", "钢铁侠", "Iron Man"])
    seen = TextEncoder.fit(known, 3)
    new = seen.encode(pl.Series(["复仇者联盟4：终局之战", "ＩＲＯＮ　ＭＡＮ"]))
    near = seen.encode(known) @ new.T
    assert near[:, 0].argmax() == 0
    assert near[0, 0] > 0.9
    assert near[:, 1].tolist() == pytest.approx([0, 0, 1], abs=1e-5)


def test_a_missing_an_empty_and_a_strange_text_are_zeros():
    seen = TextEncoder.fit(FILMS, 2)
    assert seen.encode(pl.Series([None, "", "?!", "xyz"])).eq(0).all()


@pytest.mark.parametrize("texts", [["one text"], ["one", "two"], [None, ""], []])
def test_fewer_texts_than_the_width_leave_zeros_behind(texts):
    column = pl.Series("t", texts, dtype=pl.String)
    seen = TextEncoder.fit(column, 8)
    vectors = seen.encode(column)
    assert vectors.shape == (len(texts), 8)
    known = column.str.len_chars().fill_null(0).to_numpy() > 0
    assert vectors.norm(dim=1).tolist() == pytest.approx(known.astype(float).tolist())
    assert vectors[:, len(texts) :].eq(0).all()


def test_a_text_gets_the_same_numbers_alone_and_among_others():
    seen = TextEncoder.fit(FILMS, 4)
    alone = torch.cat([seen.encode(FILMS[at : at + 1]) for at in range(len(FILMS))])
    assert torch.equal(seen.encode(FILMS), alone)


def test_another_process_learns_the_same_numbers_whatever_seed_its_hashes_have():
    def learned(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", CODE]
        return subprocess.run(command, capture_output=True, check=True, env=environment).stdout

    assert learned("1") == learned("2")


def test_texts_of_items_that_were_not_trained_on_teach_nothing():
    frame = pl.DataFrame({"id": [1, 2, 3, 4], "title": FILMS[:4]})
    others = frame.with_columns(title=pl.when(pl.col("id") < 3).then("title"))
    tables = [
        FeatureTable.fit([Feature("title", "text", width=2)], one, frame["id"], trained=2)
        for one in (frame, others)
    ]
    first, second = (table.encoders["title"] for table in tables)
    assert np.array_equal(first.terms, second.terms)
    assert np.array_equal(first.vectors, second.vectors)


def test_a_column_of_words_is_a_text_and_one_of_numbers_is_refused():
    feature = Feature("words", "text")
    words = pl.Series("words", [["star", "wars"], [], None])
    assert checked_feature(words, "items", feature).to_list() == ["star wars", "", None]
    with pytest.raises(DataError, match=r"items.*'words'.*text or lists of words, not Int64"):
        checked_feature(pl.Series("words", [7]), "items", feature)


def test_a_feature_without_numbers_is_refused():
    with pytest.raises(DataError, match="'title': width must be"):
        Feature("title", "text", width=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Towers that read what users say and items are called, as a bundle."""
    world = planted_world(users=40, items=40, events=400, seed=1)
    says = pl.format("likes {}", pl.col("region"))
    schema = Schema(
        time="timestamp",
        user_features=[Feature("says", "text", width=3)],
        item_features=[Feature("tags", "text", width=6)],
    )
    data = Dataset.load(
        world.interactions,
        users=world.users.with_columns(says=says),
        items=world.items,
        schema=schema,
    )
    model = TwoTower(epochs=1, dim=8, item_id=False).fit(data.split("leave-last-out"))
    folder = tmp_path_factory.mktemp("texts") / "bundle"
    save(model, folder)
    return model, folder


def test_a_bundle_keeps_the_projection_and_answers_as_before(bundle):
    model, folder = bundle
    again = load(folder).retriever
    for side in ("user_features", "item_features"):
        now, then = getattr(again.data, side), getattr(model.data, side)
        for name, column in then.columns.items():
            assert torch.equal(now.columns[name], column)
    asked = Queries(
        users=model.data.users.ids.head(5), features={"says": ["likes north", *4 * [None]]}
    )
    assert np.array_equal(again.recommend(asked, 5).ids, model.recommend(asked, 5).ids)


def test_a_new_item_gets_its_vector_from_the_same_projection(bundle):
    data = load(bundle[1]).retriever.data
    known = data.item_frame.row(0, named=True)
    new = {**{name: None for name in data.item_frame.columns}, "id": 777, "tags": known["tags"]}
    grown = with_items(data, item_table(data, [new]))
    rows = grown.items.rows(pl.Series([known["id"], 777]))
    old, fresh = grown.item_features.columns["tags"][rows]
    assert torch.equal(old, fresh)
    assert old.norm() == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.reverse(), "do not ascend"),
        (lambda frame: frame.head(len(frame) - 1), "are missing"),
        (lambda frame: frame.with_columns(vector=pl.col("vector").list.head(2)), "finite numbers"),
        (lambda frame: frame.drop("term"), "must have the columns"),
    ],
)
def test_a_projection_that_training_did_not_write_is_refused(bundle, change, said, monkeypatch):
    read = Manifest.frame
    monkeypatch.setattr(
        Manifest,
        "frame",
        lambda self, name, rows=None: (change if name == TEXTS else lambda frame: frame)(
            read(self, name, rows)
        ),
    )
    with pytest.raises(BundleError, match=f"texts.parquet is not what training writes.*{said}"):
        load(bundle[1])


def test_towers_that_read_texts_are_not_exported_as_onnx(bundle, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(QueryError, match="the text feature 'says'"):
        export_onnx(bundle[0], tmp_path / "out", "texts")
