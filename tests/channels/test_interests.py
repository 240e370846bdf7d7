"""Users with several vectors: the nearest one counts, with every index."""

import polars as pl
import pytest
import torch

from index.servers import ADDRESS_OF, NAMED
from shortlist.asking.queries import Queries
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli.files import write_user_vectors
from shortlist.errors import ModelError
from shortlist.index import INDEXES, ExactIndex

SMALL = {"dim": 8, "epochs": 1, "batch_size": 256, "dropout": 0.2, "interests": 3}
EXTRAS = {"annoy": "annoy", "milvus": "pymilvus", "scann": "scann"}


@pytest.fixture(scope="module", params=["comirec", "mind"])
def fitted(request, split):
    return TwoTower(history=request.param, seed=1, **SMALL).fit(split)


def merged(index, queries, k, exclude):
    """Search each interest alone, then keep each item's best score."""
    lists = []
    parts = [
        index.search(queries[:, interest].contiguous(), k, exclude=exclude)
        for interest in range(queries.shape[1])
    ]
    for row in range(len(queries)):
        best = {}
        for part in parts:
            for item, score in zip(part.ids[row].tolist(), part.scores[row].tolist(), strict=True):
                best[item] = max(score, best.get(item, score))
        lists.append(sorted(best.values(), reverse=True)[:k])
    return torch.tensor(lists)


@pytest.mark.parametrize(
    "kind", [name for name in INDEXES if name not in ADDRESS_OF or name in NAMED]
)
def test_every_index_finds_what_searching_each_interest_and_merging_finds(fitted, kind):
    if kind in EXTRAS:
        pytest.importorskip(EXTRAS[kind])
    rows, vectors, keys = fitted.placed_vectors()
    similarity = fitted.training_section.similarity
    users = fitted.data.users.ids.head(20)
    try:
        fitted.use_index(INDEXES[kind](similarity).build(rows, vectors, keys))
        found = fitted.recommend(users, 10)
    finally:
        fitted.use_exact_index()
    met = [fitted.data.log.item[fitted.data.log.user == row] for row in range(1, 21)]
    lengths = torch.tensor([0, *map(len, met)])
    exclude = (torch.cat([torch.from_numpy(items).long() for items in met]), lengths.cumsum(0))
    exact = ExactIndex(similarity).build(rows, vectors, keys)
    truth = merged(exact, fitted.encode_users(users), 10, exclude)
    assert (fitted.data.users.rows(users) == range(1, 21)).all()
    torch.testing.assert_close(torch.from_numpy(found.scores), truth, atol=1e-5, rtol=1e-5)


def test_a_user_is_k_different_vectors(fitted):
    vectors = fitted.encode_users(fitted.data.users.ids.head(30))
    assert vectors.shape == (30, 3, 8)
    assert all(len(torch.unique(rows, dim=0)) > 1 for rows in vectors[:5])
    assert fitted.encode_users([]).shape == (0, 3, 8)


def test_who_has_met_nothing_known_gets_popular_items(split):
    plain = TwoTower(history="mind", user_features=[], **SMALL).fit(split)
    item = plain.data.items.ids[0]
    found = plain.recommend(Queries(histories=[[], [item], [-1]]), 5)
    assert found.fallback.tolist() == [True, False, True]
    assert found.ids[0] == found.ids[2]


def test_the_same_seed_gives_the_same_bytes(split, fitted):
    history = fitted.model_section.history
    again = TwoTower(history=history, seed=1, **SMALL).fit(split)
    ours, theirs = fitted.towers.state_dict(), again.towers.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_vectors_are_written_as_k_rows_a_user(fitted, tmp_path):
    count = write_user_vectors(fitted, tmp_path / "users.parquet", {})
    frame = pl.read_parquet(tmp_path / "users.parquet")
    assert frame.height == count
    some = fitted.encode_users(frame["id"].head(3))
    written = torch.tensor(frame["vector"].head(3).to_list())
    torch.testing.assert_close(written.view(3, 3, 8), some)


def test_user_to_user_refuses_several_vectors():
    with pytest.raises(ModelError, match="gives several"):
        UserToUser(history="mind")
