"""Hard negatives by hand: which items are drawn, and which are not."""

import pytest
import torch

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.sampling.hard.base import HardWorld
from shortlist.sampling.hard.exposed import ExposedNegatives
from shortlist.sampling.hard.hardest import HardestNegatives
from shortlist.sampling.hard.mined import MinedNegatives
from shortlist.sampling.hard.semi_hard import SemiHardNegatives

OUT = float("-inf")


def lists(*parts):
    values = torch.tensor([item for part in parts for item in part], dtype=torch.int64)
    return Ragged(values, torch.tensor([0, *(len(part) for part in parts)]).cumsum(0))


def batch_of(users, positive, known=None):
    empty = lists(*([] for _ in users))
    return Batch(torch.tensor(users), torch.tensor(positive), torch.ones(len(users)), empty, known)


def chosen(columns, filled):
    return [sorted(c[f].tolist()) for c, f in zip(columns, filled, strict=True)]


# From the pool.


def test_hardest_takes_the_highest_even_above_the_positive():
    gap = torch.tensor([[-1.0, 0.5, -0.2, OUT], [OUT, OUT, OUT, -3.0]])
    assert chosen(*HardestNegatives().choose(gap, 2)) == [[1, 2], [3]]


def test_semi_hard_takes_the_highest_that_stay_below_by_the_margin():
    gap = torch.tensor([[-1.0, 0.5, -0.2, -0.05], [0.1, 0.0, 0.2, 0.3]])
    assert chosen(*SemiHardNegatives().choose(gap, 2)) == [[2, 3], []]
    assert chosen(*SemiHardNegatives(0.1).choose(gap, 2)) == [[0, 2], []]


def test_a_pool_smaller_than_the_count_is_taken_whole():
    assert chosen(*HardestNegatives().choose(torch.tensor([[-1.0, 0.5]]), 10)) == [[0, 1]]


def test_a_margin_that_no_cosine_can_keep_is_refused():
    world = HardWorld(torch.arange(1, 5), "cosine", {}, None)
    with pytest.raises(ModelError, match="must be < 2 for cosine"):
        SemiHardNegatives.build(world, margin=2.0)
    assert SemiHardNegatives.build(world._replace(similarity="dot"), margin=2.0).margin == 2
    with pytest.raises(ModelError, match="hard_margin must be >= 0"):
        SemiHardNegatives(-0.1)


# Mined: item r scores 10 - r for the query 1, so rank r is item r. Item 0 is padding.

LINE = 10.0 - torch.arange(10.0).unsqueeze(1)


def mined_on_a_line(batch, ranks, ceiling=1.0, similarity="dot", vectors=LINE, count=9, query=1.0):
    source = MinedNegatives(torch.arange(1, 10), similarity, ranks, ceiling)
    source.refresh(lambda rows: vectors[rows])
    queries = torch.full((len(batch.users), 1), query)
    hard = source.draw(batch, queries, count, torch.Generator().manual_seed(0))
    return chosen(hard.ids, hard.source < 0)


def test_mined_from_several_interests_are_ranked_by_the_nearest_of_them():
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(41, 8, generator=generator)
    queries = torch.randn(6, 3, 8, generator=generator)  # 3 interests of each row
    batch = batch_of(range(6), [5, 6, 7, 8, 9, 10])
    source = MinedNegatives(torch.arange(1, 41), "dot", (4, 9), 1.0)
    source.refresh(lambda rows: vectors[rows])
    hard = source.draw(batch, queries, 6, torch.Generator().manual_seed(0))
    for row, positive in enumerate(batch.positive.tolist()):
        score = (queries[row] @ vectors.T).amax(dim=0)
        left = [item for item in score.argsort(descending=True).tolist() if item != positive]
        band = [item for item in left if item > 0][3:9]
        wanted = sorted(item for item in band if score[item] <= score[positive])
        assert chosen(hard.ids, hard.source < 0)[row] == wanted


def test_mined_draws_from_the_band_of_ranks_without_the_positive():
    # Without item 1, rank 1 is item 2: ranks 3 to 5 are items 4, 5 and 6.
    assert mined_on_a_line(batch_of([1], [1]), (3, 5)) == [[4, 5, 6]]


def test_ranks_count_what_is_left_after_the_known_positives():
    known = lists([1, 2, 5])
    assert mined_on_a_line(batch_of([1], [1], known), (2, 4)) == [[4, 6, 7]]


def test_mined_passes_over_what_scores_above_a_share_of_the_positive():
    # The positive, item 4, scores 6: at 0.75 whatever is above 4.5 is passed over.
    assert mined_on_a_line(batch_of([1], [4]), (1, 8), ceiling=0.75) == [[6, 7, 8, 9]]
    assert mined_on_a_line(batch_of([1], [4]), (1, 8), ceiling=1.0) == [[5, 6, 7, 8, 9]]


def test_a_share_of_a_negative_score_still_lies_below_it():
    # Euclidean from the query 10: item r scores -r². The positive, item 3, scores -9: a plain share
    # 0.3 of it would be -2.7, which lets the nearer item 2 in; the limit is -9 - 0.7 * 9 = -15.3.
    batch = batch_of([1], [3])
    band = mined_on_a_line(batch, (1, 8), ceiling=0.3, similarity="euclidean", query=10.0)
    assert band == [[4, 5, 6, 7, 8, 9]]


def test_mined_draws_a_few_of_the_band_evenly():
    source = MinedNegatives(torch.arange(1, 10), "dot", (1, 4), 1.0)
    source.refresh(lambda rows: LINE[rows])
    batch = batch_of([1] * 1000, [1] * 1000)
    hard = source.draw(batch, torch.ones(1000, 1), 2, torch.Generator().manual_seed(3))
    counts = torch.bincount(hard.ids.flatten(), minlength=10)
    assert counts[[2, 3, 4, 5]].sum() == 2000
    assert (counts[[2, 3, 4, 5]] - 500).abs().max() < 70  # 3 standard deviations are 47


def test_mined_sees_new_vectors_after_a_refresh_only():
    vectors, batch = LINE.clone(), batch_of([1], [1])
    source = MinedNegatives(torch.arange(1, 10), "dot", (1, 1), 1.0)

    def first():
        return source.draw(batch, torch.ones(1, 1), 1, torch.Generator()).ids.item()

    with pytest.raises(ModelError, match="refresh"):
        first()
    source.refresh(lambda rows: vectors[rows])
    assert first() == 2
    vectors[9] = 8.5
    assert first() == 2
    source.refresh(lambda rows: vectors[rows])
    assert first() == 9


@pytest.mark.parametrize(
    ("ranks", "ceiling", "message"),
    [
        ((0, 5), 0.9, "1 <= a <= b"),
        ((6, 5), 0.9, "1 <= a <= b"),
        ((9, 50), 0.9, "only 8 items are left"),
        ((1, 5), 0.0, "hard_ceiling must be above 0"),
        ((1, 5), 1.1, "hard_ceiling must be above 0"),
    ],
)
def test_a_band_that_cannot_be_is_refused(ranks, ceiling, message):
    with pytest.raises(ModelError, match=message):
        MinedNegatives(torch.arange(1, 10), "dot", ranks, ceiling)


def test_a_band_that_begins_behind_what_any_user_has_left_is_refused():
    known = lists([], [1, 2, 2, 3], [1, 2, 3, 4])
    world = HardWorld(torch.arange(1, 10), "dot", {}, known)
    assert MinedNegatives.build(world, ranks=(6, 9)).ranks == (6, 9)
    with pytest.raises(ModelError, match="start at 7, and only 6 items are left"):
        MinedNegatives.build(world, ranks=(7, 9))
    assert MinedNegatives.build(world._replace(known=None), ranks=(7, 9)).ranks == (7, 9)


# From a log.


def logged(exposed, known=None, candidates=range(1, 10)):
    world = HardWorld(torch.tensor(list(candidates)), "dot", {"exposed": exposed}, known)
    return ExposedNegatives.build(world)


def test_a_user_gets_items_of_their_own_list_only():
    source = logged(lists([], [3, 5, 7], [4], []))
    hard = source.draw(batch_of([1, 2, 3], [1, 1, 1]), torch.ones(3, 1), 5, torch.Generator())
    assert chosen(hard.ids, hard.source < 0) == [[3, 5, 7], [4], []]


def test_each_item_of_a_list_comes_equally_often():
    source = logged(lists([], [3, 5, 7, 8]))
    batch = batch_of([1] * 2000, [1] * 2000)
    hard = source.draw(batch, torch.ones(2000, 1), 2, torch.Generator().manual_seed(0))
    counts = torch.bincount(hard.ids.flatten(), minlength=10)[[3, 5, 7, 8]]
    assert counts.sum() == 4000
    assert (counts - 1000).abs().max() < 95  # 3 standard deviations are 67


def test_known_positives_and_what_cannot_be_recommended_leave_the_lists():
    source = logged(lists([], [3, 5, 7], [5, 12]), known=lists([], [5], []))
    hard = source.draw(batch_of([1, 2], [1, 1]), torch.ones(2, 1), 5, torch.Generator())
    assert chosen(hard.ids, hard.source < 0) == [[3, 7], [5]]


def test_a_log_that_is_not_there_or_says_nothing_is_refused():
    with pytest.raises(ModelError, match=r"needs data\.impressions"):
        ExposedNegatives.build(HardWorld(torch.arange(1, 5), "dot", {}, None))
    with pytest.raises(ModelError, match="no usable row"):
        logged(lists([], [12]))
    with pytest.raises(ModelError, match="no usable row"):
        logged(lists([], [3]), known=lists([], [3]))
