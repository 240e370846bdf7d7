"""Item to item: items of one session are near each other, and no item is its own neighbour."""

import hashlib

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned import item_to_item
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.data.dataset import Dataset
from shortlist.data.pairs import ItemPairs, sessions
from shortlist.data.schema import Schema
from shortlist.data.synthetic import FIRST_ITEM_ID
from shortlist.errors import DataError, ModelError, QueryError
from shortlist.evaluation.evaluate import evaluate
from shortlist.similarity import SIMILARITIES, pair_score

YEARS = 1e9  # seconds: every history is one session
SMALL = {"dim": 8, "epochs": 2, "batch_size": 256, "session_gap": YEARS}


@pytest.fixture(scope="module")
def split(world):
    return Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()


@pytest.fixture(scope="module")
def fitted(split):
    return ItemToItem(
        dim=16, epochs=12, batch_size=256, session_gap=YEARS, latest_items=20, seed=1
    ).fit(split)


def digest(retriever: ItemToItem) -> str:
    return hashlib.sha256(retriever.item_vectors.numpy().tobytes()).hexdigest()


def test_two_sessions_of_two_teach_two_pairs():
    # Items 10 and 20 always come together, and so do 30 and 40.
    sides = [(10, 20), (30, 40)]
    rows = [
        (user, item, user, place)
        for user in range(40)
        for place, item in enumerate([*sides[user % 2], *sides[user % 2][::-1]])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "session", "t"], orient="row")
    schema = Schema(time="t", session="session")
    model = ItemToItem(dim=8, epochs=5, batch_size=16, learning_rate=0.05, patience=0)
    model.fit(Dataset.load(log, schema=schema).split())
    assert [near[0] for near in model.similar([10, 20, 30, 40], 1).ids] == [20, 10, 40, 30]


def test_an_item_is_never_its_own_negative():
    # Of two items one is the query and one the positive: nothing is left to be a negative.
    rows = [(user, item, user) for user in range(40) for item in (10, 20, 10, 20)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "s"], orient="row").with_row_index("t")
    split = Dataset.load(log, schema=Schema(time="t", session="s")).split()
    model = ItemToItem(dim=4, epochs=1, batch_size=16, correct_sampling=False).fit(split)
    assert model.epochs_run[0].loss == 0


def test_the_sampler_counts_the_stream_of_positives_not_the_log(split, monkeypatch):
    given = []
    real = item_to_item.sampler_of

    def sampler_of(training, counts, drawn):
        given.append(counts)
        return real(training, counts, drawn)

    monkeypatch.setattr(item_to_item, "sampler_of", sampler_of)
    model = ItemToItem(**SMALL | {"session_gap": 2_000_000}, pair_window=2).fit(split)
    made = sessions(model.data.training_log, gap=2_000_000)
    stream = ItemPairs(made, batch_size=256, window=2).expected_counts(model.data.items.trained)
    assert torch.equal(given[-1], stream)
    assert not torch.equal(stream, torch.from_numpy(model.data.item_counts).double())


def test_similar_items_share_the_planted_group(fitted, world):
    ids = fitted.data.items.external(fitted.item_rows.numpy())
    near = np.array(fitted.similar(ids, 5).ids) - FIRST_ITEM_ID
    own = world.item_group[ids.to_numpy() - FIRST_ITEM_ID]
    by_chance = 1 / (world.item_group.max() + 1)
    assert (world.item_group[near] == own[:, None]).mean() > 5 * by_chance


def test_it_beats_popularity_on_the_planted_world(fitted):
    report = evaluate(fitted, k=(10,))
    assert report.metrics["recall@10"].mean > 1.5 * report.popularity["recall@10"].mean


def test_an_item_is_not_similar_to_itself_and_k_is_filled(fitted):
    ids = fitted.data.items.external(fitted.item_rows.numpy())
    everything = fitted.similar(ids, 10_000)
    for item, near in zip(ids, everything.ids, strict=True):
        assert len(near) == len(set(near)) == len(ids) - 1
        assert item not in near


def test_an_unknown_item_gets_popular_items_and_a_flag(fitted, split):
    known = int(fitted.data.items.ids[0])
    found = fitted.similar([-5, known], 4)
    assert found.fallback.tolist() == [True, False]
    assert found.ids[0] == Popular().fit(split).recommend(Queries(histories=[[]]), 4).ids[0]
    with pytest.raises(QueryError, match="integers"):
        fitted.similar(["no"], 4)


def test_a_history_of_one_item_gets_what_is_similar_to_it(fitted):
    item = int(fitted.data.items.ids[3])
    asked = fitted.recommend(Queries(histories=[[item]]), 6)
    near = fitted.similar([item], 6)
    assert asked.ids == near.ids
    np.testing.assert_allclose(asked.scores, near.scores, atol=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_order_is_that_of_the_mean_similarity_to_the_latest_items(split, similarity):
    model = ItemToItem(**SMALL, similarity=similarity, latest_items=3).fit(split)
    items = model.data.items.ids.head(5).to_list()
    found = model.recommend(Queries(histories=[items]), 20)
    vectors = dict(zip(*model.encode_items(), strict=True))
    near = torch.stack([vectors[item] for item in found.ids[0]])
    by_hand = torch.stack(
        [pair_score(vectors[i].expand_as(near), near, similarity) for i in items[-3:]]
    ).mean(0)
    assert (by_hand.diff() <= 1e-5).all()
    assert not set(found.ids[0]) & set(items)


def test_scores_are_the_similarity_of_the_exported_vectors(fitted):
    users = fitted.data.users.ids.head(4)
    found, queries = fitted.recommend(users, 3), fitted.encode_users(users)
    vectors = dict(zip(*fitted.encode_items(), strict=True))
    for query, items, scores in zip(queries, found.ids, found.scores, strict=True):
        near = torch.stack([vectors[item] for item in items])
        by_hand = pair_score(query.expand_as(near), near, "cosine")
        np.testing.assert_allclose(by_hand.numpy(), scores, atol=1e-5)


def test_somebody_without_a_known_item_gets_popular_items_and_a_flag(fitted, split):
    found = fitted.recommend(Queries(histories=[[], [-1], [FIRST_ITEM_ID]]), 4)
    assert found.fallback.tolist() == [True, True, False]
    assert found.ids[0] == Popular().fit(split).recommend([-9], 4).ids[0]
    with pytest.raises(QueryError, match="nothing to make a vector of"):
        fitted.encode_users(Queries(histories=[[]]))


def test_an_item_that_was_never_paired_is_no_candidate():
    rows = [(user, item, user) for user in range(1, 9) for item in (10, 20, 30, 10, 20)]
    rows.append((9, 40, 9))  # stands alone in its session
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "s"], orient="row").with_row_index("t")
    split = Dataset.load(log, schema=Schema(time="t", session="s")).split()
    model = ItemToItem(dim=4, epochs=1, batch_size=4).fit(split)
    assert set(model.data.items.external(model.candidate_rows())) == {10, 20, 30}
    assert model.data.items.rows([40])[0] <= model.data.items.trained
    assert model.recommend(Queries(histories=[[40]]), 2).fallback.tolist() == [True]
    assert model.encodable_users().to_list() == list(range(1, 9))
    assert len(model.encode_users(model.encodable_users())) == 8


def test_shuffling_the_future_changes_no_trained_byte(world):
    moment = int(world.interactions["timestamp"].quantile(0.8))
    future = pl.col("timestamp") >= moment
    noise = world.interactions.with_columns(
        pl.when(future).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
    ).unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    digests = {
        digest(
            ItemToItem(**SMALL).fit(
                Dataset.load(log, schema=Schema(time="timestamp")).split(
                    "global-time", at=moment, validation_at=moment - 8_000_000
                )
            )
        )
        for log in (world.interactions, noise)
    }
    assert len(digests) == 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(split):
    one, two, three = (ItemToItem(**SMALL, seed=s).fit(split) for s in (5, 5, 6))
    assert digest(one) == digest(two) != digest(three)
    assert one.epochs_run == two.epochs_run


def test_a_bundle_answers_as_before_and_is_of_this_kind(fitted, tmp_path):
    save(fitted, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert type(loaded) is ItemToItem
    users, items = fitted.data.users.ids, fitted.data.items.ids
    for one, two in (
        (fitted.recommend(users, 20), loaded.recommend(users, 20)),
        (fitted.similar(items, 20), loaded.similar(items, 20)),
    ):
        assert (one.rows == two.rows).all()
        assert (one.scores == two.scores).all()


def test_a_refit_pairs_more_rows_and_says_so(split):
    model = ItemToItem(**SMALL, refit="all").fit(split)
    assert model.data.fit == "all"
    assert len(model.epochs_run) == 2


def test_the_gap_is_in_seconds_whatever_the_times_are_written_in(world):
    seconds = world.interactions
    dates = seconds.with_columns(pl.from_epoch("timestamp", time_unit="s"))
    digests = {
        digest(
            ItemToItem(**SMALL | {"session_gap": 200_000}).fit(
                Dataset.load(log, schema=Schema(time="timestamp", tie="file")).split()
            )
        )
        for log in (seconds, dates)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
@pytest.mark.parametrize("sampler", ["in_batch", "mixed", "popularity", "uniform"])
def test_every_mode_trains_with_samplers_of_every_kind(split, mode, sampler):
    loss = {"pointwise": "bce", "pairwise": "bpr", "listwise": "softmax"}[mode]
    model = ItemToItem(**SMALL | {"epochs": 1}, mode=mode, sampler=sampler, loss=loss)
    assert np.isfinite(model.fit(split).epochs_run[0].loss)


def test_item_features_place_items_that_nobody_has_met(world, world_schema):
    new = world.items.head(1).with_columns(item_id=pl.lit(7, dtype=pl.Int64))
    items = pl.concat([world.items, new])
    log = world.interactions
    split = Dataset.load(log, users=world.users, items=items, schema=world_schema).split()
    model = ItemToItem(**SMALL).fit(split)
    assert model.similar([7], 3).fallback.tolist() == [False]
    assert 7 in model.data.items.external(model.candidate_rows())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_id": True}, "no user tower"),
        ({"user_features": ["age"]}, "no user tower"),
        ({"history": "mean"}, "latest items' own vectors"),
        ({"history_length": 10}, "latest_items"),
        ({"neighbours": 5}, "u2u"),
        ({"weighted": True}, "a pair has two"),
        ({"hard": "hardest"}, "chosen for a user"),
        ({"positives": "u2u"}, "UserToUser for 'u2u'"),
        ({"temperature": 0}, "temperature must be > 0"),
        ({"sampler": "in_batch", "batch_size": 1}, "batch_size"),
        ({"hard_share": 0.5}, "hard_share does nothing"),
        ({"dropout": 0.5}, "dropout does nothing"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused_before_any_data(options, message):
    with pytest.raises(ModelError, match=message):
        ItemToItem(session_gap=10, **options)


def test_sessions_must_be_cut_by_one_thing_and_windows_need_an_order(world):
    plain = world.interactions.with_columns(pl.col("user_id").alias("s"))
    both = Dataset.load(plain, schema=Schema(time="timestamp", session="s")).split()
    with pytest.raises(ModelError, match="give one"):
        ItemToItem(session_gap=10).fit(both)
    unordered = Dataset.load(plain, schema=Schema(session="s")).split()
    with pytest.raises(ModelError, match="have no order"):
        ItemToItem(pair_window=3).fit(unordered)
    with pytest.raises(DataError, match="session_gap"):
        ItemToItem().fit(Dataset.load(plain, schema=Schema(time="timestamp")).split())
    model = ItemToItem(dim=8, epochs=1).fit(unordered)
    assert not model.recommend(model.data.users.ids.head(3), 4).fallback.any()
