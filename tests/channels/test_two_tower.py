"""The two-tower channel is seeded, reads nothing of the future, and flags unknown users."""

import hashlib

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import validation_score
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import ModelError, QueryError, TrainingError
from shortlist.similarity import normalize, score
from shortlist.towers import TOWERS

SMALL = {"dim": 8, "epochs": 2, "batch_size": 128}


def digest(retriever: TwoTower) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(retriever.towers.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    state.update(retriever.item_vectors.numpy().tobytes())
    return state.hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(split):
    one, two, three = (TwoTower(**SMALL, seed=s).fit(split) for s in (5, 5, 6))
    assert digest(one) == digest(two) != digest(three)
    assert one.epochs_run == two.epochs_run


def test_two_threads_give_the_same_bytes_again(world):
    log = pl.concat([world.interactions] * 2).with_columns(
        pl.col("timestamp") + pl.int_range(pl.len()) // world.interactions.height
    )
    split = Dataset.load(log, schema=Schema(time="timestamp")).split()
    torch.set_num_threads(2)
    try:
        options = {"dim": 64, "epochs": 1, "batch_size": 2048}  # large enough to be shared out
        digests = {digest(TwoTower(**options).fit(split)) for _ in range(3)}
    finally:
        torch.set_num_threads(1)
    assert len(digests) == 1


def test_training_leaves_the_callers_random_state_alone(split):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    TwoTower(**SMALL).fit(split)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"mask_known": True},
        {"mask_known": True, "history": "attention", "sampler": "catalogue"},
    ],
)
def test_shuffling_the_future_changes_no_trained_byte(world, keys):
    moment = int(world.interactions["timestamp"].quantile(0.8))
    future = pl.col("timestamp") >= moment
    noise = world.interactions.with_columns(
        pl.when(future).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
    ).unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    digests = {
        digest(
            TwoTower(**SMALL, **keys).fit(
                Dataset.load(log, schema=Schema(time="timestamp")).split(
                    "global-time", at=moment, validation_at=moment - 8_000_000
                )
            )
        )
        for log in (world.interactions, noise)
    }
    assert len(digests) == 1


def test_the_best_epoch_is_what_is_kept(split):
    retriever = TwoTower(**{**SMALL, "epochs": 6}, patience=6, learning_rate=0.05, seed=2)
    retriever.fit(split)
    scores = [epoch.score for epoch in retriever.epochs_run]
    assert retriever.best_epoch == 1 + int(np.flatnonzero(np.array(scores) == max(scores))[-1])
    assert validation_score(retriever, "ndcg@10") == max(scores)
    with pytest.warns(DeprecationWarning, match="epochs_run"):
        assert retriever.history == retriever.epochs_run


def test_early_stopping_waits_for_patience_and_no_longer(split):
    retriever = TwoTower(**{**SMALL, "epochs": 30}, patience=1, learning_rate=0.1).fit(split)
    assert len(retriever.epochs_run) == retriever.best_epoch + 1 < 30


def test_a_planted_taste_is_found(fitted, split):
    world_groups = split.dataset.items.select("id", "tags")
    assert world_groups.height
    best = max(epoch.score for epoch in fitted.epochs_run)
    popular = Popular().fit(split)
    users, items, offsets = fitted.data.targets("validation")
    top = popular.recommend(Queries(fitted.data.users.external(users), before="validation"), 10)
    hit = (top.rows == items[offsets[:-1]][:, None]).any(1).mean()
    assert best > 1.5 * hit * 0.5  # popularity's NDCG@10 is about half of its hit rate


def test_scores_are_the_similarity_of_the_exported_vectors_without_temperature(fitted):
    ids, vectors = fitted.encode_items()
    users = fitted.data.users.ids.head(5)
    answer = fitted.recommend(users, 3)
    queries = fitted.encode_users(users)
    by_hand = score(queries, vectors, "cosine")
    rows = {id_: place for place, id_ in enumerate(ids)}
    for query in range(5):
        for item, given in zip(answer.ids[query], answer.scores[query], strict=True):
            assert by_hand[query, rows[item]].item() == pytest.approx(float(given), abs=1e-5)


def test_nothing_met_is_recommended_unless_asked_and_k_is_still_filled(fitted):
    users = fitted.data.users.ids.head(50)
    met = {
        user: set(fitted.data.items.external(fitted.data.log.item[a:b].astype(np.int64)))
        for user, a, b in zip(
            users, fitted.data.log.indptr[1:], fitted.data.log.indptr[2:], strict=False
        )
    }
    clean = fitted.recommend(users, 20)
    for user, items in zip(users, clean.ids, strict=True):
        assert len(items) == len(set(items)) == 20
        assert not met[user] & set(items)
    everything = fitted.recommend(Queries(users, exclude_seen=False), 20)
    assert any(met[u] & set(i) for u, i in zip(users, everything.ids, strict=True))


def test_k_beyond_the_catalogue_gives_all_there_is(fitted):
    answer = fitted.recommend([10_001], 10_000)
    met = np.diff(fitted.data.log.indptr)[fitted.data.users.rows([10_001])[0]]
    assert len(answer.ids[0]) == len(fitted.item_rows) - met
    with pytest.raises(QueryError, match="at least 1"):
        fitted.recommend([10_001], 0)


def test_an_unknown_user_gets_popular_items_and_a_flag(split):
    plain = TwoTower(**SMALL, user_features=[]).fit(split)
    answer = plain.recommend([999_999_999, 10_001], 5)
    assert answer.fallback.tolist() == [True, False]
    assert answer.ids[0] == Popular().fit(split).recommend([999_999_999], 5).ids[0]


def test_a_stranger_is_answered_from_a_history(fitted):
    known = fitted.recommend([10_001], 5)
    a, b = fitted.data.log.indptr[fitted.data.users.rows([10_001])[0] :][:2]
    items = fitted.data.items.external(fitted.data.log.item[a:b].astype(np.int64)).to_list()
    stranger = fitted.recommend(Queries(histories=[items, []]), 5)
    assert stranger.fallback.tolist() == [False, True]
    assert not set(stranger.ids[0]) & set(items)
    assert len(set(stranger.ids[0]) & set(known.ids[0])) >= 1


def test_unknown_items_in_a_history_are_passed_over(fitted):
    items = fitted.data.items.ids.head(3).to_list()
    with_unknown = [items[0], -5, items[1], -6, items[2]]
    one = fitted.recommend(Queries(histories=[items]), 5)
    two = fitted.recommend(Queries(histories=[with_unknown]), 5)
    assert one.ids == two.ids


def test_an_empty_question_gets_an_empty_answer(fitted):
    assert fitted.recommend([], 5).ids == []
    with pytest.raises(QueryError, match="one of the two"):
        Queries()


@pytest.mark.parametrize("history", [*TOWERS, "none"])
def test_no_users_have_no_vectors_whatever_the_tower(split, history):
    untrained = TwoTower(history=history, dim=8)
    untrained.set_data(split.training_data())
    untrained.place_items()
    assert untrained.encode_users([]).numel() == 0
    assert len(untrained.recommend([], 5)) == 0


def test_ids_of_the_wrong_type_are_refused_not_unknown(fitted):
    with pytest.raises(QueryError, match="integers"):
        fitted.recommend(["10001"], 5)


def test_refit_trains_on_more_rows_and_says_so(split):
    retriever = TwoTower(**SMALL, refit="train+validation").fit(split)
    assert retriever.data.fit == "train+validation"
    assert len(retriever.data.training_log) > len(split.training_data().training_log)
    assert len(retriever.epochs_run) == 2


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise", 0, 1, 2])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_every_mode_trains_with_every_similarity(split, mode, similarity):
    retriever = TwoTower(mode=mode, similarity=similarity, dim=8, epochs=1, batch_size=512)
    retriever.fit(split)
    assert np.isfinite(retriever.epochs_run[0].loss)


def test_integers_are_the_names_of_the_modes():
    names = [TwoTower(mode=number).training_section.mode for number in (0, 1, 2)]
    assert names == ["pointwise", "pairwise", "listwise"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "listwize"}, ModelError, "listwise"),
        ({"temperatur": 0.1}, ModelError, "Did you mean 'temperature'"),
        ({"temperature": 0}, ModelError, "temperature must be > 0"),
        ({"loss": "hinge", "correct_sampling": True}, ModelError, "correct_sampling"),
        ({"loss": "softmax", "margin": 0.2}, ModelError, "margin"),
        ({"loss": "sofmax"}, ModelError, "softmax"),
        ({"sampler": "in_batch", "negatives": 5}, ModelError, "batch"),
        ({"sampler": "uniform", "alpha": 0.5}, ModelError, "alpha"),
        ({"sampler": "in_batch", "batch_size": 1}, ModelError, "batch_size"),
        ({"history": "none", "user_id": True, "history_length": 3}, ModelError, "history_length"),
        ({"history": "none", "user_id": True, "shared_items": False}, ModelError, "shared_items"),
        ({"history": "none", "user_id": True, "history_reads": "items"}, ModelError, "_reads"),
        ({"history_reads": "items", "shared_items": False}, ModelError, "shared_items"),
        ({"item_id": False, "shared_items": False}, ModelError, "no table of ids to share"),
        ({"history": "gru", "history_heads": 4}, ModelError, "history_heads is for history = 'att"),
        ({"history": "atention", "history_heads": 4}, ModelError, "did you mean 'attention'"),
        ({"history": "recency", "history_layers": 1}, ModelError, "'attention' or 'gru'"),
        ({"history": "attention", "interests": 4}, ModelError, "'comirec' or 'mind'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_data_is_read(options, error, message):
    with pytest.raises(error, match=message):
        TwoTower(**options)


@pytest.mark.parametrize("history", ["mean", "gru", "mind"])
def test_an_option_at_its_default_may_stand_anywhere(history):
    assert TwoTower(history=history, history_layers=2, history_heads=2)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used"):
        TwoTower(device=device)


def test_a_loss_that_runs_away_stops_training(split):
    with pytest.raises((TrainingError, ModelError)):
        TwoTower(
            similarity="dot", learning_rate=1e30, dim=8, epochs=3, batch_size=64, mode="pairwise"
        ).fit(split)


def test_padding_row_stays_zero_and_is_never_recommended(fitted):
    assert not fitted.towers.item.id.weight[0].any()
    assert (fitted.recommend(fitted.data.users.ids, 50).rows != 0).all()


def test_an_item_vector_belongs_to_the_id_it_is_exported_with(fitted):
    ids, vectors = fitted.encode_items()
    rows = torch.from_numpy(fitted.data.items.rows(ids))
    again = fitted.towers.encode_items(fitted.data.item_features.take(rows))
    torch.testing.assert_close(normalize(again.detach()), vectors)  # trained under cosine
