"""MilvusCollection: what the contract asks, and how it publishes.

On the embedded engine; `make milvus-server` runs it on a server, which SHORTLIST_MILVUS names.
"""

import os

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.index import ExactIndex
from shortlist.index.milvus import MilvusCollection, _client

SERVER = os.environ.get("SHORTLIST_MILVUS")
pytest.importorskip("pymilvus" if SERVER else "milvus_lite")


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
    index = MilvusCollection(similarity, uri=SERVER, collection=f"facts_{similarity}").build(
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


def test_a_build_is_a_new_collection_behind_the_same_alias_and_the_last_but_one_goes():
    ids, vectors, _ = world(items=50)
    client = _client(SERVER)
    names = []
    for _ in range(3):
        index = MilvusCollection("cosine", uri=SERVER, collection="published").build(ids, vectors)
        names.append(index._name)
        assert client.list_aliases(index._name)["aliases"] == ["published"]
    held = {name for name in client.list_collections() if name.startswith("published_")}
    assert held == set(names[1:])


def test_a_state_joins_its_collection_or_publishes_it_anew():
    ids, vectors, queries = world(items=100)
    index = (
        MilvusCollection("dot", uri=SERVER, collection="kept").build(ids, vectors).remove(ids[:5])
    )
    before = index.search(queries, 10)
    joined = MilvusCollection.from_state("dot", index.state())
    assert joined._name == index._name
    assert torch.equal(joined.search(queries, 10).ids, before.ids)
    state = index.state()
    _client(SERVER).drop_alias("kept")
    _client(SERVER).drop_collection(index._name)
    anew = MilvusCollection.from_state("dot", state)
    assert anew._name != index._name
    assert recall(anew.search(queries, 10), before) >= 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": "strong"}, "consistency cannot be 'strong'. Did you mean 'Strong'"),
        ({"collection": "a-b"}, "collection must be letters"),
        ({"m": 1}, "m must be >= 2, got 1"),
    ],
)
def test_settings_that_milvus_cannot_take_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        MilvusCollection("dot", **options)


@pytest.mark.skipif(SERVER is None, reason="for a server: make milvus-server")
@pytest.mark.parametrize("consistency", ["Strong", "Bounded", "Session", "Eventually"])
def test_the_collection_has_the_consistency_asked_for_and_strong_sees_its_own_writes(consistency):
    ids, vectors, _ = world(items=100)
    index = MilvusCollection(
        "euclidean", uri=SERVER, collection="level", consistency=consistency
    ).build(ids[:50], vectors[:50])
    told = _client(SERVER).describe_collection(index._name)["consistency_level"]
    names = {0: "Strong", 1: "Session", 2: "Bounded", 3: "Eventually"}
    assert names.get(told, told) == consistency
    index.add(ids[50:], vectors[50:])
    if consistency == "Strong":
        found = index._find(vectors[50:].numpy(), 1, None)
        assert found[:, 0].tolist() == list(range(50, 100))


@pytest.mark.skipif(SERVER is None, reason="for a server: make milvus-server")
def test_another_client_that_reads_the_alias_sees_one_version_while_others_are_published():
    """Each version is another set of vectors, so that an answer of two of them would be seen."""
    from pymilvus import MilvusClient

    reader = MilvusClient(uri=SERVER)
    ids, vectors, _ = world(items=40)
    worlds = [vectors + 100 * number for number in range(4)]
    for number, moved in enumerate(worlds):
        MilvusCollection("euclidean", uri=SERVER, collection="switched").build(ids, moved)
        for place in range(0, 40, 8):
            found = reader.search(
                "switched",
                data=[moved[place].numpy()],
                limit=10,
                search_params={"metric_type": "L2", "params": {"ef": 64}},
            )[0]
            assert found[0]["distance"] < 1e-3, number
            assert all(hit["distance"] < 10_000 for hit in found)
