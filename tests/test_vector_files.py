"""Vectors written for a vector store rank there as the retriever that wrote them ranks."""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from shortlist.asking.queries import Queries
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli.files import vector_facts, write_item_vectors, write_user_vectors
from shortlist.similarity import SIMILARITIES

K = 10


def read(path):
    """Return the ids, the vectors and the metric that the file itself names."""
    frame = pl.read_parquet(path)
    metric = pq.read_schema(path).metadata[b"metric"].decode()
    return frame["id"].to_numpy(), frame["vector"].to_numpy().astype(np.float64), metric


def ranked(queries, items, metric):
    """Return what a store that knows the metric alone thinks of each pair, [B, N]: more is nearer.

    A user of several vectors is as near to an item as the nearest of them.
    """
    queries = queries.reshape(len(queries), -1, items.shape[1])
    if metric == "inner product":
        near = queries @ items.T
    else:
        assert metric == "l2"
        near = -np.linalg.norm(queries[:, :, None] - items, axis=3)
    return near.max(axis=1)


def made(kind, similarity, split):
    """An untrained retriever: its vectors are of all lengths, which training does not change."""
    if kind == "item-to-item":
        options = {"session_gap": 86_400, "dim": 8, "epochs": 1}
        return ItemToItem(similarity=similarity, **options).fit(split)
    history = "comirec" if kind == "interests" else "mean"
    model = TwoTower(similarity=similarity, history=history, dim=8)
    model.set_data(split.training_data("train"))
    model.place_items()
    return model


@pytest.mark.parametrize("kind", ["one vector", "interests", "item-to-item"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_store_that_reads_the_files_answers_as_the_retriever(split, tmp_path, kind, similarity):
    model = made(kind, similarity, split)
    facts = vector_facts(model, "ab12")
    write_item_vectors(model, tmp_path / "items.parquet", facts)
    write_user_vectors(model, tmp_path / "users.parquet", facts)
    items, vectors, metric = read(tmp_path / "items.parquet")
    users, queries, told = read(tmp_path / "users.parquet")
    assert (metric == told == "inner product") or similarity == "euclidean"
    near = ranked(queries, vectors, metric)
    answers = model.recommend(Queries(users, exclude_seen=False), K).ids
    place = {item: number for number, item in enumerate(items)}
    for row, answer in enumerate(answers):
        last = np.sort(near[row])[-K]
        mine = near[row][[place[item] for item in answer]]
        # What scores as the last one but for rounding is as good.
        assert (mine >= last - 1e-5 * abs(last)).all()
        assert (np.diff(mine) <= 1e-5 * np.abs(mine[1:])).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_users_written_for_a_store_find_the_users_that_similar_finds(split, tmp_path, similarity):
    model = UserToUser(similarity=similarity, dim=8)
    model.set_data(split.training_data("all"))  # users are placed as they ask, with all they met
    model.place_users()
    write_user_vectors(model, tmp_path / "users.parquet", vector_facts(model, "ab12"))
    users, vectors, metric = read(tmp_path / "users.parquet")
    near = ranked(vectors, vectors, metric)
    np.fill_diagonal(near, -np.inf)
    answers = model.similar(users, K).ids
    place = {user: number for number, user in enumerate(users)}
    for row, answer in enumerate(answers):
        found = near[row][[place[user] for user in answer]]
        assert (found >= np.sort(near[row])[-K] - 1e-5 * abs(found)).all()
