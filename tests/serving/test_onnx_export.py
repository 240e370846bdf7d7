"""An export answers without this package: its vectors are ours, or it is refused by name."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.bundle.bundle import save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.cli.app import main
from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.errors import OutputError, QueryError
from shortlist.serving.onnx_export import EXAMPLE, export_onnx
from shortlist.similarity import comparable

START = 1_700_000_000
SCHEMA = Schema(
    time="time",
    event="kind",
    events={"view": {}, "buy": {"target": True}},
    user_features=(
        Feature("town", "categorical"),
        Feature("age", "numeric"),
        Feature("tags", "multi-valued"),
        Feature("taste", "vector"),
    ),
    item_features=(Feature("genres", "multi-valued"), Feature("year", "numeric")),
    event_features=(
        EventFeature("device", "categorical", known="before"),
        EventFeature("dwell", "numeric", known="after"),
        EventFeature("kind", "categorical", known="after"),
    ),
)
BARE = {"user_features": [], "item_features": [], "history_features": [], "context": []}
SHAPES = {
    "recency, every feature": {},
    "recency of ids": BARE,
    "mean, euclidean, its own table": {
        **{"history": "mean", "similarity": "euclidean", "shared_items": False},
        **{"user_layers": [6]},
    },
    "attention": {"history": "attention", "history_layers": 2},
    "attention with times": {"history": "attention", "history_time": True, **BARE},
    "attention with times and a clock": {
        **{"history": "attention", "history_time": True, "request_time": True},
        **{"history_reads": "items"},
    },
    "hstu": {"history": "hstu", "history_layers": 2, **BARE},
    "hstu with times and a clock": {
        **{"history": "hstu", "history_time": True, "request_time": True},
        **{"history_reads": "items"},
    },
    "gru": {"history": "gru", "history_layers": 2, "user_layers": [5]},
    "comirec": {"history": "comirec", "interests": 3, "user_layers": [6, 5]},
    "mind": {"history": "mind", "interests": 3, "history_length": 9},
    "mind of ids, dot": {"history": "mind", "similarity": "dot", **BARE},
    "ids alone, biases": {
        **{"history": "none", "user_id": True, "biases": True, "similarity": "dot"},
        **{"user_features": [], "item_features": [], "context": []},
    },
    "popularity and neighbours": {
        **{"history": "mean", "popularity": 0.1, "similarity": "dot"},
        **{"item_neighbours": 3},
    },
    "clock and id": {
        **{"request_time": True, "user_id": True, "user_layers": [7], "user_features": []},
    },
    "history read by features": {"history_reads": "items", "item_id": False, "history": "mean"},
    "features and clock alone": {"history": "none", "request_time": True},
}
"""Options beside dim: every kind of tower, with and without each kind of feature."""


ITEMS = pl.DataFrame(
    {
        "item_id": [f"i{item}" for item in range(24)],
        "genres": ["|".join(["x", "y", "z"][: item % 4]) for item in range(24)],
        "year": [None if item % 5 == 0 else 1990 + item for item in range(24)],
    }
)
"""Of 24 items; the log has 20 of them."""


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(4)
    users, count = 30, 360
    log = pl.DataFrame(
        {
            "user_id": np.arange(count) % users,
            "item_id": [f"i{item}" for item in rng.integers(20, size=count)],
            "time": START + rng.integers(3_000_000, size=count),
            "kind": rng.choice(["view", "buy"], count),
            "device": rng.choice(["tv", "phone", "true"], count),
            "dwell": rng.exponential(30, count).round(1),
        }
    )
    ids = np.arange(users)
    tastes = rng.normal(size=(users, 3)).round(3)
    of_users = pl.DataFrame(
        {
            "user_id": ids,
            "town": [f"t{user % 4}" for user in ids],
            "age": 20 + ids % 11,
            "tags": ["|".join(["a", "b", "c"][: user % 4]) for user in ids],
            "taste": pl.Series(tastes, dtype=pl.Array(pl.Float64, 3)),
        }
    )
    return Dataset.load(log, users=of_users, items=ITEMS, schema=SCHEMA).split()


def untrained(split, **options):
    """A retriever whose every weight differs from what it starts with; unknown rows stay zero."""
    model = TwoTower(dim=8, **options)
    model.set_data(split.training_data("train"))
    model._begin_weights()
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in model.towers.parameters():
            weights.add_(0.3 * torch.randn(weights.shape))
        for module in model.towers.modules():
            if isinstance(module, nn.Embedding):
                module.weight[0] = 0
    model.place_items()
    return model


def questions(rng, items, number):
    """Questions as the example takes them, of all that a tower may read; some tell little."""
    for place in range(number):
        size = int(rng.choice([0, 1, 2, 12]))
        history = [str(item) for item in rng.choice([*items, "nowhere"], size)]
        moments = np.sort(START + rng.integers(3_000_000, size=size)).tolist()
        yield {
            "history": history,
            "times": [None if rng.random() < 0.2 else moment for moment in moments],
            "time": None if place % 3 == 0 else START + 3_000_000 + int(rng.integers(100_000)),
            "user": int(rng.integers(40)),
            "event_features": {}
            if place % 4 == 3
            else {
                "device": rng.choice(["tv", "phone", "new"], size).tolist(),
                "dwell": [None if rng.random() < 0.3 else float(i) for i in range(size)],
                "kind": rng.choice(["view", "buy"], size).tolist(),
            },
            "context": {"device": "tv" if place % 2 else None},
            "features": {
                "town": [None, "t1", "elsewhere"][place % 3],
                "age": [31, 20.5, None][place % 3],
                "tags": [["a", "c"], [], None, "b|a|q"][place % 4],
                "taste": None if place % 4 == 1 else [0.5, -1, 2],
            },
        }


def ours(model, asked):
    """The vectors of the retriever itself for a question."""
    tower, told = model.towers.query, dict(asked["event_features"])
    kinds, features = told.pop("kind", None), asked["features"]
    queries = Queries(
        histories=[asked["history"]],
        features={n: [features[n]] for n in model.query_features if features[n] is not None},
        context={n: [asked["context"][n]] for n in model.query_context},
        event_features={n: [v] for n, v in told.items() if n in model.history_features},
        kinds=None if kinds is None or tower.history is None else [kinds],
        times=[asked["times"]] if model.timed and tower.history is not None else None,
        time=[asked["time"]] if model.reads_clock else None,
    )
    block = next(row_blocks(queries, model.data, timed=model.timed))
    if tower.id is not None:
        block = replace(block, users=torch.from_numpy(model.data.users.rows([asked["user"]])))
    return comparable(model.encode_block(block), model.similarity)[0]


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_gives_the_vectors_of_the_bundle(split, tmp_path, example, shape):
    model = untrained(split, **SHAPES[shape])
    export_onnx(model, tmp_path / "out", "ab12")
    items = model.data.items.ids.to_list()
    for asked in questions(np.random.default_rng(1), items, 8):
        found = example["query_vectors"](tmp_path / "out", asked)
        np.testing.assert_allclose(found, ours(model, asked), atol=1e-5, rtol=1e-5)
    ids, vectors = model.encode_items()
    assert json.loads((tmp_path / "out/vocabularies.json").read_text())["candidates"] == [*ids]
    np.testing.assert_array_equal(np.load(tmp_path / "out/items.npy"), vectors)
    assert (tmp_path / "out/item.onnx").exists() == model.towers.reads_item_features
    if model.towers.reads_item_features:
        assert len(vectors) == len(ITEMS)
        for about in ITEMS.rows(named=True):
            found = example["item_vector"](tmp_path / "out", about["item_id"], about)
            wanted = vectors[ids.index_of(about["item_id"])]
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("history", ["recency", "comirec", "mind", "attention", "gru", "hstu"])
def test_what_stands_beside_a_query_changes_nothing_of_its_vector(
    split, tmp_path, example, history
):
    import onnxruntime

    model = untrained(split, history=history, **BARE)
    export_onnx(model, tmp_path / "out", "ab12")
    session = onnxruntime.InferenceSession(tmp_path / "out/query.onnx")
    lists = [[3, 1, 2], [], [5], [7, 7, 2, 4, 9]]
    rows = np.zeros((4, 6), dtype=np.int64)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items
    together = session.run(None, {"history": rows})[0]
    for vector, items in zip(together, lists, strict=True):
        alone = session.run(None, {"history": np.array([items or [0]])})[0][0]
        np.testing.assert_allclose(vector, alone, atol=1e-5, rtol=1e-5)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_process_without_this_package_answers_as_the_bundle(split, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = untrained(split, similarity="euclidean", **BARE)
    save(model, tmp_path / "bundle")
    assert not call(monkeypatch, "export", tmp_path / "bundle", "--onnx", tmp_path / "a/out")
    asked = {"history": ["i3", "nowhere", "i5"]}
    program = (
        "import runpy, sys; sys.modules['shortlist'] = None; "
        "runpy.run_path('answer.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, ".", json.dumps(asked)],
        cwd=tmp_path / "a/out",
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = model.recommend(Queries(histories=[asked["history"]]), 10)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*wanted.ids[0]]
    scores = [float(line.split()[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(scores, wanted.scores[0], atol=1e-3)
    shown = Path(__file__).parents[2] / "examples" / "answer_without_shortlist.py"
    assert (tmp_path / "a/out/answer.py").read_bytes() == shown.read_bytes()
    assert "`history`" in (tmp_path / "a/out/README.md").read_text()


def test_what_cannot_be_exported_is_refused_by_name_and_nothing_is_written(
    split, tmp_path, monkeypatch
):
    pytest.importorskip("onnx")

    class Mine(nn.Module):
        causal, segments = False, 1

    tower = untrained(split, **BARE)
    tower.towers.query.history = Mine()
    refused = {
        "Popular": Popular().fit(split),
        "ItemToItem": ItemToItem(dim=8, epochs=1, session_gap=86_400).fit(split),
        "the history tower Mine": tower,
    }
    for name, model in refused.items():
        with pytest.raises(QueryError, match=name):
            export_onnx(model, tmp_path / "out", "ab12")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(QueryError, match="needs the package onnx: pip install"):
        export_onnx(untrained(split, **BARE), tmp_path / "out", "ab12")
    assert list(tmp_path.iterdir()) == []


def test_times_with_fractions_are_refused_where_the_tower_reads_them(tmp_path):
    pytest.importorskip("onnx")
    log = pl.DataFrame(
        {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3] * 2, "time": [0.5, 1, 2, 3, 4, 5]}
    )
    schema = Schema(time="time", time_unit="s")
    model = untrained(Dataset.load(log, schema=schema).split(), request_time=True)
    with pytest.raises(QueryError, match="times with fractions"):
        export_onnx(model, tmp_path / "out", "ab12")


def test_what_is_there_already_stays_and_a_failed_export_leaves_nothing(
    split, tmp_path, monkeypatch
):
    pytest.importorskip("onnx")
    model = untrained(split, **BARE)
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="exists already: give another path"):
        export_onnx(model, tmp_path / "mine", "ab12")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        export_onnx(model, tmp_path / "new/out", "ab12")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
