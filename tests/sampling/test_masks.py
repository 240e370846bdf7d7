"""Which slots count for which row, against a plain loop."""

import pytest
import torch

from shortlist.data.ragged import ChosenLists, Ragged
from shortlist.sampling import base
from shortlist.sampling.base import Negatives, accidental_hits, known_items, own_slots


def ragged(lists):
    offsets = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    return Ragged(torch.tensor([i for one in lists for i in one], dtype=torch.int64), offsets)


def test_own_slots_are_the_diagonal_of_an_in_batch_pool_whatever_else_is_in_it():
    pool = Negatives(
        torch.tensor([4, 4, 4, 4]), torch.zeros(4), torch.tensor([-1, 0, 1, -1]), distinct=False
    )
    wanted = torch.tensor([[False, True, False, False], [False, False, True, False]])
    assert torch.equal(own_slots(pool, 2), wanted)


def test_hits_are_slots_with_the_item_of_the_positive():
    pool = Negatives.drawn(torch.tensor([4, 7, 4]), torch.zeros(3))
    wanted = torch.tensor([[True, False, True], [False, True, False]])
    assert torch.equal(accidental_hits(pool, torch.tensor([4, 7])), wanted)


@pytest.mark.parametrize("own", [False, True], ids=["shared pool", "own pools"])
@pytest.mark.parametrize("seed", range(20))
def test_known_items_are_the_users_others_and_never_the_rows_positive(own, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = 5
    sizes = torch.randint(0, 6, (rows,), generator=generator)
    liked = [torch.randint(1, 12, (int(n),), generator=generator).tolist() for n in sizes]
    positive = torch.randint(1, 12, (rows,), generator=generator)
    ids = torch.randint(1, 15, (rows, 8) if own else (8,), generator=generator)
    masked = known_items(Negatives.drawn(ids, torch.zeros(ids.shape)), ragged(liked), positive)
    by_hand = [
        [item in liked[i] and item != positive[i] for item in (ids[i] if own else ids).tolist()]
        for i in range(rows)
    ]
    assert masked.tolist() == by_hand


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_users_without_known_items_mask_nothing(shape):
    pool = Negatives.drawn(torch.ones(shape, dtype=torch.int64), torch.zeros(shape))
    assert not known_items(pool, ragged([[], []]), torch.tensor([1, 2])).any()


@pytest.mark.parametrize("way", ["compiled", "of a device"])
@pytest.mark.parametrize("own", [False, True], ids=["shared pool", "own pools"])
@pytest.mark.parametrize("slots", [0, 1, 6, 70])
@pytest.mark.parametrize("items", [3, 30, 3000], ids=["dense", "half", "sparse"])
def test_rows_that_share_the_list_of_a_user_are_masked_by_it(items, slots, own, way, monkeypatch):
    """A log repeats items, a pool repeats items, and users know items beyond the pool's largest."""
    generator = torch.Generator().manual_seed(items + slots)
    log = [torch.randint(1, items + 9, (n,), generator=generator).tolist() for n in (0, 1, 9, 90)]
    lists = ragged(log)
    which = torch.randint(0, len(log), (12,), generator=generator)
    positive = torch.randint(1, items + 1, (12,), generator=generator)
    ids = torch.randint(1, items + 1, (12, slots) if own else (slots,), generator=generator)
    known = ChosenLists(Ragged(lists.values.int(), lists.offsets), which)
    pool = Negatives.drawn(ids, torch.zeros(ids.shape))
    if way == "of a device":
        if not slots:
            return
        monkeypatch.setattr(base, "free_to_read", lambda tensor: False)
    by_hand = [
        [item in log[of] and item != liked for item in (ids[row] if own else ids).tolist()]
        for row, (of, liked) in enumerate(zip(which.tolist(), positive.tolist(), strict=True))
    ]
    assert known_items(pool, known, positive).tolist() == by_hand
    assert known_items(pool, known.gathered, positive).tolist() == by_hand


def test_a_pool_that_holds_one_item_many_times_is_masked_for_everybody_who_knows_it():
    lists = ragged([[5]] * 50)
    pool = Negatives.drawn(torch.full((40,), 5), torch.zeros(40))
    masked = known_items(pool, lists, torch.arange(50) % 2 + 5)  # half the rows' own positive
    assert masked.sum(dim=1).tolist() == [0, 40] * 25
