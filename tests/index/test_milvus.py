"""MilvusCollection: what the contract asks, how it filters, and how it publishes.

On the embedded engine; `make milvus-server` runs it, and the contract of all indexes, on a server,
which SHORTLIST_MILVUS_URI names.
"""

import os

import numpy as np
import pytest
import torch

from shortlist.errors import IndexServerError, ModelError
from shortlist.index import ExactIndex, milvus
from shortlist.index.milvus import MilvusCollection

SERVER = os.environ.get("SHORTLIST_MILVUS_URI")
pytest.importorskip("pymilvus" if SERVER else "milvus_lite")


@pytest.fixture(autouse=True, scope="module")
def server(tmp_path_factory):
    """The server, or a file for the embedded engine."""
    with pytest.MonkeyPatch.context() as patch:
        if SERVER is None:
            file = tmp_path_factory.mktemp("milvus") / "milvus.db"
            patch.setenv("SHORTLIST_MILVUS_URI", str(file))
        yield


def client():
    return MilvusCollection("dot")._client()


def world(items=600, users=20, width=8):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randperm(5 * items, generator=generator)[:items],
        torch.randn(items, width, generator=generator),
        torch.randn(users, width, generator=generator),
    )


def recall(hits, truth):
    pairs = zip(hits.ids.tolist(), truth.ids.tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / truth.ids.numel()


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_it_finds_scores_filters_and_forgets_as_every_index_does(similarity):
    ids, vectors, queries = world()
    index = MilvusCollection(similarity, collection=f"facts_{similarity}", timeout=60).build(
        ids, vectors
    )
    exact = ExactIndex(similarity).build(ids, vectors)
    allow = torch.rand(3_000, generator=torch.Generator().manual_seed(3)) < 0.7
    seen = exact.search(queries, 30).ids.reshape(-1), torch.arange(21) * 30
    for filters in ({}, {"allow": allow}, {"exclude": seen}):
        truth = exact.search(queries, 20, **filters)
        hits = index.search(queries, 20, **filters)
        assert recall(hits, truth) >= 0.95
        torch.testing.assert_close(hits.scores, truth.scores, atol=0.05, rtol=0.05)
    gone = exact.search(queries, 1).ids[:, 0].unique()
    hits = index.remove(gone).search(queries, 20)
    assert not torch.isin(hits.ids, gone).any()
    assert recall(hits, exact.remove(gone).search(queries, 20)) >= 0.95
    index.add(gone[:1], vectors[ids == gone[0]])
    assert (index.search(vectors[ids == gone[0]], 5).ids == gone[0]).any()


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    ids, vectors, queries = world(items=20)
    index = MilvusCollection("dot", collection="away", timeout=0.2).build(ids, vectors)
    monkeypatch.setenv("SHORTLIST_MILVUS_URI", "http://127.0.0.1:9")
    away = MilvusCollection.from_state("dot", index.state())
    for _ in range(2):
        with pytest.raises(IndexServerError, match=r"http://127\.0\.0\.1:9 gave no answer"):
            away.search(queries, 3)


def test_a_build_is_a_new_collection_behind_the_same_alias_and_the_last_but_one_goes():
    ids, vectors, _ = world(items=50)
    known = client()
    names = []
    for _ in range(3):
        index = MilvusCollection("cosine", collection="published").build(ids, vectors)
        names.append(index.place.name)
        assert known.list_aliases(index.place.name)["aliases"] == ["published"]
    held = {name for name in known.list_collections() if name.startswith("published_")}
    assert held == set(names[1:])


def test_a_state_joins_its_collection_and_one_that_went_is_told_by_name():
    ids, vectors, queries = world(items=100)
    index = MilvusCollection("dot", collection="kept").build(ids, vectors).remove(ids[:5])
    before = index.search(queries, 10)
    joined = MilvusCollection.from_state("dot", index.state())
    assert torch.equal(joined.search(queries, 10).ids, before.ids)
    torch.testing.assert_close(joined.vectors_of(ids[5:8]), vectors[5:8])
    assert not joined.vectors_of(ids[:5]).any()
    client().drop_alias("kept")
    client().drop_collection(index.place.name)
    gone = MilvusCollection.from_state("dot", index.state())
    with pytest.raises(IndexServerError, match=f"no collection {index.place.name}"):
        gone.search(queries, 10)


@pytest.mark.parametrize("most_listed", [10_000, 50])
def test_filters_longer_than_the_server_is_told_are_kept_here_and_as_exact(
    most_listed, monkeypatch
):
    monkeypatch.setattr(milvus, "MOST_LISTED", most_listed)
    ids, vectors, queries = world()
    index = MilvusCollection("dot", collection="filtered", timeout=60).build(ids, vectors)
    exact = ExactIndex("dot").build(ids, vectors)
    for share in (0.5, 0.05):
        allow = torch.rand(3_000, generator=torch.Generator().manual_seed(2)) < share
        seen = exact.search(queries, 12, allow=allow).ids.reshape(-1), torch.arange(21) * 12
        for filters in ({"allow": allow}, {"allow": allow, "exclude": seen}):
            hits = index.search(queries, 20, **filters)
            truth = exact.search(queries, 20, **filters)
            assert torch.equal(hits.ids >= 0, truth.ids >= 0)
            assert allow[hits.ids[hits.ids >= 0]].all()
            assert recall(hits, truth) >= 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uri": "http://a:b@127.0.0.1:1"}, "must not contain a password"),
        ({"consistency": "strong"}, "consistency cannot be 'strong'. Did you mean 'Strong'"),
        ({"collection": "a-b"}, "collection must be up to 30 letters"),
        ({"m": 1}, "m must be >= 2, got 1"),
    ],
)
def test_settings_that_milvus_cannot_take_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        MilvusCollection("dot", **options)


def rough(similarity):
    """An index whose graph finds much less than all, and ids, vectors and queries for it."""
    ids, vectors, queries = world(items=2_000, width=32)
    index = MilvusCollection(
        similarity, collection="rough", timeout=60, m=2, ef_construction=4, ef_search=1
    )
    return index.build(ids, vectors), queries


def test_an_answer_does_not_depend_on_what_was_asked_before():
    """A server may keep where the search of a point ended, and begin there the next time."""
    index, queries = rough("cosine")
    first = index.search(queries, 5).ids
    assert torch.equal(index.search(queries, 5).ids, first)
    assert torch.equal(index.search(queries.flip(0), 5).ids.flip(0), first)


@pytest.mark.skipif(SERVER is None, reason="for a server: make milvus-server")
def test_the_first_answers_of_a_version_are_those_of_its_graph(monkeypatch):
    """A collection that is loaded while it is written is scanned, until the graph replaces that."""
    states, wait = [], MilvusCollection._wait

    def watched(self, known, name):
        states.append(str(known.get_load_state(name)["state"]))
        wait(self, known, name)
        states.append(str(known.get_load_state(name)["state"]))

    monkeypatch.setattr(MilvusCollection, "_wait", watched)
    index, queries = rough("dot")
    assert states == ["NotLoad", "NotLoad"]
    assert str(client().get_load_state(index.place.name)["state"]) == "Loaded"
    exact = ExactIndex("dot").build(*world(items=2_000, width=32)[:2])
    assert recall(index.search(queries, 5), exact.search(queries, 5)) < 0.9


@pytest.mark.skipif(SERVER is None, reason="for a server: make milvus-server")
@pytest.mark.parametrize("consistency", ["Strong", "Bounded", "Session", "Eventually"])
def test_the_collection_has_the_consistency_asked_for_and_strong_sees_its_own_writes(consistency):
    ids, vectors, _ = world(items=100)
    index = MilvusCollection("euclidean", collection="level", consistency=consistency).build(
        ids[:50], vectors[:50]
    )
    told = client().describe_collection(index.place.name)["consistency_level"]
    names = {0: "Strong", 1: "Session", 2: "Bounded", 3: "Eventually"}
    assert names.get(told, told) == consistency
    index.add(ids[50:], vectors[50:])
    if consistency == "Strong":
        assert torch.equal(index.search(vectors[50:], 1).ids[:, 0], ids[50:])


@pytest.mark.skipif(SERVER is None, reason="for a server: make milvus-server")
def test_another_client_that_reads_the_alias_sees_one_version_while_others_are_published():
    """Each version is another set of vectors, so that an answer of two of them would be seen."""
    from pymilvus import MilvusClient

    reader = MilvusClient(uri=SERVER)
    ids, vectors, _ = world(items=40)
    worlds = [vectors + 100 * number for number in range(4)]
    for number, moved in enumerate(worlds):
        MilvusCollection("euclidean", collection="switched").build(ids, moved)
        for place in range(0, 40, 8):
            found = reader.search(
                "switched",
                data=[moved[place].numpy()],
                limit=10,
                search_params={"metric_type": "L2", "params": {"ef": 64}},
            )[0]
            assert found[0]["distance"] < 1e-3, number
            assert all(hit["distance"] < 10_000 for hit in found)


@pytest.mark.parametrize("listed", [10_000, 1])
def test_a_query_that_comes_back_short_changes_how_no_other_is_answered(listed, monkeypatch):
    ids, vectors, queries = world(items=60)
    index = MilvusCollection("dot", collection="short", timeout=60).build(ids, vectors)
    monkeypatch.setattr(milvus, "MOST_LISTED", listed)
    ask, scored, compared = index._ask, index._scored, []

    def short(place, points, *rest):
        found = ask(place, points, *rest)
        found.ids[points[:, 0] > 0, 2:], found.scores[points[:, 0] > 0, 2:] = -1, -np.inf
        return found

    def watched(place, points, *rest):
        compared.append(points)
        return scored(place, points, *rest)

    monkeypatch.setattr(index, "_ask", short)
    monkeypatch.setattr(index, "_scored", watched)
    allow = torch.arange(3_000) % 4 > 0
    hits = index.search(queries, 10, allow=allow)
    assert np.array_equal(compared[0], queries[queries[:, 0] > 0].numpy())
    truth = ExactIndex("dot").build(ids, vectors).search(queries, 10, allow=allow)
    assert torch.equal(hits.ids, truth.ids)


def test_settings_of_a_graph_are_refused_where_there_is_none():
    with pytest.raises(ModelError, match=r"m and ef_construction do nothing.*set ef_search"):
        MilvusCollection("dot", m=32)
    assert MilvusCollection("dot", m=32, ef_search=64).m == 32
    assert MilvusCollection("cosine", m=32).m == 32
    ids, vectors, queries = world()
    index = MilvusCollection("dot", collection="scanned", timeout=60).build(ids, vectors)
    before = index.search(queries, 5).ids
    with pytest.raises(ModelError, match=r"ef_search does nothing.*build again"):
        index.adjust(ef_search=64)
    assert index.ef_search is None
    assert torch.equal(index.adjust(timeout=30.0).search(queries, 5).ids, before)
