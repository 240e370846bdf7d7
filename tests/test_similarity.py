import pytest
import torch

from shortlist.errors import ModelError
from shortlist.similarity import SIMILARITIES, normalize, pair_score, score


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(query, item, similarity):
    """One query against one item, as the formula reads."""
    if similarity == "euclidean":
        return -(query - item).square().sum()
    dot = (query * item).sum()
    return dot if similarity == "dot" else dot / (query.norm() * item.norm())


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_shape_is_the_formula_pair_by_pair_and_the_best_interest_counts(similarity):
    queries, shared, own = draw(3, 2, 4), draw(5, 4, seed=1), draw(3, 5, 4, seed=2)
    for pool in (shared, own):
        by_hand = torch.stack(
            [
                torch.stack([max(one(u, t, similarity) for u in interests) for t in items])
                for interests, items in zip(queries, pool.expand(3, 5, 4), strict=True)
            ]
        )
        torch.testing.assert_close(score(queries, pool, similarity), by_hand)
        single = score(queries[:, :1], pool, similarity)
        torch.testing.assert_close(score(queries[:, 0], pool, similarity), single)
    pairs = score(queries, own, similarity)[:, 2]
    torch.testing.assert_close(pair_score(queries, own[:, 2], similarity), pairs)


def test_on_normalised_vectors_all_three_give_one_order():
    queries, items = normalize(draw(4, 6)), normalize(draw(30, 6, seed=1))
    orders = [score(queries, items, name).argsort(1) for name in SIMILARITIES]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_a_vector_is_nearest_to_itself(similarity):
    items = draw(20, 5).float()
    scores = score(items, items, similarity)
    assert torch.equal(scores.argmax(1), torch.arange(20))
    assert similarity == "cosine" or (scores <= 0).all()


def test_the_length_of_an_item_counts_for_dot_and_not_for_cosine():
    query, item = draw(1, 4), draw(1, 4, seed=1)
    torch.testing.assert_close(score(query, 10 * item, "cosine"), score(query, item, "cosine"))
    torch.testing.assert_close(score(query, 10 * item, "dot"), 10 * score(query, item, "dot"))


def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient():
    zero = torch.zeros(1, 3, requires_grad=True)
    cosine = score(zero, torch.ones(1, 3), "cosine")
    cosine.sum().backward()
    assert cosine.item() == 0
    assert zero.grad.abs().max() <= 1


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ModelError, match=r"unknown similarity 'cosin'. Did you mean 'cosine'"):
        score(draw(1, 2), draw(1, 2), "cosin")
    with pytest.raises(ModelError, match="have the same width, got 2 and 3"):
        score(draw(1, 2), draw(1, 3), "dot")
