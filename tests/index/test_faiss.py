"""The indexes on FAISS: when the library is asked, when a scan answers, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shortlist.errors import DataError, ModelError, QueryError
from shortlist.index import ExactIndex, FaissFlat, FaissHNSW, FaissIVF, faiss
from shortlist.similarity import SIMILARITIES

APPROXIMATE = [FaissHNSW, FaissIVF]


def world(items=2_000, users=30, width=16, seed=3):
    generator = torch.Generator().manual_seed(seed)
    spectrum = 1 / torch.arange(1, width + 1).sqrt()
    return (
        torch.randperm(5 * items, generator=generator)[:items],
        torch.randn(items, width, generator=generator) * spectrum,
        torch.randn(users, width, generator=generator) * spectrum,
    )


def recall(hits, truth):
    pairs = zip(hits.ids.tolist(), truth.ids.tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / truth.ids.numel()


def watched(index, monkeypatch):
    """A list that grows with each call of the library."""
    calls, find = [], index._find
    monkeypatch.setattr(index, "_find", lambda *args: calls.append(args) or find(*args))
    return calls


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_library_answers_where_most_is_allowed_and_a_scan_where_little_is(kind, monkeypatch):
    ids, vectors, queries = world(items=20_000)
    index = kind("cosine", **({"m": 4, "ef_construction": 16} if kind is FaissHNSW else {}))
    calls = watched(index.build(ids, vectors), monkeypatch)
    random = torch.rand(100_000, generator=torch.Generator().manual_seed(1))
    for share, asked in ((0.95, 1), (0.02, 0), (0.0, 0)):
        calls.clear()
        index.search(queries, 10, allow=random < share)
        assert len(calls) == asked
    index.search(queries, 10)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_queries_for_which_the_library_comes_back_short_are_scanned(kind, similarity, monkeypatch):
    ids, vectors, queries = world(items=500)
    index, exact = kind(similarity).build(ids, vectors), ExactIndex(similarity).build(ids, vectors)
    find = index._find

    def short(points, fetch, kept):
        slots = find(points, fetch, kept)
        slots[::2, 7:] = -1
        return slots

    monkeypatch.setattr(index, "_find", short)
    lists = (ids[:60], torch.arange(31) * 2)
    for filters in ({}, {"exclude": lists}):
        hits, truth = index.search(queries, 10, **filters), exact.search(queries, 10, **filters)
        assert torch.equal(hits.ids[::2], truth.ids[::2])
        torch.testing.assert_close(hits.scores[::2], truth.scores[::2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    ("kind", "quantizer"),
    [(FaissHNSW, name) for name in ("flat", "fp16", "sq8")]
    + [(FaissIVF, name) for name in ("flat", "fp16", "sq8", "pq")],
)
def test_every_quantizer_finds_most_and_scores_as_in_training(kind, quantizer, similarity):
    ids, vectors, queries = world()
    index = kind(similarity, quantizer=quantizer).build(ids, vectors)
    hits = index.search(queries, 20)
    truth = ExactIndex(similarity).build(ids, vectors).search(queries, 2_000)
    assert recall(hits, truth._replace(ids=truth.ids[:, :20])) >= 0.95
    for row in range(30):
        scores = dict(zip(truth.ids[row].tolist(), truth.scores[row].tolist(), strict=True))
        expected = [scores[item] for item in hits.ids[row].tolist()]
        assert hits.scores[row].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("part", ["ids", "vectors", "slots", "library", "settings", "checksum"])
@pytest.mark.parametrize("kind", [*APPROXIMATE, FaissFlat])
def test_a_state_with_one_bit_changed_or_one_byte_less_is_refused(kind, part):
    ids, vectors, _ = world(items=200)
    state = kind("dot").build(ids, vectors).state()
    for change in ("flip", "cut"):
        damaged = {name: value.clone() for name, value in state.items()}
        raw = damaged[part].reshape(-1).view(torch.uint8)
        if change == "cut" or not len(raw):
            damaged[part] = damaged[part][:-1] if len(raw) else torch.ones(1, dtype=torch.uint8)
        else:
            raw[len(raw) // 2] ^= 4
        with pytest.raises(ModelError, match="damaged"):
            kind.from_state("dot", damaged)


def test_a_state_without_a_part_or_of_another_similarity_is_refused():
    ids, vectors, _ = world(items=200)
    state = FaissHNSW("dot").build(ids, vectors).state()
    with pytest.raises(ModelError, match="the state of an index is"):
        FaissHNSW.from_state("dot", {n: part for n, part in state.items() if n != "slots"})
    with pytest.raises(ModelError, match="another FAISS index"):
        FaissHNSW.from_state("euclidean", state)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_settings_come_back_with_the_state(kind):
    ids, vectors, _ = world(items=200)
    settings = {"quantizer": "fp16", "refine": 3.5}
    index = kind.from_state("dot", kind("dot", **settings).build(ids, vectors).state())
    assert settings.items() <= index.settings().items()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_removed_items_keep_their_slots_until_a_quarter_is_gone(kind):
    ids, vectors, _ = world(items=400)
    index = kind("cosine").build(ids, vectors)
    assert len(index.remove(ids[:100])._slots) == 400
    assert len(index.remove(ids[100:101])._slots) == 299
    again = kind.from_state("cosine", index.remove(ids[101:150]).state())
    assert torch.equal(again.search(vectors[:9], 50).ids, index.search(vectors[:9], 50).ids)


def test_lists_are_made_anew_once_the_index_has_outgrown_them():
    ids, vectors, _ = world(items=1_000)
    index = FaissIVF("cosine").build(ids[:400], vectors[:400])
    before = index._library.nlist
    assert index.add(ids[400:800], vectors[400:800])._library.nlist == before
    assert index.add(ids[800:], vectors[800:])._library.nlist > before


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_item_longer_than_all_before_is_found_under_dot(kind):
    ids, vectors, queries = world(items=500)
    index = kind("dot").build(ids, vectors)
    index.add(torch.tensor([9_999]), 4 * queries[:1])
    assert index.search(queries[:1], 1).ids.item() == 9_999


@pytest.mark.parametrize("kind", [*APPROXIMATE, FaissFlat])
def test_what_no_index_can_hold_or_answer_is_refused_and_changes_nothing(kind):
    ids, vectors, queries = world(items=200)
    with pytest.raises(QueryError, match="build it first"):
        kind("cosine").search(queries, 3)
    index = kind("cosine").build(ids, vectors)
    before = index.search(queries, 5)
    bad = vectors.clone()
    bad[17] = 0
    with pytest.raises(ModelError, match="has no cosine"):
        index.build(ids, bad)
    with pytest.raises(DataError, match="twice"):
        index.add(ids[:1], vectors[:1])
    with pytest.raises(ModelError, match="width 16, got 3"):
        index.add(torch.tensor([100_000]), torch.ones(1, 3))
    with pytest.raises(DataError, match="not in the index"):
        index.remove(torch.tensor([int(ids[0]), 100_000]))
    with pytest.raises(QueryError, match="query 1 is not finite"):
        index.search(torch.tensor([[1.0] * 16, [float("nan")] * 16]), 3)
    with pytest.raises(QueryError, match=r"queries must be \[B, 16\]"):
        index.search(torch.ones(2, 3), 3)
    with pytest.raises(QueryError, match="float32"):
        index.search(torch.ones(2, 16).double(), 3)
    with pytest.raises(QueryError, match="k must be >= 0"):
        index.search(queries, -1)
    with pytest.raises(QueryError, match="overflow"):
        index.search(torch.full((1, 16), 1e25), 3)
    with pytest.raises(QueryError, match="allow must be bool"):
        index.search(queries, 3, allow=torch.ones(10, dtype=torch.bool))
    with pytest.raises(QueryError, match="offsets of exclude"):
        index.search(queries, 3, exclude=(ids[:2], torch.tensor([0, 2])))
    assert torch.equal(index.search(queries, 5).ids, before.ids)


@pytest.mark.parametrize("kind", [*APPROXIMATE, FaissFlat])
def test_very_short_queries_and_queries_with_gradients_are_answered(kind):
    ids, vectors, queries = world(items=200)
    index = kind("cosine").build(ids, vectors)
    plain = index.search(queries, 1)
    for other in (queries * 1e-17, queries.clone().requires_grad_()):
        assert torch.equal(index.search(other, 1).ids, plain.ids)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FaissHNSW, {"m": 1}, "m must be >= 2, got 1"),
        (FaissHNSW, {"m": 16.0}, "m must be a whole number"),
        (FaissHNSW, {"ef_search": 0}, "ef_search must be >= 1, got 0"),
        (FaissHNSW, {"ef_construction": True}, "ef_construction must be a whole number"),
        (FaissHNSW, {"quantizer": "pq"}, "quantizer cannot be 'pq'"),
        (FaissHNSW, {"refine": 0.5}, "refine must be >= 1, got 0.5"),
        (FaissIVF, {"nlist": 0}, "nlist must be >= 1"),
        (FaissIVF, {"nprobe": -1}, "nprobe must be >= 1, got -1"),
        (FaissIVF, {"quantizer": "sq4"}, "quantizer cannot be 'sq4'"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ModelError, match=message):
        kind("dot", **settings)


def test_only_settings_of_the_search_can_be_changed_later():
    index = FaissHNSW("dot")
    assert index.adjust(ef_search=33, refine=2).settings()["ef_search"] == 33
    with pytest.raises(ModelError, match="'m' cannot be changed now"):
        index.adjust(m=8)
    with pytest.raises(ModelError, match="ef_search must be"):
        index.adjust(ef_search=-3)


@pytest.mark.parametrize("kind", [FaissHNSW, FaissIVF])
def test_the_default_finds_the_best_under_dot_where_lengths_differ(kind):
    random = torch.Generator().manual_seed(0)
    spectrum = 1 / torch.arange(1, 65).sqrt()
    offset = 0.5 * torch.randn(64, generator=random) * spectrum
    items = torch.randn(4_000, 64, generator=random) * spectrum + offset
    items *= (0.4 * torch.randn(4_000, 1, generator=random)).exp()
    queries = torch.randn(100, 64, generator=random) * spectrum + offset
    truth = ExactIndex("dot").build(torch.arange(4_000), items).search(queries, 100)
    index = kind("dot").build(torch.arange(4_000), items)
    assert recall(index.search(queries, 100), truth) >= 0.95


def test_the_graph_itself_finds_the_highest_dot_products_of_learned_vectors(monkeypatch):
    """By default a scan answers for so few items: here it may not, and the graph has to."""
    monkeypatch.setattr(faiss, "SCANNED_PER_STEP_FOR_DOT", 0)
    generator = torch.Generator().manual_seed(9)
    items, users, width = 6_000, 40, 16
    spectrum = 1 / torch.arange(1, width + 1).sqrt()
    offset = 0.5 * torch.randn(width, generator=generator) * spectrum
    vectors = torch.randn(items, width, generator=generator) * spectrum + offset
    vectors *= (0.4 * torch.randn(items, 1, generator=generator)).exp()
    queries = torch.randn(users, width, generator=generator) * spectrum + offset
    index = FaissHNSW("dot").build(torch.arange(items), vectors)
    calls = watched(index, monkeypatch)
    monkeypatch.setattr(index, "_scan", None)
    truth = ExactIndex("dot").build(torch.arange(items), vectors)
    for k in (10, 100):
        assert recall(index.search(queries, k), truth.search(queries, k)) >= 0.95
    assert len(calls) == 2


def shards_of(index, vectors, bounds):
    """Fill the trained, empty lists of an index from each part of the vectors."""
    empty = index._trained(vectors)
    shards = [faiss.faiss.clone_index(empty) for _ in bounds[1:]]
    for shard, (low, high) in zip(shards, pairwise(bounds), strict=True):
        index._fill(shard, vectors[low:high])
    return shards


@settings(max_examples=8)
@example(cuts=[0, 0, *range(301)], similarity="dot", quantizer="sq8")
@given(
    cuts=st.lists(st.integers(0, 300), max_size=9).map(sorted),
    similarity=st.sampled_from(SIMILARITIES),
    quantizer=st.sampled_from(["flat", "sq8", "pq"]),
)
def test_shards_of_one_trained_quantiser_merge_into_the_index_that_was_filled_at_once(
    cuts, similarity, quantizer
):
    """Whatever the parts: more of them than vectors, and empty ones, too."""
    ids, vectors, queries = world(items=300, users=8)
    index = FaissIVF(similarity, quantizer=quantizer, nlist=6, nprobe=2, refine=4)
    index.build(ids, vectors)
    whole = index.search(queries, 12)
    first, *rest = shards_of(index, index._exact.items.vectors.numpy(), [0, *cuts, 300])
    for shard in rest:
        first.merge_from(shard, first.ntotal)
    merged = FaissIVF.from_state(similarity, index.state())
    merged._library = first
    answer = merged.search(queries, 12)
    assert not merged._prefers_scan(merged._fetch(12), None)  # The lists answered.
    assert torch.equal(answer.ids, whole.ids)
    assert torch.equal(answer.scores, whole.scores)


def test_lists_filled_block_by_block_are_those_filled_at_once(monkeypatch):
    ids, vectors, _ = world(items=3_000)
    dumps = []
    for block in (512, 3_000):
        monkeypatch.setattr(faiss, "BLOCK", block)
        dumps.append(FaissIVF("dot").build(ids, vectors)._dump())
    assert np.array_equal(*dumps)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_lists_learned_from_a_sample_find_what_lists_learned_from_all_do(similarity, monkeypatch):
    ids, vectors, queries = world(items=6_000)
    truth = ExactIndex(similarity).build(ids, vectors).search(queries, 20)
    monkeypatch.setattr(faiss, "FEWEST_TRAINED", 1_000)
    monkeypatch.setattr(faiss, "MOST_PER_LIST", 40)
    monkeypatch.setattr(faiss, "BLOCK", 300)
    index = FaissIVF(similarity, nlist=50)
    placed = watched_placing(index, monkeypatch)
    index.build(ids, vectors)
    assert recall(index.search(queries, 20), truth) >= 0.95
    assert max(placed) <= 300, "what is placed is a copy"


def watched_placing(index, monkeypatch):
    """A list of how many vectors each call places."""
    counts, place = [], index._placed
    monkeypatch.setattr(index, "_placed", lambda some: counts.append(len(some)) or place(some))
    return counts
