"""A bundle without its log answers histories as before, and says what it cannot do."""

import numpy as np
import polars as pl
import pytest

from bundle.make_golden import made, world
from shortlist.asking.queries import Queries
from shortlist.blending.retrievers import RETRIEVERS, parts
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.data.dataset import Dataset
from shortlist.data.histories import LoggedHistories
from shortlist.data.schema import Schema
from shortlist.data.updates import with_events
from shortlist.doctor import Subject, examine
from shortlist.errors import BundleError, ModelError, QueryError
from shortlist.evaluation.evaluate import evaluate
from shortlist.serving.served import Served, self_test


@pytest.fixture(scope="module")
def split():
    return world()


def fitted(kind, split):
    """A retriever of this kind; popular ones without what only the log tells."""
    return Popular().fit(split) if kind == "popular" else made(kind, split)


def same(found, wanted):
    assert found.ids == wanted.ids
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.fallback, wanted.fallback)


@pytest.mark.parametrize("kind", RETRIEVERS)
def test_a_bundle_without_its_log_answers_as_one_with_it_or_is_refused(kind, split, tmp_path):
    retriever = fitted(kind, split)
    if any(channel.reads_log for channel in parts(retriever).values()):
        with pytest.raises(BundleError, match="answers from the log itself"):
            save(retriever, tmp_path / "without", log=False)
        return
    save(retriever, tmp_path / "with")
    save(retriever, tmp_path / "without", log=False)
    whole = load(tmp_path / "with").retriever
    store = LoggedHistories(whole.data.log)
    without = load(tmp_path / "without").retriever
    stored = load(tmp_path / "without", store=store).retriever
    items, users = whole.data.items.ids.to_list(), whole.data.users.ids
    asked = Queries(histories=[items[:3], items[4:5], [], items[-3:]])
    same(without.recommend(asked, 6), whole.recommend(asked, 6))
    known = Queries(users, exclude_seen=False)  # what was met below min_weight went with the log
    same(stored.recommend(known, 6), whole.recommend(known, 6))
    with pytest.raises(QueryError, match="saved without its log and knows no user's history"):
        without.recommend(users[:2], 3)
    recent = Queries(users[:2], recent=[items[:3], items[4:5]])
    assert all(len(ids) == 3 for ids in without.recommend(recent, 3).ids)
    with pytest.raises(ModelError, match="measuring needs the log"):
        evaluate(without)
    assert pl.read_parquet(tmp_path / "without" / "log.parquet").height == 0
    assert not (tmp_path / "without" / "met.parquet").exists()


def test_a_bundle_saved_again_stays_without_its_log_and_takes_no_events(split, tmp_path):
    save(fitted("item-cf", split), tmp_path / "first", log=False)
    loaded = load(tmp_path / "first").retriever
    assert save(loaded, tmp_path / "again") == load(tmp_path / "first").id
    with pytest.raises(ModelError, match="taking new events needs the log"):
        with_events(loaded.data, pl.DataFrame({"user": [1], "item": ["x"]}))


def test_popularity_that_needs_times_or_segments_is_refused_without_the_log(split, tmp_path):
    for options in ({"half_life": 9.0}, {"segment": "region"}):
        popular = Popular(**options).fit(split)
        with pytest.raises(BundleError, match="popular answers from the log itself"):
            save(popular, tmp_path / "no", log=False)


def test_a_service_takes_a_bundle_without_its_log_and_answers_histories(split, tmp_path):
    save(fitted("item-cf", split), tmp_path / "bundle", log=False)
    served = Served(load(tmp_path / "bundle"), tmp_path / "bundle", 0.0)
    self_test(served)
    assert examine(Subject.of_retriever(served.retriever)) == []


def test_items_that_were_never_a_target_stay_out_of_answers_without_the_log(tmp_path):
    rows = [(u, i, 10 * u + n) for u in range(1, 9) for n, i in enumerate((1, 2, 3 + u % 2, 9))]
    kinds = ["buy" if i != 9 else "view" for _, i, _ in rows]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "t"], orient="row")
    schema = Schema(time="t", event="e", events={"buy": {"target": True}, "view": {}})
    split = Dataset.load(log.with_columns(e=pl.Series(kinds)), schema=schema).split()
    for channel in (Popular(), ItemCF()):
        save(channel.fit(split), tmp_path / "with", overwrite=True)
        save(channel, tmp_path / "without", log=False, overwrite=True)
        asked = Queries(histories=[[1], [9], []])
        with_log, without = (load(tmp_path / n).retriever for n in ("with", "without"))
        same(without.recommend(asked, 6), with_log.recommend(asked, 6))
