"""Which slots count for which row, told slot by slot, on every path from a batch to a loss.

Own slots, hits, known positives and positives of the row's own history: what is masked here is
worked out one pair at a time, and each path has to come to the loss of these masks.
"""

import pytest
import torch

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.ragged import Ragged
from shortlist.losses import BPRLoss, Scores, SoftmaxLoss
from shortlist.sampling import Negatives
from shortlist.similarity import pair_score, score
from shortlist.training import fused
from shortlist.training.objective import Objective

ROWS = 12
LIKED = Ragged(  # of each row's user: its own positive and two more, some of them in the pool
    torch.tensor([item for row in range(ROWS) for item in (row % 5 + 1, row % 7 + 1, 9)]),
    torch.arange(0, 3 * ROWS + 1, 3),
)


def counts(objective, row, slot, *, ids, source, positive, distinct, known, groups):
    """Whether a slot is a negative of a row: the rule, in words of one pair."""
    own = source >= 0 and (source == row if groups is None else bool(groups[source] == groups[row]))
    hit = ids == positive[row]
    masks_hits = objective.mask_hits
    if masks_hits is None:
        masks_hits = distinct or not objective.correct_sampling
    liked = known is not None and ids in known.values[known.offsets[row] : known.offsets[row + 1]]
    return not (own or (hit and masks_hits) or (liked and not hit and objective.mask_known))


def costs(objective, queries, positives, pool, *, positive_ids, negatives, **given):
    """The loss of each row, [B], every slot's mask told by `counts`."""
    rows, width = len(positive_ids), negatives.ids.shape[-1]
    ids, source = (part.expand(rows, width).tolist() for part in (negatives.ids, negatives.source))
    known, groups = given.get("known"), given.get("groups")
    valid = [
        [
            counts(
                objective, row, slot, ids=ids[row][slot], source=source[row][slot],
                positive=positive_ids, distinct=negatives.distinct, known=known, groups=groups,
            )
            for slot in range(width)
        ]
        for row in range(rows)
    ]  # fmt: skip
    positive = pair_score(queries, positives, objective.similarity) / objective.temperature
    negative = score(queries, pool, objective.similarity) / objective.temperature
    if objective.correct_sampling:
        positive = positive - given["positive_log_q"]
        negative = negative - negatives.log_q
    return objective.loss(Scores(positive, negative, torch.tensor(valid)))


@pytest.mark.parametrize("grouped", [False, True], ids=["users", "histories"])
@pytest.mark.parametrize(
    "masks",
    [{"mask_hits": False}, {"mask_hits": True}, {"mask_hits": False, "mask_known": True}, {}],
    ids=["own", "hits", "known", "rule"],
)
@pytest.mark.parametrize("path", ["shared pool", "own pools", "in blocks", "interests"])
def test_a_slot_that_must_not_count_counts_on_no_path(path, masks, grouped, monkeypatch):
    monkeypatch.setattr(fused, "LEAST_ROWS", 5)
    monkeypatch.setattr(fused, "BLOCK_SCORES", 1)
    random = torch.Generator().manual_seed(4)
    positive = torch.tensor([row % 5 + 1 for row in range(ROWS)])
    drawn = torch.randint(1, 12, (9,), generator=random)
    ids = torch.cat([positive, drawn])
    source = torch.cat([torch.arange(ROWS), torch.full((9,), -1)])
    if path == "own pools":  # each row has the slots in another order
        order = torch.stack([torch.randperm(len(ids), generator=random) for _ in range(ROWS)])
        ids, source = ids[order], source[order]
    several = (3,) if path == "interests" else ()
    loss = SoftmaxLoss() if path in ("in blocks", "interests") else BPRLoss()
    objective = Objective(loss, temperature=0.5, **masks)
    queries = torch.randn(ROWS, *several, 6, generator=random)
    items = torch.randn(12, 6, generator=random)
    given = {
        "positive_ids": positive,
        "negatives": Negatives(ids, torch.zeros(ids.shape), source, distinct=False),
        "positive_log_q": torch.zeros(ROWS),
        "known": LIKED,
        "groups": torch.arange(ROWS) // 3 if grouped else None,
    }
    vectors = (queries, items[positive], items[ids])
    wanted = costs(objective, *vectors, **given)
    torch.testing.assert_close(objective(*vectors, **given), wanted)
    for row in (0, 4, ROWS - 1):  # the mean of one row alone is that row's loss
        alone = objective.mean(*vectors, weight=torch.eye(ROWS)[row], **given)
        torch.testing.assert_close(alone, wanted[row])


COMMON = {"dim": 8, "batch_size": 48, "dropout": 0.0}
PATHS = {
    "two towers": (TwoTower, {"mask_known": True}),
    "in blocks of rows": (TwoTower, {"item_layers": (8,), "encode_rows": 16, "mask_hits": True}),
    "draws of each row": (TwoTower, {"mode": "pairwise", "mask_known": True}),
    "memory": (TwoTower, {"sampler": "memory", "negatives": 60, "mask_known": True}),
    "mixed": (TwoTower, {"sampler": "mixed", "negatives": 30, "mask_known": True}),
    "mixture": (TwoTower, {"sampler": "mixture", "negatives": 30, "shared": False}),
    "catalogue": (TwoTower, {"sampler": "catalogue", "mask_known": True}),
    "sequences": (TwoTower, {"history": "attention", "history_length": 6, "mask_known": True}),
    "stretches": (TwoTower, {"history_windows": True, "history_length": 6, "loss": "bpr"}),
    "interests": (TwoTower, {"history": "comirec", "interests": 2, "mask_known": True}),
    "pairs of items": (ItemToItem, {"session_gap": 1e6}),
    "pairs of items, known": (ItemToItem, {"session_gap": 1e6, "mask_known": True}),
    "pairs of users": (UserToUser, {}),
}
"""Every way a batch and its negatives come together, with the masks that may go wrong there."""


class Watched(torch.nn.Module):
    """An objective that notes what it was asked for, and what it said."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective
        self.noted = []

    def in_blocks(self, pool):
        return self.objective.in_blocks(pool)

    def mean(self, *vectors, weight, bfloat16, **given):
        found = self.objective.mean(*vectors, weight=weight, bfloat16=bfloat16, **given)
        self.noted.append((vectors, weight, given, found))
        return found


def trainer_of(kind, options, split):
    """A trainer of these towers on the training rows, before its first step."""
    retriever = kind(**COMMON | options)
    data = split.training_data("train")
    torch.manual_seed(3)
    retriever.set_data(data)
    return retriever._trainer(data)


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_of_every_kind_is_masked_by_what_the_log_says(split, path):
    kind, options = PATHS[path]
    trainer = trainer_of(kind, options, split)
    trainer._objective = watched = Watched(trainer._objective)
    batches = list(
        zip(range(2), trainer._begin_epoch(), strict=False)
    )  # a memory is empty at first
    for _, batch in batches:
        trainer._loss(batch)
        vectors, weight, given, found = watched.noted[-1]
        if batch.place is not None:
            assert torch.equal(given["groups"], batch.users)
        if kind is ItemToItem:  # the item that asks is no negative of itself
            assert watched.objective.mask_known
            asked, known = batch.history.values, given["known"]
            lists = [known.values[a:b] for a, b in known.offsets.unfold(0, 2, 1).tolist()]
            assert all(item in liked for item, liked in zip(asked, lists, strict=True))
        wanted = costs(watched.objective, *vectors, **given)
        torch.testing.assert_close(found, (wanted * weight).sum() / weight.sum())
