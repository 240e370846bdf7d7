"""A server of vectors that is a dictionary of this process, and a bundle whose vectors it has."""

import numpy as np
import pytest

from shortlist.bundle.bundle import save
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.index import INDEXES
from shortlist.index.servers import Found, ServerIndex

STORE = {}


class DeadError(Exception):
    """What the library of the server below raises."""


class SlowError(DeadError):
    """What it raises if one question took too long."""


class Dictionary(ServerIndex):
    """A server that is a dictionary: exact, and equal scores in the order of the ids."""

    down = slow = False

    def __init__(self, similarity, *, collection="shortlist"):
        ServerIndex.__init__(self, similarity)
        self.collection = collection

    address = "memory"

    def settings(self):
        return {}

    def _publish(self, name, items):
        STORE[name] = tuple(part.numpy().copy() for part in items)

    def _insert(self, place, items):
        old = zip(STORE[place.name], items, strict=True)
        STORE[place.name] = tuple(np.concatenate([mine, new.numpy()]) for mine, new in old)

    def _delete(self, place, ids):
        keep = ~np.isin(STORE[place.name][0], ids)
        STORE[place.name] = tuple(part[keep] for part in STORE[place.name])

    def _fetch(self, place, ids, *, vectors):
        if Dictionary.down:
            raise DeadError("refused")
        there = np.isin(STORE[place.name][0], ids)
        return STORE[place.name][0][there], STORE[place.name][1][there]

    def _find(self, place, points, k, allow, exclude):
        if Dictionary.down:
            raise DeadError("refused")
        if Dictionary.slow and len(exclude) == Dictionary.slow:
            raise SlowError("canceled")
        ids, vectors, keys = STORE[place.name]
        mine = ~np.isin(ids, exclude) & (True if allow is None else allow[ids])
        order = np.flatnonzero(mine)[ids[mine].argsort()]
        found = Found.nothing(len(points), k)
        for point, query in enumerate(points):
            scores = vectors[order] @ query
            best = np.argsort(-scores, kind="stable")[:k]
            found.put(point, ids[order][best], scores[best], keys[order][best])
        return found

    def _failures(self):
        return (DeadError,)

    def _slow(self):
        return (SlowError,)


@pytest.fixture
def dictionary(monkeypatch):
    monkeypatch.setitem(INDEXES, "dictionary", Dictionary)
    monkeypatch.setattr(Dictionary, "down", False)
    monkeypatch.setattr(Dictionary, "slow", False)
    return Dictionary


@pytest.fixture
def served(fitted, dictionary, tmp_path):
    """A bundle whose vectors are in the server, and the retriever with its own."""
    retriever = TwoTower.from_state(fitted.data, *fitted.state())
    index = dictionary("cosine").build(*retriever.placed_vectors())
    save(retriever.use_index(index), tmp_path / "bundle")
    return tmp_path / "bundle"
