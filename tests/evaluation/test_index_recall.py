"""Recall and cost of an index: by hand, and on small worlds where the cheapest is known."""

import re

import pytest
import torch

from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.index_recall import (
    IndexTrial,
    Measured,
    Tuning,
    measure_index,
    plot_tunings,
    recall_of,
    tune_index,
)
from shortlist.index import ExactIndex, FaissHNSW, Hits


def world(items=2_000, users=40, width=16):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.arange(items),
        torch.randn(items, width, generator=generator),
        torch.randn(users, width, generator=generator),
    )


def test_recall_counts_true_items_and_takes_a_tie_with_the_last_for_one():
    truth = Hits(torch.tensor([[1, 2], [3, -1]]), torch.tensor([[5.0, 4.0], [2.0, -torch.inf]]))
    found = Hits(torch.tensor([[1, 9], [8, -1]]), torch.tensor([[5.0, 4.0], [1.0, -torch.inf]]))
    assert recall_of(truth, truth) == 1
    assert recall_of(found, truth) == pytest.approx(2 / 3)  # 9 scores as 2 does; 8 is no match.
    nothing = Hits(torch.full((1, 2), -1), torch.full((1, 2), -torch.inf))
    assert recall_of(nothing, nothing) == 1


def test_an_exact_index_measures_as_one_with_and_without_lists():
    ids, vectors, queries = world()
    exact = ExactIndex("dot").build(ids, vectors)
    lists = (torch.arange(80), torch.arange(41) * 2)
    for exclude in (None, lists):
        measured = measure_index(exact, exact, queries, 10, exclude=exclude)
        assert measured.recall == 1
        assert measured.single_us > 0
        assert measured.batched_us > 0


def test_a_narrower_beam_finds_less():
    ids, vectors, queries = world()
    exact = ExactIndex("cosine").build(ids, vectors)
    index = FaissHNSW("cosine", m=4, ef_construction=16, ef_search=4).build(ids, vectors)
    narrow = measure_index(index, exact, queries, 10).recall
    assert 0.2 < narrow < measure_index(index.adjust(ef_search=500), exact, queries, 10).recall


def test_tuning_stops_each_build_at_the_target_and_takes_the_cheapest():
    ids, vectors, queries = world()
    seen = []
    limits = {"m": (4, 8), "ef_search": (4, 32, 128, 2_000)}
    tuning = tune_index(
        "faiss-hnsw", ids, vectors, None, "cosine", queries, 10, 0.9, limits, progress=seen.append
    )
    assert seen == tuning.trials
    for m in (4, 8):
        recalls = [t.measured.recall for t in tuning.trials if t.settings["m"] == m]
        assert recalls[-1] >= 0.9
        assert all(recall < 0.9 for recall in recalls[:-1])
    enough = [trial for trial in tuning.trials if trial.measured.recall >= 0.9]
    assert tuning.chosen == min(enough, key=lambda trial: trial.measured.single_us)
    assert tuning.index.settings().items() >= tuning.chosen.settings.items()
    truth = ExactIndex("cosine").build(ids, vectors).search(queries, 10)
    found = recall_of(tuning.index.search(queries, 10), truth)
    assert found == tuning.chosen.measured.recall


def test_a_target_out_of_reach_chooses_nothing():
    ids, vectors, queries = world()
    limits = {"quantizer": ("sq8", "flat"), "nprobe": (1,)}
    tuning = tune_index("faiss-ivf", ids, vectors, None, "dot", queries, 1, 1.0, limits)
    assert (tuning.chosen, tuning.index) == (None, None)
    assert len(tuning.trials) == 2


def test_the_exact_index_is_a_table_of_one():
    ids, vectors, queries = world(items=100)
    tuning = tune_index("exact", ids, vectors, None, "dot", queries, 10, 1.0)
    assert [trial.settings for trial in tuning.trials] == [{}]
    assert tuning.chosen is tuning.trials[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "faiss-hsnw"}, "Did you mean 'faiss-hnsw'"),
        ({"target_recall": 0}, "target_recall must be above 0"),
        ({"target_recall": 99}, "target_recall must be above 0"),
        ({"limits": {"beam": (3,)}}, "no setting 'beam'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options, message):
    ids, vectors, queries = world(items=100)
    arguments = {"kind": "faiss-hnsw", "target_recall": 0.9} | options
    with pytest.raises(ModelError, match=message):
        tune_index(
            ids=ids, vectors=vectors, tie_keys=None, similarity="dot", queries=queries, k=5,
            **arguments,
        )  # fmt: skip


@pytest.mark.parametrize(("k", "users"), [(0, 5), (3, 0)])
def test_measuring_needs_queries_and_a_depth(k, users):
    ids, vectors, queries = world(items=100)
    exact = ExactIndex("dot").build(ids, vectors)
    with pytest.raises(QueryError, match="measuring needs"):
        measure_index(exact, exact, queries[:users], k)


def test_the_picture_is_a_file_of_the_kind_its_name_says(tmp_path):
    pytest.importorskip("matplotlib")
    ids, vectors, queries = world(items=500)
    limits = {"m": (4,), "ef_search": (4, 64)}
    tuning = tune_index("faiss-hnsw", ids, vectors, None, "dot", queries, 10, 0.99, limits)
    plot_tunings([tuning], tmp_path / "recall.svg")
    drawn = (tmp_path / "recall.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "recall@10" in drawn or '<g id="axes_1">' in drawn


@pytest.mark.parametrize("times", [(46.69, 47.83), (12.0, 95.0), (20.0, 9_000.0), (50.0, 50.0)])
def test_times_are_written_as_plain_numbers_and_no_recall_stands_above_one(times, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    trials = [
        IndexTrial("faiss-hnsw", {"m": 4, "ef_search": 8}, 0.1, Measured(recall, time, time))
        for recall, time in zip((1.0, 0.98), times, strict=True)
    ]
    tuning = Tuning(10, 0.99, trials, trials[0], None)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # so that the file has its text as text
        plot_tunings([tuning], tmp_path / "recall.svg")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "recall.svg").read_text())
    ticks = [float(word) for word in words if re.fullmatch(r"[0-9.]+", word)]
    assert "µs a query" in words
    assert not [word for word in words if "10^" in word or "mathdefault" in word]
    across, up = [tick for tick in ticks if tick <= 1], [tick for tick in ticks if tick > 1]
    assert len(across) >= 3
    assert 2 <= len(up) <= 12
    assert up == sorted(set(up))
