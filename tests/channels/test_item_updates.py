"""Items added or removed without training act as if they had always, or never, been there."""

from copy import copy

import numpy as np
import polars as pl
import pytest
import torch

from answers import assert_same_up_to_rounding
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.ease import EASE
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.dataset import Dataset
from shortlist.errors import DataError, ModelError, QueryError
from shortlist.index import FaissHNSW

NEW = {"id": 90_001, "title": "the new one", "tags": ["sea", "crime"], "price": 7.5}
TRAINED, USER = 500_005, 10_001
SMALL = {"dim": 8, "epochs": 1, "batch_size": 256, "seed": 3}


@pytest.fixture
def retriever(fitted):
    return copy(fitted)


def everybody(retriever, k=1_000):
    """All that a retriever would ever answer: to users, to strangers, to histories."""
    users = retriever.data.users.ids
    known = retriever.recommend(Queries(users=users, exclude_seen=False), k)
    strangers = retriever.recommend(Queries(histories=[[]]), k)
    return {id_ for found in (known, strangers) for ids in found.ids for id_ in ids}


def test_an_item_that_comes_later_is_answered_as_if_it_had_been_in_the_catalogue(
    world, world_schema, fitted, retriever
):
    row = {name: NEW.get(name if name != "item_id" else "id") for name in world.items.columns}
    row["tags"] = "|".join(NEW["tags"]) if world.items["tags"].dtype == pl.String else NEW["tags"]
    catalogue = pl.concat([world.items, pl.DataFrame([row], schema=world.items.schema)])
    split = Dataset.load(
        world.interactions, users=world.users, items=catalogue, schema=world_schema
    ).split("leave-last-out")
    always = TwoTower(dim=16, epochs=3, batch_size=128, seed=1).fit(split)
    later = retriever.change_items(add=[NEW])
    users = fitted.data.users.ids
    for queries in (Queries(users=users), Queries(histories=[[]])):
        one, other = always.recommend(queries, 300), later.recommend(queries, 300)
        assert_same_up_to_rounding((one.ids, one.scores), (other.ids, other.scores))
    assert NEW["id"] in everybody(later)
    where = {"column": "tags", "eq": "crime"}
    first, second = (r.recommend(Queries(users=[USER], where=where), 300) for r in (always, later))
    assert first.ids == second.ids
    assert NEW["id"] in second.ids[0]
    assert later.data.titles(later.data.items.rows([NEW["id"]])) == ["the new one"]


def test_the_retriever_it_was_copied_from_answers_as_before(fitted, retriever):
    users = fitted.data.users.ids
    before = fitted.recommend(users, 20)
    assert NEW["id"] in everybody(retriever.change_items(add=[NEW], remove=before.ids[0][:5]))
    assert NEW["id"] not in everybody(retriever)
    after = fitted.recommend(users, 20)
    assert after.ids == before.ids
    assert (after.scores == before.scores).all()
    assert NEW["id"] not in everybody(fitted)


def test_a_removed_item_is_answered_to_nobody_until_it_is_restored(retriever):
    users = retriever.data.users.ids
    before = retriever.recommend(users, 50)
    popular = retriever.recommend(Queries(histories=[[]]), 10).ids[0]
    gone = {*popular[:3], *before.ids[0][:3]}
    retriever = retriever.change_items(remove=list(gone))
    assert not gone & everybody(retriever)
    assert len(retriever.candidate_rows()) == len(everybody(retriever))
    kept = [[id_ for id_ in ids if id_ not in gone] for ids in before.ids]
    after = retriever.recommend(users, 40).ids
    assert all(a[: len(b)] == b[:40] for a, b in zip(after, kept, strict=True))
    retriever = retriever.change_items(restore=list(gone))
    back = retriever.recommend(users, 50)
    assert back.ids == before.ids
    np.testing.assert_allclose(back.scores, before.scores, atol=1e-6)


def test_the_features_of_a_new_item_can_be_corrected(retriever):
    retriever = retriever.change_items(add=[NEW])
    retriever = retriever.change_items(
        add=[NEW | {"tags": ["space"], "price": 1}, NEW | {"id": 90_002}]
    )
    row = retriever.data.items.rows([90_001])[0]
    assert (retriever.item_rows == row).sum() == 1
    assert not retriever.data.item_frame["id"].is_duplicated().any()
    same = {"column": "tags", "eq": "sea"}
    found = retriever.recommend(Queries(users=[USER], where=same), 300).ids[0]
    assert (90_001 in found, 90_002 in found) == (False, True)
    vectors = dict(zip(retriever.item_rows.tolist(), retriever.item_vectors, strict=True))
    assert not torch.equal(vectors[row], vectors[int(retriever.data.items.rows([90_002])[0])])


def test_a_filter_asked_before_the_change_knows_the_new_items(retriever):
    queries = Queries(users=[USER], where={"not": {"column": "price", "min": 100}})
    retriever.recommend(queries, 300)
    retriever = retriever.change_items(add=[NEW])
    assert NEW["id"] in retriever.recommend(queries, 300).ids[0]


def test_an_approximate_index_takes_the_changes_too(fitted, retriever):
    rows, vectors, keys = fitted.placed_vectors()
    retriever.use_index(FaissHNSW("cosine").build(rows, vectors, keys))
    exact = copy(fitted)
    gone = fitted.recommend([USER], 3).ids[0]
    retriever, exact = (each.change_items(add=[NEW], remove=gone) for each in (retriever, exact))
    assert type(retriever.index) is FaissHNSW
    users = fitted.data.users.ids
    assert retriever.recommend(users, 10).ids == exact.recommend(users, 10).ids


def test_a_bundle_of_the_changed_retriever_answers_alike(retriever, tmp_path):
    gone = retriever.recommend(Queries(histories=[[]]), 3).ids[0]
    retriever = retriever.change_items(add=[NEW], remove=gone)
    save(retriever, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert everybody(loaded) == everybody(retriever)
    assert loaded.data.removed == retriever.data.removed
    loaded = loaded.change_items(restore=gone)
    assert set(gone) < everybody(loaded)


def test_neighbours_of_items_change_as_well(split):
    retriever = ItemToItem(session_gap=86_400, **SMALL).fit(split)
    first = retriever.similar([NEW["id"]], 5)
    assert first.fallback.all()
    retriever = retriever.change_items(add=[NEW])
    found = retriever.similar([NEW["id"]], 5)
    assert not found.fallback.any()
    retriever = retriever.change_items(remove=[found.ids[0][0]])
    assert retriever.similar([NEW["id"]], 4).ids[0] == found.ids[0][1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add": [{"price": 3}]}, "number 0 has no 'id'"),
        ({"add": [NEW | {"colour": "red"}]}, "no column 'colour'"),
        ({"add": [NEW | {"id": "x"}]}, "column 'id'"),
        ({"add": [NEW | {"id": None}]}, "id is missing"),
        ({"add": [NEW | {"id": 2.5}]}, "ids are floats"),
        ({"add": [NEW, NEW]}, "90001 is given twice"),
        ({"add": [NEW | {"price": "cheap"}]}, "price"),
        ({"add": [NEW | {"price": [1.0]}]}, "price"),
        ({"add": [NEW | {"price": 1e300}]}, "'price', row 1: 1e\\+300 is too large"),
        ({"add": [NEW | {"price": 1e38}]}, "'price', id 90001: 1e\\+38 is too large"),
        ({"add": [NEW | {"tags": [["sea"]]}]}, "tags"),
        ({"add": [NEW | {"title": 5}]}, "title"),
        ({"add": [{"id": 90_001, "title": "bare"}]}, "90001 has none of the features"),
        ({"add": [NEW | {"id": TRAINED}]}, "500005 was trained on"),
        ({"add": NEW}, "add takes a list of items"),
        ({"add": ["x"]}, "number 0 must be a table"),
        ({"remove": [90_001]}, "90001 is unknown"),
        ({"remove": [TRAINED, TRAINED]}, "500005 is given twice"),
        ({"restore": [TRAINED]}, "500005 was not removed"),
    ],
)
def test_what_cannot_be_changed_is_refused_and_changes_nothing(retriever, changes, message):
    before, state = retriever.recommend([USER], 20).ids, dict(retriever.__dict__)
    with pytest.raises(DataError, match=message):
        retriever.change_items(**changes)
    assert retriever.__dict__ == state
    assert retriever.recommend([USER], 20).ids == before


def test_an_item_is_removed_once_and_not_in_two_lists(retriever):
    retriever = retriever.change_items(add=[NEW], remove=[TRAINED])
    with pytest.raises(DataError, match="500005 is not among the candidates"):
        retriever.change_items(remove=[TRAINED])
    with pytest.raises(DataError, match="90001 is in two lists"):
        retriever.change_items(add=[NEW], remove=[NEW["id"]])
    with pytest.raises(QueryError, match="item ids of this data are integers"):
        retriever.change_items(remove=["500005"])


def test_the_last_item_stays(retriever):
    every = retriever.data.items.external(retriever.candidate_rows()).to_list()
    with pytest.raises(DataError, match="no item would be left"):
        retriever.change_items(remove=every)
    retriever = retriever.change_items(remove=every[1:])
    assert everybody(retriever) == {every[0]}


def test_a_tower_without_features_removes_but_does_not_add(split):
    retriever = TwoTower(item_features=[], **SMALL).fit(split)
    with pytest.raises(ModelError, match="reads no features"):
        retriever.change_items(add=[NEW])
    gone = retriever.recommend([USER], 1).ids[0]
    retriever = retriever.change_items(remove=gone)
    assert gone[0] not in everybody(retriever)


def test_a_retriever_without_item_vectors_says_so(split):
    with pytest.raises(ModelError, match="UserToUser has no vectors of items"):
        UserToUser(**SMALL).fit(split).change_items(remove=[TRAINED])
    assert not hasattr(EASE(), "change_items")


def test_a_new_item_can_stand_in_a_history_that_is_read_with_item_vectors(split):
    old = TwoTower(**SMALL, history_reads="items", user_features=[]).fit(split)
    asked = Queries(histories=[[NEW["id"]]])
    assert old.recommend(asked, 5).fallback.tolist() == [True]
    assert old.change_items(add=[NEW]).recommend(asked, 5).fallback.tolist() == [False]
