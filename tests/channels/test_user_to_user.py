"""User to user: halves of one history are near, neighbours lend items, seen items stay out."""

import hashlib

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.capabilities import EncodesItems
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import FIRST_USER_ID
from shortlist.data.updates import with_events
from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.evaluate import evaluate
from shortlist.similarity import SIMILARITIES, pair_score

SMALL = {"dim": 8, "epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def split(world):
    return Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()


@pytest.fixture(scope="module")
def fitted(split):
    return UserToUser(dim=16, epochs=25, batch_size=64, seed=1).fit(split)


def digest(retriever: UserToUser) -> str:
    return hashlib.sha256(retriever.user_vectors.numpy().tobytes()).hexdigest()


def placed(log: pl.DataFrame, vectors: list[list[float]], **options) -> UserToUser:
    """A retriever whose users lie where they are put; the queries' vectors are theirs."""
    dataset = Dataset.load(log, schema=Schema(time="t"))
    model = UserToUser(dim=len(vectors[0]), **options)
    model.set_data(dataset.split("column" if "split" in log.columns else None).training_data())
    rows = torch.arange(1, len(vectors) + 1)
    model.set_users(rows, torch.tensor(vectors))
    model._encode_block = lambda block: model.user_vectors[(block.users - 1).clamp(min=0)]
    return model


@pytest.fixture
def three():
    """Users 1, 2 and 3 trained on {10, 20}, {10, 30} and {10, 30, 40}; two more events each."""
    trained = {1: [10, 20], 2: [10, 30], 3: [10, 30, 40]}
    rows = [(user, item) for user, items in trained.items() for item in [*items, 98, 99]]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("t")


@pytest.mark.parametrize(
    ("similarity", "weights"),
    [("cosine", (0.8, 0.6)), ("dot", (1.6, 0.6)), ("euclidean", (1 / 2.8, 1 / 1.8))],
)
def test_items_are_worth_the_similarities_of_those_who_met_them(three, similarity, weights):
    # User 1 lies at (1, 0), user 2 at (1.6, 1.2) and user 3 at (0.6, 0.8).
    model = placed(three, [[1, 0], [1.6, 1.2], [0.6, 0.8]], similarity=similarity)
    near, far = weights
    found = model.recommend(Queries([1], exclude_seen=False), 9)
    scores = dict(zip(found.ids[0], found.scores[0].tolist(), strict=False))
    expected = {10: near + far, 30: near + far, 40: far}
    assert scores == pytest.approx(expected, abs=1e-6)
    unseen = model.recommend(Queries([1], before="validation"), 9)
    assert unseen.ids[0] == [30, 40]


def test_items_of_one_worth_come_in_the_order_of_their_hash():
    trained = {1: [10, 20], 2: [30, 40, 50, 60, 70, 80]}
    rows = [(user, item) for user, items in trained.items() for item in [*items, 98, 99]]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("t")
    model = placed(log, [[1, 0], [1, 0.1]])
    found = model.recommend(Queries([1]), 9)
    keys = model.data.items.tie_keys[found.rows[0][:6]]
    assert sorted(found.ids[0]) == trained[2] != found.ids[0]
    assert (np.diff(keys) > 0).all()


def test_only_as_many_neighbours_as_asked_lend_their_items(three):
    model = placed(three, [[1, 0], [1.6, 1.2], [0.6, 0.8]], neighbours=1)
    assert model.recommend(Queries([1], before="validation"), 9).ids[0] == [30]


def test_who_points_the_other_way_lends_nothing_and_takes_nothing(three):
    model = placed(three, [[1, 0], [-1, 0], [-1, 0.1]])
    assert model.recommend(Queries([1], before="validation"), 9).ids[0] == []
    model = placed(three, [[1, 0], [-1, 0], [0.1, 1]])
    assert model.recommend(Queries([1], before="validation"), 9).ids[0] == [30, 40]


def test_an_answer_does_not_depend_on_the_blocks_it_is_made_in(fitted, monkeypatch):
    users = fitted.data.users.ids.head(40)
    whole = fitted.recommend(users, 10)
    monkeypatch.setattr("shortlist.channels.learned.user_to_user.CELLS", 3_000)
    parts = fitted.recommend(users, 10)
    assert (whole.rows == parts.rows).all()
    assert (whole.scores == parts.scores).all()


def test_items_that_came_since_the_fit_are_lent_by_nobody(three):
    whole = Dataset.load(three, schema=Schema(time="t")).split().training_data("all")
    more = pl.DataFrame({"user": [1, 4], "item": [77, 77], "time": [100, 101]})
    model = UserToUser(dim=2).fit(Dataset.load(three, schema=Schema(time="t")).split())
    model.refit(Dataset.load(three, schema=Schema(time="t")).split(), "all")
    model.observe(with_events(whole, more).data)
    assert all(77 not in found for found in model.recommend([2, 3, 4], 9).ids)


def test_similar_users_share_the_planted_group(fitted, world):
    ids = fitted.data.users.ids.head(fitted.data.users.trained)
    near = np.array(fitted.similar(ids, 5).ids) - FIRST_USER_ID
    own = world.user_group[ids.to_numpy() - FIRST_USER_ID]
    by_chance = 1 / (world.user_group.max() + 1)
    assert (world.user_group[near] == own[:, None]).mean() > 5 * by_chance


def test_it_beats_popularity_on_the_planted_world(fitted):
    report = evaluate(fitted, k=(10,))
    assert report.metrics["recall@10"].mean > 1.5 * report.popularity["recall@10"].mean


def test_nobody_is_similar_to_themselves_and_the_scores_are_of_the_vectors(fitted):
    ids = fitted.data.users.ids.head(20)
    found = fitted.similar(Queries(ids, before="validation"), 4)
    vectors = dict(
        zip(fitted.data.users.external(fitted.user_rows), fitted.user_vectors, strict=True)
    )
    for user, near, scores in zip(ids, found.ids, found.scores, strict=True):
        assert len(near) == 4
        assert user not in near
        others = torch.stack([vectors[other] for other in near])
        by_hand = pair_score(vectors[user].expand_as(others), others, "cosine")
        np.testing.assert_allclose(by_hand.numpy(), scores, atol=1e-5)


def test_nothing_met_is_recommended_unless_asked(fitted):
    users = fitted.data.users.ids.head(50)
    log = fitted.data.log
    met = [
        set(fitted.data.items.external(log.item[a:b].astype(np.int64)))
        for a, b in zip(log.indptr[1:51], log.indptr[2:52], strict=True)
    ]
    for items, known in zip(fitted.recommend(users, 15).ids, met, strict=True):
        assert len(items) == len(set(items)) == 15
        assert not known & set(items)
    everything = fitted.recommend(Queries(users, exclude_seen=False), 15).ids
    assert any(known & set(items) for items, known in zip(everything, met, strict=True))


def test_strangers_get_popular_items_but_no_popular_users(fitted, split):
    found = fitted.recommend(Queries(histories=[[], [-1]]), 4)
    assert found.fallback.tolist() == [True, True]
    assert found.ids[0] == Popular().fit(split).recommend([-9], 4).ids[0]
    with pytest.raises(QueryError, match="query 1 has met no known item"):
        fitted.similar([FIRST_USER_ID, -9], 4)
    assert not isinstance(fitted, EncodesItems)


def test_a_history_finds_the_users_it_is_taken_from(fitted):
    log, ids = fitted.data.training_log, fitted.data.users.ids
    histories = [
        fitted.data.items.external(log.item[a:b].astype(np.int64)).to_list()
        for a, b in zip(log.indptr[1:21], log.indptr[2:22], strict=True)
    ]
    nearest = [near[0] for near in fitted.similar(Queries(histories=histories), 1).ids]
    assert nearest == ids.head(20).to_list()


def test_shuffling_the_future_changes_no_trained_byte(world):
    moment = int(world.interactions["timestamp"].quantile(0.8))
    future = pl.col("timestamp") >= moment
    noise = world.interactions.with_columns(
        pl.when(future).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
    ).unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    models = [
        UserToUser(**SMALL, patience=0).fit(
            Dataset.load(log, schema=Schema(time="timestamp")).split(
                "global-time", at=moment, validation_at=moment - 8_000_000
            )
        )
        for log in (world.interactions, noise)
    ]
    assert digest(models[0]) == digest(models[1])
    history = [models[0].data.items.ids.head(5).to_list()]
    one, two = (model.recommend(Queries(histories=history), 20) for model in models)
    assert one.ids == two.ids


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(split):
    one, two, three = (UserToUser(**SMALL, seed=s).fit(split) for s in (5, 5, 6))
    assert digest(one) == digest(two) != digest(three)
    assert one.epochs_run == two.epochs_run


def test_a_bundle_answers_as_before_and_is_of_this_kind(fitted, tmp_path):
    save(fitted, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle").retriever
    assert type(loaded) is UserToUser
    users = fitted.data.users.ids
    for one, two in (
        (fitted.recommend(users, 20), loaded.recommend(users, 20)),
        (fitted.similar(users, 20), loaded.similar(users, 20)),
    ):
        assert (one.rows == two.rows).all()
        assert (one.scores == two.scores).all()


def test_a_refit_learns_from_more_rows_and_says_so(split):
    model = UserToUser(**SMALL, refit="all").fit(split)
    assert model.data.fit == "all"
    assert len(model.epochs_run) == 2


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_every_mode_trains_with_every_similarity(split, mode, similarity):
    model = UserToUser(**SMALL, mode=mode, similarity=similarity).fit(split)
    assert all(np.isfinite(epoch.loss) for epoch in model.epochs_run)
    assert not model.recommend(model.data.users.ids.head(5), 5).fallback.any()


@pytest.mark.parametrize("sampler", ["mixed", "uniform", "catalogue"])
def test_users_can_be_drawn_from_outside_the_batch(split, sampler):
    model = UserToUser(**SMALL, sampler=sampler).fit(split)
    assert all(np.isfinite(epoch.loss) for epoch in model.epochs_run)


def test_a_log_without_an_order_is_read_as_sets(world):
    log = world.interactions.drop("timestamp")
    model = UserToUser(**SMALL).fit(Dataset.load(log, schema=Schema()).split())
    assert model.recommend(model.data.users.ids.head(3), 5).ids[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_id": True}, "would identify the pair"),
        ({"user_features": ["age"]}, "would identify the pair"),
        ({"item_features": ["tags"]}, "no item tower"),
        ({"item_id": False}, "no item tower"),
        ({"history": "none"}, "compares histories"),
        ({"session_gap": 60.0}, "i2i"),
        ({"pair_window": 3}, "i2i"),
        ({"latest_items": 3}, "i2i"),
        ({"mask_known": True}, "negatives are users"),
        ({"weighted": True}, "two halves"),
        ({"alpha": 0.5}, "equally popular"),
        ({"hard": "mined"}, "hard"),
        ({"positives": "i2i"}, "ItemToItem for 'i2i'"),
        ({"neighbours": 0}, "neighbours must be >= 1"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused_before_any_data(options, message):
    with pytest.raises(ModelError, match=message):
        UserToUser(**options)
