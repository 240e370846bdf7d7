"""The user tower in ONNX Runtime: equal to torch, or not used."""

import sys
from copy import copy

import pytest
import torch

from answers import assert_same_up_to_rounding
from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.serving import onnx_encoder
from shortlist.serving.onnx_encoder import MOST_QUERIES, OnnxEncoder, use_onnx

SMALL = {"dim": 8, "epochs": 1, "batch_size": 256, "seed": 5}
SHAPES = {
    "recency": {},
    "mean": {"history": "mean"},
    "its own table": {"shared_items": False},
    "layers": {"user_layers": [12, 6]},
    "short": {"history_length": 3},
    "id": {"user_id": True},
    "id alone": {"user_id": True, "history": "none", "user_features": []},
    "features alone": {"history": "none"},
    "no features": {"user_features": []},
}


@pytest.fixture
def retriever(fitted):
    return copy(fitted)


def blocks(retriever):
    """Known users, a stranger, histories with unknown and new items, and none at all."""
    data = retriever.data
    users = [*data.users.ids.head(40).to_list(), -1]
    items = data.items.ids.to_list()
    histories = [items[:1], [-5, items[3], -6, items[3]], [], items[:70]]
    asked = [Queries(users=[user]) for user in users]
    asked += [Queries(histories=[history]) for history in histories]
    asked += [Queries(users=users), Queries(histories=histories)]
    return [next(row_blocks(queries, data)) for queries in asked]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_tower_gives_the_vectors_of_torch(split, shape):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    retriever = TwoTower(**SMALL, **SHAPES[shape]).fit(split)
    encoder = OnnxEncoder(retriever)
    for block in blocks(retriever):
        torch.testing.assert_close(
            encoder(block), retriever.encode_block(block), atol=1e-5, rtol=1e-5
        )


def test_answers_are_those_of_torch_and_large_blocks_stay_with_it(retriever, fitted):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert use_onnx(retriever)
    asked = []
    inner = retriever._encoder

    def counted(block):
        asked.append(len(block.users))
        return inner(block)

    retriever.use_query_encoder(counted, MOST_QUERIES)
    users = fitted.data.users.ids
    for part in (users[:0], users[:1], users[1 : 1 + MOST_QUERIES], users):
        found, wanted = retriever.recommend(part, 20), fitted.recommend(part, 20)
        assert_same_up_to_rounding((found.ids, found.scores), (wanted.ids, wanted.scores))
    assert asked == [1, MOST_QUERIES]


def test_vectors_that_differ_are_not_used(retriever, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    encode = OnnxEncoder.__call__
    monkeypatch.setattr(OnnxEncoder, "__call__", lambda self, block: encode(self, block) + 1e-3)
    assert not use_onnx(retriever)
    assert retriever._encoder is None


def test_what_the_graph_cannot_say_is_left_to_torch(retriever, split):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert not use_onnx(Popular().fit(split))
    other = TwoTower(**SMALL).fit(split)
    other.towers.query.top.append(torch.nn.Tanh())
    assert not use_onnx(other)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_torch_answers(retriever, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert not use_onnx(retriever)
    assert retriever._encoder is None


def test_new_data_end_the_encoder_that_was_made_of_the_old(retriever):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert use_onnx(retriever)
    retriever = retriever.observe(retriever.data)
    assert retriever._encoder is None


def test_the_service_uses_it_where_it_is_installed(open_app, bundle, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert open_app(bundle).watch.current.retriever._encoder is not None
    monkeypatch.setattr(onnx_encoder, "OnnxEncoder", _missing)
    assert open_app(bundle).watch.current.retriever._encoder is None


def _missing(retriever):
    raise ImportError
