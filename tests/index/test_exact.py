"""ExactIndex: what only the exact index promises, and the inputs it must refuse."""

import numpy as np
import pytest
import torch

from shortlist.bundle.formats import dump_tensors, map_tensors
from shortlist.errors import DataError, ModelError, QueryError
from shortlist.index import ExactIndex, exact
from shortlist.index.base import hashed
from shortlist.similarity import SIMILARITIES, normalize

INF, NAN = float("inf"), float("nan")


def world(items=300, users=20, width=8, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randperm(5 * items, generator=generator)[:items],
        torch.randn(items, width, generator=generator),
        torch.randn(users, width, generator=generator),
    )


@pytest.mark.parametrize(
    ("similarity", "by_hand"),
    [("dot", [8.0, 6.0, -1.0]), ("cosine", [1.0, 0.6, -1.0]), ("euclidean", [-4.0, -9.0, -53.0])],
)
def test_scores_are_worked_by_hand_and_fall(similarity, by_hand):
    vectors = {  # Distances to the query (2, 0) are 2, 3 and the root of 53.
        "dot": [[4.0, 0.0], [3.0, 4.0], [-0.5, 0.0]],
        "cosine": [[4.0, 0.0], [3.0, 4.0], [-0.5, 0.0]],
        "euclidean": [[4.0, 0.0], [2.0, 3.0], [0.0, 7.0]],
    }[similarity]
    index = ExactIndex(similarity).build(torch.tensor([5, 6, 7]), torch.tensor(vectors))
    hits = index.search(torch.tensor([[2.0, 0.0]]), k=3)
    assert hits.ids.tolist() == [[5, 6, 7]]
    torch.testing.assert_close(hits.scores, torch.tensor([by_hand]))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("items", [7, 1000, 5003])
def test_equal_vectors_score_equal_wherever_they_stand(similarity, items):
    ids = torch.arange(items)
    vectors = torch.randn(50, generator=torch.Generator().manual_seed(1)).expand(items, 50)
    keys = torch.randperm(items, generator=torch.Generator().manual_seed(2))
    queries = torch.randn(30, 50, generator=torch.Generator().manual_seed(3))
    hits = ExactIndex(similarity).build(ids, vectors.contiguous(), keys).search(queries, k=7)
    assert (hits.scores == hits.scores[:, :1]).all()
    assert torch.equal(hits.ids, keys.argsort()[:7].expand(30, 7))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_answer_does_not_depend_on_the_other_queries_of_the_batch(similarity):
    ids, vectors, queries = world(items=1001, users=50, width=50)
    index = ExactIndex(similarity).build(ids, vectors)
    together = index.search(queries, k=1001)
    for size in (1, 3, 17):
        alone = index.search(queries[:size], k=1001)
        assert torch.equal(alone.ids, together.ids[:size])
        assert torch.equal(alone.scores, together.scores[:size])


@pytest.mark.parametrize("columns", [128, 384])  # The last tile of 1024 is whole, or short.
def test_tiles_of_columns_and_blocks_of_queries_do_not_change_the_answer(monkeypatch, columns):
    ids, vectors, queries = world(items=1000, users=50)
    vectors = vectors.round()  # Many equal scores, within tiles and across them.
    exclude = (ids[:500], torch.arange(51) * 10)
    allow = torch.rand(5000, generator=torch.Generator().manual_seed(1)) < 0.6
    index = ExactIndex("dot").build(ids, vectors)
    whole = index.search(queries.round(), k=60, exclude=exclude, allow=allow)
    monkeypatch.setattr(exact, "TILE", 1500)
    monkeypatch.setattr(exact, "TILE_COLUMNS", columns)
    tiled = index.search(queries.round(), k=60, exclude=exclude, allow=allow)
    assert torch.equal(whole.ids, tiled.ids)
    assert torch.equal(whole.scores, tiled.scores)


def test_a_constant_scorer_recommends_every_item_alike_over_hash_seeds():
    items, k = 200, 10
    shown = np.zeros(items)
    for seed in range(400):
        keys = torch.from_numpy(np.random.default_rng(seed).integers(2**62, size=items))
        index = ExactIndex("dot").build(torch.arange(items), torch.ones(items, 2), keys)
        shown[index.search(torch.ones(1, 2), k).ids.numpy()[0]] += 1
    # 20 of 400 expected for each item, with a deviation of 4.4: none is favoured for its place.
    assert shown.sum() == 400 * k
    assert shown.min() > 3
    assert shown.max() < 40


def test_without_tie_keys_neither_place_nor_id_orders_equal_scores():
    ids = torch.arange(100)
    forward = ExactIndex("dot").build(ids, torch.ones(100, 2)).search(torch.ones(1, 2), 100)
    backward = (
        ExactIndex("dot").build(ids.flip(0), torch.ones(100, 2)).search(torch.ones(1, 2), 100)
    )
    assert torch.equal(forward.ids, backward.ids)
    correlation = np.corrcoef(forward.ids[0].numpy(), np.arange(100))[0, 1]
    assert abs(correlation) < 0.3


def test_the_hash_of_ids_is_splitmix64():
    # The first two outputs of the published generator seeded with 0; the second from its stride.
    stride = 0x9E3779B97F4A7C15 - 2**64
    got = hashed(torch.tensor([0, stride])).tolist()
    assert [value % 2**64 for value in got] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_an_item_of_ten_times_the_length_moves_under_dot_and_not_under_cosine():
    ids, vectors, queries = world()
    longer = vectors.clone()
    longer[0] *= 10
    for similarity, moves in (("dot", True), ("cosine", False)):
        before = ExactIndex(similarity).build(ids, vectors).search(queries, 300).ids
        after = ExactIndex(similarity).build(ids, longer).search(queries, 300).ids
        assert torch.equal(before, after) is not moves


def test_memory_of_a_search_does_not_hold_all_scores(monkeypatch):
    ids, vectors, queries = world(items=1000, users=400)
    largest = 0

    def watched(queries, items, similarity):
        nonlocal largest
        scores = score(queries, items, similarity)
        largest = max(largest, scores.numel())
        return scores

    score = exact.score
    monkeypatch.setattr(exact, "score", watched)
    monkeypatch.setattr(exact, "TILE", 20_000)
    ExactIndex("dot").build(ids, vectors).search(queries, k=5)
    assert 0 < largest <= 24_000  # 1024 padded columns x 16 queries; never 400 x 1000.


def broken(vectors, row, value):
    vectors = vectors.clone()
    vectors[row, 0] = value
    return vectors


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_vector_that_is_not_finite_is_refused_by_id(value):
    ids, vectors, _ = world()
    with pytest.raises(ModelError, match=f"item {ids[17]} is not finite"):
        ExactIndex("dot").build(ids, broken(vectors, 17, value))


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_a_vector_without_a_cosine_is_refused_by_id(length):
    ids, vectors, _ = world()
    vectors[17] *= length
    with pytest.raises(ModelError, match=f"item {ids[17]} has no cosine"):
        ExactIndex("cosine").build(ids, vectors)


@pytest.mark.parametrize(
    ("ids", "vectors", "keys", "error", "message"),
    [
        ([], torch.ones(0, 2), None, DataError, "at least one item"),
        ([1, 2, 1], torch.ones(3, 2), None, DataError, "item 1 would be in the index twice"),
        ([1, -2], torch.ones(2, 2), None, DataError, "ids must be >= 0, got -2"),
        ([1, 2], torch.ones(3, 2), None, DataError, "ids must be int64"),
        ([1, 2], torch.ones(2, 2), [1], DataError, "tie_keys must be int64"),
        ([1, 2], torch.ones(2), None, ModelError, r"vectors must be float32 \[N, D\]"),
        ([1, 2], torch.ones(2, 0), None, ModelError, r"vectors must be float32 \[N, D\]"),
        ([1, 2], torch.ones(2, 2).double(), None, ModelError, "got torch.float64"),
    ],
)
def test_items_that_no_index_can_hold_are_refused(ids, vectors, keys, error, message):
    keys = None if keys is None else torch.tensor(keys)
    with pytest.raises(error, match=message):
        ExactIndex("dot").build(torch.tensor(ids, dtype=torch.int64), vectors, keys)


def test_float_ids_are_refused():
    with pytest.raises(DataError, match="ids must be int64"):
        ExactIndex("dot").build(torch.tensor([1.0]), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (torch.tensor([[0.0, 0.0], [0.0, NAN]]), {}, "query 1 is not finite"),
        (torch.tensor([[[0.0, 0.0], [INF, 0.0]]]), {}, "query 0 is not finite"),
        (torch.ones(2, 3), {}, r"queries must be \[B, 2\]"),
        (torch.ones(2), {}, r"queries must be \[B, 2\]"),
        (torch.ones(2, 0, 2), {}, r"queries must be \[B, 2\]"),
        (torch.ones(2, 2).double(), {}, "queries must be float32"),
        (torch.full((1, 2), 1e25), {}, "overflow"),
        (torch.ones(2, 2), {"k": -1}, "k must be >= 0, got -1"),
        (
            torch.ones(2, 2),
            {"allow": torch.ones(9, dtype=torch.bool)},
            r"allow must be bool \[10\]",
        ),
        (torch.ones(2, 2), {"allow": torch.ones(10)}, r"allow must be bool \[10\]"),
        (torch.ones(2, 2), {"exclude": ([1, 2], [0, 2])}, "offsets of exclude"),
        (torch.ones(2, 2), {"exclude": ([1, 2], [0, 1, 1])}, "offsets of exclude"),
        (torch.ones(2, 2), {"exclude": ([1, 2], [1, 1, 2])}, "offsets of exclude"),
        (torch.ones(2, 2), {"exclude": ([1, 2], [0, 3, 2])}, "offsets of exclude"),
        (torch.ones(2, 2), {"exclude": ([], [])}, "offsets of exclude"),
    ],
)
def test_queries_without_an_answer_are_refused(queries, options, message):
    index = ExactIndex("dot").build(torch.tensor([1, 9]), torch.ones(2, 2))
    if "exclude" in options:
        lists = (torch.tensor(part, dtype=torch.int64) for part in options["exclude"])
        options = {"exclude": tuple(lists)}
    with pytest.raises(QueryError, match=message):
        index.search(queries, **({"k": 1} | options))


def test_scores_that_would_overflow_are_refused_not_lost_as_excluded():
    index = ExactIndex("euclidean").build(torch.tensor([1, 2]), torch.full((2, 2), 1e20))
    with pytest.raises(QueryError, match="overflow"):
        index.search(torch.ones(1, 2), k=1)


def test_an_index_that_was_never_built_says_so():
    with pytest.raises(QueryError, match="build it first"):
        ExactIndex("dot").search(torch.ones(1, 2), k=1)


def test_normalised_state_is_needed_for_cosine():
    state = ExactIndex("dot").build(torch.tensor([4]), torch.full((1, 2), 3.0)).state()
    with pytest.raises(ModelError, match="item 4 has no cosine"):
        ExactIndex.from_state("cosine", state)


@pytest.mark.parametrize("items", [1, 63, 64, 200])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_index_in_a_mapped_file_answers_from_the_file_and_bit_for_bit(
    tmp_path, items, similarity
):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(items, 8, generator=generator)
    queries = torch.randn(9, 8, generator=generator)
    index = ExactIndex(similarity).build(torch.randperm(items), vectors)
    path = tmp_path / "index.safetensors"
    path.write_bytes(dump_tensors(index.state()))
    mapped = map_tensors(path)
    again = ExactIndex.from_state(similarity, mapped)
    assert again.items.vectors.data_ptr() == mapped["vectors"].data_ptr()
    for ours, theirs in zip(again.search(queries, 5), index.search(queries, 5), strict=True):
        assert torch.equal(ours, theirs)
    path.write_bytes(dump_tensors(again.remove(again.items.ids[:1]).state()))  # and it can change


def test_vectors_that_are_not_as_a_search_wants_them_are_copied_and_answer_alike():
    ids, vectors, queries = world()
    index = ExactIndex("dot").build(ids, vectors)
    state = index.state()
    padded = state["vectors"]
    turned = torch.randperm(len(ids))
    crooked = torch.empty(padded.numel() + 1)[1:].view_as(padded).copy_(padded)
    for other in (
        {**state, "vectors": padded[: len(ids)]},
        {**state, "vectors": crooked},
        {name: part[: len(ids)][turned] for name, part in state.items()},
    ):
        again = ExactIndex.from_state("dot", other)
        for ours, theirs in zip(again.search(queries, 7), index.search(queries, 7), strict=True):
            assert torch.equal(ours, theirs)


def test_vectors_of_no_item_in_the_state_are_refused():
    state = ExactIndex("dot").build(torch.tensor([4]), torch.ones(1, 2)).state()
    state["vectors"] = state["vectors"].clone()
    state["vectors"][5] = 1.0
    with pytest.raises(ModelError, match="64 vectors of 1 items"):
        ExactIndex.from_state("dot", state)


def test_state_with_other_parts_is_refused():
    with pytest.raises(ModelError, match="tie_keys"):
        ExactIndex.from_state("dot", {"ids": torch.tensor([1])})


def test_a_failed_change_leaves_the_index_as_it_was():
    ids, vectors, queries = world()
    index = ExactIndex("dot").build(ids, vectors)
    before = index.search(queries, 5)
    with pytest.raises(DataError):
        index.add(ids[:1], vectors[:1])
    with pytest.raises(ModelError):
        index.add(torch.tensor([10_000]), torch.ones(1, 3))
    with pytest.raises(DataError, match="item 10001 is not in the index"):
        index.remove(torch.tensor([int(ids[0]), 10_001]))
    assert torch.equal(index.search(queries, 5).ids, before.ids)


def test_vectors_copied_block_by_block_are_those_copied_at_once_and_a_refused_build_changes_nothing(
    monkeypatch,
):
    ids, vectors, queries = world()
    monkeypatch.setattr(exact, "BLOCK", 7)
    index = ExactIndex("cosine").build(ids, vectors)
    columns, _ = index.columns_of(ids)
    assert torch.equal(index.items.vectors[columns], normalize(vectors))
    before = index.search(queries, 5)
    bad = vectors[:100].clone()
    bad[9] = 0
    with pytest.raises(ModelError, match=f"the vector of item {ids[9]} has no cosine"):
        index.build(ids[:100], bad)
    after = index.search(queries, 5)
    assert torch.equal(after.ids, before.ids)
    assert torch.equal(after.scores, before.scores)
