"""What every index keeps: run over the table INDEXES, against brute force."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from answers import assert_same_up_to_rounding
from index.servers import ADDRESS_OF, NAMED
from shortlist.errors import MissingPackageError, ModelError, ShortlistError
from shortlist.index import INDEXES, build_index
from shortlist.index.settings import grid_of, late_settings, settings_of, undeclared
from shortlist.similarity import SIMILARITIES, score

ITEMS, WIDTH = 200, 8
# Those in a server are asked where one is named: `make pgvector`, `make milvus-server`.
KINDS = [name for name in INDEXES if name not in ADDRESS_OF or name in NAMED]


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
        given = pytest.approx(scores[: len(found)], abs=1e-5)
        assert [by_item[item] for item in found] == given
        if exact:
            assert [value for _, value in answer] == given


def recall(hits, truth):
    """The share of the true items that were found; 1 where there are none."""
    pairs = zip(hits.ids.tolist(), truth.ids.tolist(), strict=True)
    found = sum(len(set(ours) & set(theirs) - {-1}) for ours, theirs in pairs)
    return found / max(int((truth.ids >= 0).sum()), 1) if (truth.ids >= 0).any() else 1.0


@functools.cache
def clustered(items=3_000, queries=100, width=24, clusters=60):
    """A Zipf-sized mixture of low-rank Gaussians: ids, vectors, queries from the same mixture."""
    generator = torch.Generator().manual_seed(8)
    centres = torch.randn(clusters, width, generator=generator)
    spread = 0.4 * torch.randn(clusters, 6, width, generator=generator)
    sizes = 1 / torch.arange(1, clusters + 1).sqrt()
    own = torch.multinomial(sizes, items + queries, replacement=True, generator=generator)
    inside = torch.randn(items + queries, 1, 6, generator=generator)
    points = centres[own] + (inside @ spread[own]).squeeze(1)
    points += 0.15 * torch.randn(items + queries, width, generator=generator)
    return torch.arange(items), points[:items], points[items:]


@functools.cache
def learned(items=3_000, queries=100, width=24):
    """Factors of a popular-skewed log: a falling spectrum, lengths that differ, users elsewhere."""
    generator = torch.Generator().manual_seed(9)
    spectrum = 1 / torch.arange(1, width + 1).sqrt()
    tastes = torch.randn(queries, width, generator=generator) * spectrum
    points = torch.randn(items, width, generator=generator) * spectrum
    lengths = (0.4 * torch.randn(items, 1, generator=generator)).exp()
    offset = torch.randn(width, generator=generator) * spectrum * 0.5
    return torch.arange(items), (points + offset) * lengths, tastes + offset


@functools.cache
def built(name, similarity, world):
    ids, vectors, _ = world()
    # In a server the last but one of a name goes, and these stay.
    apart = {"collection": f"{world.__name__}_{similarity}"} if name in NAMED else {}
    return made(name)(similarity, **apart).build(ids, vectors)


@functools.cache
def missing(name):
    """Why an index cannot be tested here: its library is an extra that is not installed."""
    try:
        INDEXES[name]("dot").build(torch.tensor([1]), torch.ones(1, 2))
    except MissingPackageError as error:
        return str(error)
    return ""


def made(name):
    if reason := missing(name):
        pytest.skip(reason)
    return INDEXES[name]


@pytest.fixture(params=KINDS)
def kind(request):
    return made(request.param)


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
    best = index.search(queries, k=120).ids.tolist()
    unknown = 999_999
    # Up to many more than an index looks at beyond k.
    lists = [[*line[: row * 12 % 121], unknown] for row, line in enumerate(best)]
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


@settings(max_examples=5 if NAMED else 40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(0, ITEMS + 5), share=st.floats(0, 1))
@pytest.mark.parametrize("name", KINDS)
def test_filters_together_give_exactly_the_matching_items(name, seed, k, share):
    kind = made(name)
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
    whole = index.search(torch.ones(2, WIDTH), k=100)
    assert torch.equal(whole.ids, keys.argsort().expand(2, 100))
    hits = index.search(torch.ones(2, WIDTH), k=30)
    if kind.is_exact:
        assert torch.equal(hits.ids, keys.argsort()[:30].expand(2, 30))
    # Another index may miss some of a hundred equals, but orders those it found.
    assert torch.equal(keys[hits.ids], keys[hits.ids].sort(1).values)


def test_added_items_are_found_and_removed_ones_are_not(kind, similarity):
    ids, vectors, queries = world()
    index = kind(similarity).build(ids[:150], vectors[:150]).add(ids[150:], vectors[150:])
    whole = kind(similarity).build(ids, vectors)
    assert len(index) == ITEMS
    assert recall(index.search(queries, 30), whole.search(queries, 30)) > 0.95
    for removed in (10, 50, 120):  # Some, and so many that an index may build itself anew.
        index.remove(ids[removed // 2 : removed])
        index.remove(ids[: removed // 2])
        expected = brute_force(ids[removed:], vectors[removed:], queries, 30, similarity)
        assert len(index) == ITEMS - removed
        assert_answers(index.search(queries, 30), expected, kind.is_exact)
        index.add(ids[:removed], vectors[:removed])


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


@pytest.mark.parametrize("world", [clustered, learned])
@pytest.mark.parametrize("name", KINDS)
def test_most_of_the_true_items_are_found_at_the_default(name, similarity, world):
    index, queries = built(name, similarity, world), world()[2]
    for k in (10, 50, 100):
        truth = built("exact", similarity, world).search(queries, k)
        hits = index.search(queries, k)
        assert recall(hits, truth) >= (0.9999 if index.is_exact else 0.95)


@pytest.mark.parametrize("name", KINDS)
def test_an_approximate_index_asks_its_library_where_nothing_is_filtered(name, monkeypatch):
    index, asked = built(name, "cosine", clustered), []
    if index.is_exact:
        return
    find = type(index)._find

    def counted(self, *given):
        asked.append(given)
        return find(self, *given)

    monkeypatch.setattr(type(index), "_find", counted)
    index.search(clustered()[2], 10)
    assert asked, "a scan of all items answered: what does `_scanned_meanwhile` say?"


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001, 0.0])
@pytest.mark.parametrize("name", KINDS)
def test_a_filter_costs_no_recall_however_tight_it_is(name, share):
    ids, _, queries = clustered()
    allow = torch.rand(len(ids), generator=torch.Generator().manual_seed(3)) < share
    truth = built("exact", "cosine", clustered).search(queries, 50, allow=allow)
    hits = built(name, "cosine", clustered).search(queries, 50, allow=allow)
    assert torch.equal(hits.ids >= 0, truth.ids >= 0)
    assert allow[hits.ids[hits.ids >= 0]].all()
    assert recall(hits, truth) >= 0.95


@pytest.mark.parametrize("name", KINDS)
def test_what_was_seen_costs_no_recall(name):
    _, _, queries = clustered()
    exact = built("exact", "cosine", clustered)
    best = exact.search(queries, 400).ids.tolist()
    seen = flat([line[: 4 * row] for row, line in enumerate(best)])
    hits = built(name, "cosine", clustered).search(queries, 20, exclude=seen)
    assert recall(hits, exact.search(queries, 20, exclude=seen)) >= 0.95


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_does_not_depend_on_the_other_queries_of_the_batch(name, similarity):
    index, queries = built(name, similarity, learned), learned()[2]
    best = index.search(queries, 100).ids.tolist()
    lists = [line[: 3 * row % 100] for row, line in enumerate(best)]
    allow = torch.rand(3_000, generator=torch.Generator().manual_seed(3)) < 0.6
    for filters in ({}, {"allow": allow}):
        together = index.search(queries, 20, exclude=flat(lists), **filters)
        plain = index.search(queries, 20, **filters)
        for row in range(0, 100, 9):
            query = queries[row : row + 1]
            alone = index.search(query, 20, exclude=flat(lists[row : row + 1]), **filters)
            assert_same(name, alone, [part[row : row + 1] for part in together])
            alone = index.search(query, 20, **filters)
            assert_same(name, alone, [part[row : row + 1] for part in plain])


def assert_same(name, one, other):
    """Bit for bit; of a server's arithmetic by the second form of the answer rule."""
    if name in NAMED:
        assert_same_up_to_rounding(one, other)
    else:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_new_item_is_found_and_a_changed_one_has_its_new_place(name):
    ids, vectors, queries = learned()
    index = made(name)("euclidean").build(ids, vectors)
    index.add(torch.tensor([7_000]), queries[:1]).remove(ids[5:6]).add(ids[5:6], queries[1:2])
    hits = index.search(queries[:2], 1)
    assert hits.ids.tolist() == [[7_000], [5]]
    assert len(index) == 3_001
    assert (index.search(vectors[5:6], 1).ids != 5).all()


@pytest.mark.parametrize("name", INDEXES)
def test_each_setting_has_a_meaning_and_a_default_and_makes_the_same_index_again(name):
    assert undeclared(INDEXES[name]) == [], "annotate it with a described Field"
    index = build_index(name, "dot")
    given = index.settings() if hasattr(index, "settings") else {}
    assert given.keys() == settings_of(INDEXES[name]).model_fields.keys()
    assert not given or build_index(name, "dot", **given).settings() == given
    with pytest.raises(ModelError, match="has no setting 'nonsense'"):
        build_index(name, "dot", nonsense=1)


@pytest.mark.parametrize("name", INDEXES)
def test_what_a_search_for_settings_tries_can_be_built_and_rises(name):
    for setting, values in grid_of(INDEXES[name]).items():
        for value in values:
            assert build_index(name, "dot", **{setting: value}).settings()[setting] == value
        if setting in late_settings(INDEXES[name]):
            assert list(values) == sorted(values)


@pytest.mark.parametrize("name", INDEXES)
def test_a_setting_of_the_search_acts_or_is_no_setting_of_the_search(name):
    late = getattr(INDEXES[name], "search_settings", ())
    assert set(late) <= settings_of(INDEXES[name]).model_fields.keys()
