"""A query alone gets the answer that it gets in a batch, bit by bit."""

import numpy as np
import pytest
import torch

from shortlist.index import ExactIndex, exact
from shortlist.index.scan import SPARE, could_be_best, margin
from shortlist.similarity import SIMILARITIES

ITEMS, WIDTH = 5003, 33


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain():
    return draw(ITEMS, WIDTH)


def near_ties():
    """Every score of one query differs from the next by about one rounding."""
    return 1 + 1e-7 * draw(ITEMS, WIDTH)


def duplicates():
    return draw(40, WIDTH)[torch.randint(40, (ITEMS,), generator=torch.Generator().manual_seed(1))]


def few_huge():
    """Their rounding errors are greater than all other scores."""
    vectors = draw(ITEMS, WIDTH)
    vectors[::700] *= 1e12
    return vectors


def cancelling():
    """Great terms that cancel out: scores are what rounding left."""
    half = 1e6 * draw(ITEMS, WIDTH // 2)
    return torch.cat([half, -half, 1e-3 * draw(ITEMS, 1)], dim=1)


def tiny():
    """Products and squares below the smallest normal float32."""
    return 1e-20 * draw(ITEMS, WIDTH)


def all_equal():
    return draw(1, WIDTH).repeat(ITEMS, 1)


WORLDS = [plain, near_ties, duplicates, few_huge, cancelling, tiny, all_equal]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_query_alone_gets_bit_for_bit_what_it_gets_in_a_batch(world, similarity):
    vectors = world()
    if similarity == "cosine" and world is tiny:
        vectors *= 1e5
    index = ExactIndex(similarity).build(torch.arange(ITEMS), vectors)
    queries = torch.cat([draw(6, WIDTH, seed=2), vectors[:5], torch.ones(3, WIDTH)])
    queries[3, : WIDTH // 2] = queries[3, WIDTH // 2 : -1]  # What cancels in some worlds.
    best = index.search(queries, 300).ids
    seen = torch.cat([line[: 20 * row] for row, line in enumerate(best)])
    starts = 20 * torch.arange(len(queries) + 1) * torch.arange(-1, len(queries)) // 2
    allow = torch.rand(ITEMS, generator=torch.Generator().manual_seed(3)) < 0.9
    for k in (1, 100):
        for masks in ({}, {"allow": allow}):
            together = index.search(queries, k, exclude=(seen, starts), **masks)
            plainly = index.search(queries, k, **masks)
            for size in (1, 3):
                for row in range(0, len(queries), size):
                    ends = starts[row : row + size + 1]
                    some, part = slice(row, row + size), (seen[ends[0] : ends[-1]], ends - ends[0])
                    alone = index.search(queries[some], k, exclude=part, **masks)
                    assert torch.equal(alone.ids, together.ids[some])
                    assert torch.equal(alone.scores, together.scores[some])
                    alone = index.search(queries[some], k, **masks)
                    assert torch.equal(alone.ids, plainly.ids[some])
                    assert torch.equal(alone.scores, plainly.scores[some])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("interests", [1, 2])
def test_whatever_a_product_rounds_the_answer_is_the_same_bits(
    monkeypatch, world, similarity, interests
):
    vectors = world()
    if similarity == "cosine" and world is tiny:
        vectors *= 1e5
    index = ExactIndex(similarity).build(torch.arange(ITEMS), vectors)
    queries = torch.cat([draw(6, WIDTH, seed=2), vectors[:5], torch.ones(3, WIDTH)])
    queries = queries.view(-1, interests, WIDTH)
    seen = (index.search(queries, 20).ids.flatten(), 20 * torch.arange(len(queries) + 1))
    expected = index.search(queries, 100, exclude=seen)
    score = exact.score

    def of_another_library(points, items, kind):
        """Off by as much as the error of a sum of so many products can be, at random."""
        own = torch.linalg.vector_norm(points.double(), dim=-1).amax(1, keepdim=True)
        theirs = torch.linalg.vector_norm(items.double(), dim=-1)
        size = (own + theirs).square() if kind == "euclidean" else own * theirs
        noise = torch.rand(size.shape, generator=torch.Generator().manual_seed(4)) * 2 - 1
        return (score(points, items, kind) + WIDTH * 2.0**-24 * size * noise).float()

    monkeypatch.setattr(exact, "score", of_another_library)
    found = index.search(queries, 100, exclude=seen)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.scores, expected.scores)


def test_a_single_query_is_scored_against_few_items_and_a_hopeless_one_against_all(monkeypatch):
    scored, best = [], exact.best_of_columns

    def counted(contents, points, columns, seen, k):
        scored.append(len(contents.ids) if columns is None else len(columns))
        return best(contents, points, columns, seen, k)

    monkeypatch.setattr(exact, "best_of_columns", counted)
    for world, most in ((plain, 256), (all_equal, ITEMS)):
        index = ExactIndex("dot").build(torch.arange(ITEMS), world())
        scored.clear()
        index.search(draw(1, WIDTH), 100)
        assert len(scored) == 1
        assert most / 4 < scored[0] <= most


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("world", [plain, near_ties, few_huge, cancelling, tiny])
def test_the_margin_covers_what_two_ways_to_sum_may_differ_by(world, euclidean):
    vectors, query = world().numpy()[:1500], draw(WIDTH, seed=5).numpy()
    query[: WIDTH // 2] = query[WIDTH // 2 : -1]
    terms = -((vectors - query) ** 2) if euclidean else vectors * query
    orders = [np.random.default_rng(seed).permutation(WIDTH) for seed in range(20)]
    ways = np.stack([np.cumsum(terms[:, order], axis=1)[:, -1] for order in orders])
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    slack = margin(query, longest, euclidean)
    assert (ways.max(0) - ways.min(0)).max() * 2 <= slack
    for scores in ways:
        best = np.argsort(-scores)[:30]
        named = could_be_best(vectors, query, 30, longest=longest, euclidean=euclidean)
        assert named is None or set(best) <= set(named)


def test_what_is_refused_or_was_seen_is_not_named_and_too_many_alike_are_not_named_at_all():
    random = np.random.default_rng(0)
    vectors, query = random.standard_normal((3000, 8), np.float32), np.ones(8, dtype=np.float32)
    ids, refused = random.permutation(9000)[:3000], random.random(3000) < 0.3
    options = {"longest": 10.0, "euclidean": False, "ids": ids}
    order = np.argsort(-(vectors @ query))
    seen = np.append(ids[order[:50]], 9999)
    named = could_be_best(vectors, query, 20, refused=refused, seen=seen, **options)
    left = order[50:][~refused[order[50:]]]
    assert set(left[:20]) <= set(named)
    assert not refused[named].any()
    assert not np.isin(ids[named], seen).any()
    assert named.tolist() == sorted(named)
    every = could_be_best(vectors, query, 60, refused=~np.isin(ids, seen), **options)
    assert sorted(ids[every]) == sorted(seen[:50])  # Fewer than 60: each of them.
    alike = np.ones((4 * 20 + SPARE, 8), dtype=np.float32)
    assert could_be_best(alike[1:], query, 20, longest=3.0, euclidean=False) is not None
    assert could_be_best(alike, query, 20, longest=3.0, euclidean=False) is None
