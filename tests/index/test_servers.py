"""ServerIndex keeps its promises around a server, here one of a few lines."""

import json

import numpy as np
import pytest
import torch

from index.dictionary import STORE, Dictionary, dictionary, served  # noqa: F401 - fixtures
from shortlist.asking.gone import popular_if_gone
from shortlist.bundle.bundle import load
from shortlist.errors import BundleError, IndexServerError, ModelError
from shortlist.index import ExactIndex, MilvusCollection, PgVector


def some_users(retriever, count=20):
    return retriever.data.users.ids.head(count).to_list()


def test_a_bundle_of_vectors_in_a_server_holds_none_and_answers_as_before(served, fitted):
    with_vectors = fitted.item_vectors.numel() * 4
    files = {path.name: path.stat().st_size for path in served.iterdir()}
    assert files["item_vectors.safetensors"] < with_vectors / 4
    assert files["index.safetensors"] < 1_000
    again = load(served).retriever
    assert again._vectors is None
    mine, theirs = (one.recommend(some_users(fitted), 10) for one in (again, fitted))
    assert (mine.rows == theirs.rows).all()
    items = fitted.data.items.external(fitted.item_rows[:5].numpy()).to_list()
    assert (again.similar(items, 5).rows == fitted.similar(items, 5).rows).all()
    torch.testing.assert_close(
        again.encode_items()[1], fitted.encode_items()[1], rtol=1e-6, atol=1e-6
    )


def test_a_server_that_is_gone_gives_popular_items_flagged_where_that_was_asked_for(served, fitted):
    retriever = load(served).retriever
    users = some_users(fitted)
    Dictionary.down = True
    with pytest.raises(IndexServerError, match="memory gave no answer: refused"):
        retriever.recommend(users, 5)
    with popular_if_gone():
        answer = retriever.recommend(users, 5)
        alike = retriever.similar(fitted.data.items.ids.head(3).to_list(), 5)
    assert answer.fallback.all()
    assert (answer.rows >= 0).all()
    assert alike.fallback.all()
    Dictionary.down = False
    with pytest.raises(IndexServerError, match="memory"):  # it is left alone for a while
        retriever.recommend(users, 5)
    retriever.index._quiet_until = 0.0
    assert not retriever.recommend(users, 5).fallback.any()


def test_a_question_that_takes_too_long_does_not_take_the_server_from_others(dictionary):
    index = dictionary("dot").build(torch.arange(6), torch.ones(6, 2))
    dictionary.slow = 2  # questions that leave two items out
    with pytest.raises(IndexServerError, match="canceled"):
        index.search(torch.ones(1, 2), 3, exclude=(torch.arange(2), torch.tensor([0, 2])))
    assert (index.search(torch.ones(1, 2), 3).ids >= 0).all()


def test_a_bundle_loads_while_its_server_is_gone_and_is_refused_if_the_vectors_are_others(
    served, fitted
):
    Dictionary.down = True
    assert load(served).retriever.index.place.count == len(fitted.item_rows)
    Dictionary.down = False
    name = load(served).retriever.index.place.name
    ids, vectors, keys = STORE[name]
    STORE[name] = (ids, np.roll(vectors, 1, axis=0), keys)
    with pytest.raises(BundleError, match="the vector of row"):
        load(served)


def test_equal_scores_are_ordered_by_tie_key_and_lists_whose_last_place_was_a_choice_counted(
    dictionary,
):
    ids, vectors = torch.arange(6), torch.ones(6, 2)
    keys = torch.tensor([5, 4, 3, 2, 1, 0])
    index = dictionary("dot").build(ids, vectors, keys)
    hits = index.search(torch.ones(2, 2), 3)
    assert hits.ids.tolist() == [[3, 2, 1], [3, 2, 1]]  # the server gave 0, 1, 2 and 3
    assert index.cut_ties == 2
    index.search(torch.ones(1, 2), 6)
    assert index.cut_ties == 2


def test_the_best_interest_counts_and_an_item_is_found_once(dictionary):
    generator = torch.Generator().manual_seed(1)
    ids, vectors = torch.arange(50), torch.randn(50, 4, generator=generator)
    interests = torch.randn(5, 3, 4, generator=generator)
    exclude = torch.arange(10), torch.tensor([0, 4, 4, 4, 10, 10])
    allow = torch.arange(60) % 3 > 0
    mine, truth = (
        kind("dot").build(ids, vectors).search(interests, 12, exclude=exclude, allow=allow)
        for kind in (dictionary, ExactIndex)
    )
    assert torch.equal(mine.ids, truth.ids)
    torch.testing.assert_close(mine.scores, truth.scores)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MilvusCollection, {"uri": "http://shop:secret@127.0.0.1:19530"}),
        (PgVector, {"server": "postgresql://shop:secret@127.0.0.1/items"}),
        (PgVector, {"server": "host=127.0.0.1 password=secret"}),
    ],
)
def test_a_password_never_gets_into_a_bundle(kind, settings):
    with pytest.raises(ModelError, match="must not contain a password") as told:
        kind("dot", **settings)
    assert "SHORTLIST_" in str(told.value)


def test_a_collection_in_a_temporary_file_is_kept_in_no_bundle(monkeypatch):
    monkeypatch.delenv("SHORTLIST_MILVUS_URI", raising=False)
    with pytest.raises(ModelError, match="temporary file of this process"):
        MilvusCollection("dot").state()


def test_a_state_holds_where_the_vectors_are_and_how_many(dictionary):
    index = dictionary("dot").build(torch.arange(3), torch.ones(3, 2))
    about = json.loads(index.state()["about"].numpy().tobytes())
    assert about["place"]["count"] == 3
    assert about["place"]["name"].startswith("shortlist_")


def test_no_password_of_the_environment_is_shown(monkeypatch):
    monkeypatch.setenv("SHORTLIST_MILVUS_URI", "http://root:hidden@h:19530/shop")
    assert MilvusCollection("dot").address == "http://h:19530/shop"
    pytest.importorskip("psycopg")
    index = PgVector("dot", server="host=h")
    said = "host=127.0.0.1 port=1 password=hidden sslpassword=hidden"
    monkeypatch.setenv("SHORTLIST_PGVECTOR", said)
    assert index.address == "host=127.0.0.1 port=1"
    monkeypatch.setenv("SHORTLIST_PGVECTOR", "host=h password=not hidden")
    with pytest.raises(IndexServerError, match="is not a PostgreSQL connection string") as refused:
        index.build(torch.arange(3), torch.ones(3, 2))
    assert "hidden" not in str(refused.value)
