"""What every index keeps: run over the table INDEXES, against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.errors import ShortlistError
from shortlist.index import INDEXES
from shortlist.similarity import SIMILARITIES, score

ITEMS, WIDTH = 200, 8


def world(seed=5, users=12):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randperm(3 * ITEMS, generator=generator)[:ITEMS],
        torch.randn(ITEMS, WIDTH, generator=generator),
        torch.randn(users, WIDTH, generator=generator),
    )


def brute_force(ids, vectors, queries, k, similarity, *, excluded=None, allow=None):
    """Lists of (id, score) of all matching items, best first, and k: by the definition."""
    answers = []
    for row, scores in enumerate(score(queries, vectors, similarity).tolist()):
        matching = [
            (item, value)
            for item, value in zip(ids.tolist(), scores, strict=True)
            if (excluded is None or item not in excluded[row]) and (allow is None or allow[item])
        ]
        answers.append(sorted(matching, key=lambda pair: -pair[1]))
    return answers, k


def flat(lists):
    values = torch.tensor([item for line in lists for item in line], dtype=torch.int64)
    lengths = torch.tensor([0] + [len(line) for line in lists])
    return values, lengths.cumsum(0)


def assert_answers(hits, expected, exact):
    """Each list as expected and -1 / -inf after it; only an exact index must find every item.

    Scores that differ by less than float32 rounding may stand in either order.
    """
    everything, k = expected
    for row, matching in enumerate(everything):
        answer, by_item = matching[:k], dict(matching)
        ids, scores = hits.ids[row].tolist(), hits.scores[row].tolist()
        found = [item for item in ids if item >= 0]
        assert ids == found + [-1] * (len(ids) - len(found))
        assert scores[len(found) :] == [float("-inf")] * (len(ids) - len(found))
        assert scores == sorted(scores, reverse=True)
        assert len(set(found)) == len(found) == len(answer)
        if exact:
            assert scores[: len(found)] == pytest.approx([value for _, value in answer], abs=1e-5)
            assert [by_item[item] for item in found] == pytest.approx(
                scores[: len(found)], abs=1e-5
            )


@pytest.fixture(params=INDEXES)
def kind(request):
    return INDEXES[request.param]


@pytest.fixture(params=SIMILARITIES)
def similarity(request):
    return request.param


def test_the_best_items_come_first_with_the_training_scores(kind, similarity):
    ids, vectors, queries = world()
    hits = kind(similarity).build(ids, vectors).search(queries, k=20)
    assert (hits.ids.dtype, hits.scores.dtype) == (torch.int64, torch.float32)
    assert hits.ids.shape == hits.scores.shape == (12, 20)
    assert_answers(hits, brute_force(ids, vectors, queries, 20, similarity), kind.is_exact)


def test_an_item_is_the_nearest_to_itself(kind):
    ids, vectors, _ = world()
    for similarity in ("cosine", "euclidean"):
        hits = kind(similarity).build(ids, vectors).search(vectors, k=1)
        assert torch.equal(hits.ids[:, 0], ids)


def test_the_best_of_several_interests_counts(kind, similarity):
    ids, vectors, _ = world()
    interests = torch.randn(6, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    hits = kind(similarity).build(ids, vectors).search(interests, k=15)
    assert_answers(hits, brute_force(ids, vectors, interests, 15, similarity), kind.is_exact)


def test_excluded_items_are_replaced_by_the_next_best(kind, similarity):
    ids, vectors, queries = world()
    index = kind(similarity).build(ids, vectors)
    best = index.search(queries, k=10).ids.tolist()
    unknown = 999_999
    lists = [[*line[: row % 11], unknown] for row, line in enumerate(best)]
    hits = index.search(queries, k=10, exclude=flat(lists))
    expected = brute_force(ids, vectors, queries, 10, similarity, excluded=lists)
    assert_answers(hits, expected, kind.is_exact)


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.0])
def test_only_allowed_items_are_found_and_all_of_them_if_k_reaches(kind, similarity, share):
    ids, vectors, queries = world()
    allow = torch.rand(3 * ITEMS, generator=torch.Generator().manual_seed(2)) < share
    hits = kind(similarity).build(ids, vectors).search(queries, k=25, allow=allow)
    expected = brute_force(ids, vectors, queries, 25, similarity, allow=allow)
    assert_answers(hits, expected, kind.is_exact)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(0, ITEMS + 5), share=st.floats(0, 1))
@pytest.mark.parametrize("name", INDEXES)
def test_filters_together_give_exactly_the_matching_items(name, seed, k, share):
    kind = INDEXES[name]
    ids, vectors, queries = world(seed=seed, users=3)
    generator = torch.Generator().manual_seed(seed)
    allow = torch.rand(3 * ITEMS, generator=generator) < share
    sizes = torch.randint(3 * ITEMS, (3,), generator=generator).tolist()
    lists = [torch.randperm(4 * ITEMS, generator=generator)[:size].tolist() for size in sizes]
    hits = kind("dot").build(ids, vectors).search(queries, k, exclude=flat(lists), allow=allow)
    expected = brute_force(ids, vectors, queries, k, "dot", excluded=lists, allow=allow)
    assert_answers(hits, expected, kind.is_exact)


@pytest.mark.parametrize("k", [0, 1, ITEMS, ITEMS + 7])
def test_any_k_from_none_to_more_than_all(kind, similarity, k):
    ids, vectors, queries = world()
    hits = kind(similarity).build(ids, vectors).search(queries, k)
    assert hits.ids.shape == (12, k)
    assert_answers(hits, brute_force(ids, vectors, queries, k, similarity), kind.is_exact)


def test_no_queries_get_no_answers(kind):
    ids, vectors, queries = world()
    hits = kind("dot").build(ids, vectors).search(queries[:0], k=4)
    assert hits.ids.shape == hits.scores.shape == (0, 4)


def test_equal_scores_go_by_tie_key_and_not_by_place(kind):
    ids = torch.arange(100)
    keys = torch.randperm(100, generator=torch.Generator().manual_seed(4))
    shuffle = torch.randperm(100, generator=torch.Generator().manual_seed(5))
    index = kind("dot").build(ids[shuffle], torch.ones(100, WIDTH), keys[shuffle])
    hits = index.search(torch.ones(2, WIDTH), k=30)
    assert torch.equal(hits.ids, keys.argsort()[:30].expand(2, 30))


def test_added_items_are_found_and_removed_ones_are_not(kind, similarity):
    ids, vectors, queries = world()
    index = kind(similarity).build(ids[:150], vectors[:150]).add(ids[150:], vectors[150:])
    whole = kind(similarity).build(ids, vectors)
    assert len(index) == ITEMS
    assert torch.equal(index.search(queries, 30).ids, whole.search(queries, 30).ids)
    index.remove(ids[:50])
    left = kind(similarity).build(ids[50:], vectors[50:])
    assert len(index) == ITEMS - 50
    assert torch.equal(index.search(queries, 30).ids, left.search(queries, 30).ids)


def test_an_emptied_index_answers_with_nothing_and_can_be_filled_again(kind):
    ids, vectors, queries = world()
    index = kind("cosine").build(ids, vectors).remove(ids)
    assert (index.search(queries, 3).ids == -1).all()
    index.add(ids, vectors)
    assert torch.equal(index.search(queries, 3).ids[:, 0] >= 0, torch.ones(12, dtype=torch.bool))


def test_state_gives_the_same_answers_bit_for_bit(kind, similarity):
    ids, vectors, queries = world()
    index = kind(similarity).build(ids, vectors, torch.arange(ITEMS) % 3)
    again = kind.from_state(
        similarity, {name: part.clone() for name, part in index.state().items()}
    )
    for ours, theirs in zip(index.search(queries, 50), again.search(queries, 50), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_similarity_is_refused(kind):
    with pytest.raises(ShortlistError, match="cosine"):
        kind("cosin")
