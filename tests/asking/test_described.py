"""User features in a query are encoded like those of the log, or the query is refused."""

import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.bundle.bundle import save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.cli.app import app as commands
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.errors import QueryError

USERS = [10_001, 10_002, 10_003]


@pytest.fixture(scope="module")
def data(world):
    """Every kind of feature of users."""
    users = world.users.with_columns(
        likes=pl.concat_list(pl.col("region"), pl.lit("x")),
        taste=pl.concat_list(pl.col("user_id") % 7 / 7, pl.lit(1.0)),
    )
    kinds = {"region": "categorical", "age": "numeric", "likes": "multi-valued", "taste": "vector"}
    features = tuple(Feature(name, kind, "|") for name, kind in kinds.items())
    schema = Schema(time="timestamp", user_features=features)
    return users, Dataset.load(world.interactions, users=users, schema=schema).split()


@pytest.fixture(scope="module")
def towers(data):
    return TwoTower(dim=8, epochs=1, seed=1, user_id=False).fit(data[1])


def of(data, users):
    """The raw features of users, as a caller would give them."""
    frame = pl.DataFrame({"user_id": users}).join(data[0], on="user_id", how="left")
    return {name: frame[name].to_list() for name in ("region", "age", "likes", "taste")}


def test_what_is_stored_told_again_changes_nothing(data, towers):
    assert towers.query_features == {"region", "age", "likes", "taste"}
    stored = towers.encode_users(Queries(USERS))
    told = towers.encode_users(Queries(USERS, features=of(data, USERS)))
    assert torch.equal(told, stored)


def test_a_stranger_with_the_features_and_the_history_of_a_user_is_answered_as_the_user(
    data, towers
):
    histories = [
        towers.data.items.external(
            towers.data.histories.latest(torch.tensor([row])).items.values.numpy()
        ).to_list()
        for row in towers.data.users.rows(USERS).tolist()
    ]
    features = of(data, USERS)
    known = towers.recommend(USERS, 8)
    for queries in (
        Queries(histories=histories, features=features),
        Queries([1, 2, 3], recent=histories, features=features),
    ):
        found = towers.recommend(queries, 8)
        assert found.ids == known.ids
        assert not found.fallback.any()


def test_features_alone_make_nobody_a_stranger_and_none_are_what_is_stored(data, towers):
    features = of(data, USERS)
    found = towers.recommend(Queries(histories=[[], [], []], features=features), 8)
    assert not found.fallback.any()
    # Of the second nothing is told: a stranger again, and of a known user what is stored.
    some = {name: [values[0], None, values[2]] for name, values in features.items()}
    again = towers.recommend(Queries(histories=[[], [], []], features=some), 8)
    assert again.fallback.tolist() == [False, True, False]
    assert [again.ids[0], again.ids[2]] == [found.ids[0], found.ids[2]]
    mixed = {name: [None, values[0], None] for name, values in features.items()}
    vectors = towers.encode_users(Queries(USERS, features=mixed))
    stored = towers.encode_users(Queries(USERS))
    assert torch.equal(vectors[[0, 2]], stored[[0, 2]])
    assert not torch.equal(vectors[1], stored[1])


def test_blocks_take_their_own_part_of_the_features(data, towers, monkeypatch):
    users = USERS * 3
    features = {"age": [20.0 + n for n in range(9)]}
    whole = towers.recommend(Queries(users, features=features), 5)
    monkeypatch.setattr(type(towers), "queries_at_a_time", 2)
    assert towers.recommend(Queries(users, features=features), 5).ids == whole.ids


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"aeg": [1]}, "'aeg' does nothing for this retriever: it reads age"),
        ({"age": ["young"]}, "features: age: query 1: expected a number, got 'young'"),
        ({"age": [float("nan")]}, "age"),
        ({"age": [1e30]}, "too large"),
        ({"age": [1, 2]}, "needs one value a query: 1 queries, 2 values"),
        ({"age": 1}, "must be a list"),
        ({"region": [["a"]]}, "region"),
        ({"taste": [[1.0]]}, "taste"),
        ({"taste": [["a", "b"]]}, "taste"),
        ({"likes": [[["a"]]]}, "likes"),
        ([1], "must be a mapping"),
    ],
)
def test_a_value_that_no_log_could_hold_is_refused(towers, features, message):
    with pytest.raises(QueryError) as error:
        towers.recommend(Queries(USERS[:1], features=features), 3)
    assert message in str(error.value)


def test_what_would_do_nothing_is_refused_by_name(data, towers):
    popular = Popular().fit(data[1])
    for retriever in (popular, Blend({"a": Popular(), "b": Popular(half_life=1e6)}).fit(data[1])):
        with pytest.raises(QueryError, match="'age' does nothing for this retriever"):
            retriever.recommend(Queries(USERS, features={"age": [1, 2, 3]}), 3)
    plain = TwoTower(dim=4, epochs=1, user_features=["age"]).fit(data[1])
    with pytest.raises(QueryError, match="'region' does nothing for this retriever: it reads age"):
        plain.recommend(Queries(USERS[:1], features={"region": ["a"]}), 3)


def test_a_blend_passes_features_to_the_channels_that_read_them(data):
    blend = Blend({"near": TwoTower(dim=8, epochs=1, seed=1, user_id=False), "top": Popular()})
    blend.fit(data[1])
    features = {"age": [20, 90, None]}
    near = blend.channels["near"].recommend(Queries(USERS, features=features), 20).ids
    found = blend.recommend(Queries(USERS, features=features), 6)
    for ids, names, wanted in zip(found.ids, found.by, near, strict=True):
        own = [item for item, name in zip(ids, names, strict=False) if name == 0]
        assert own == [item for item in wanted if item in own]
        assert own


def test_a_file_of_users_may_tell_their_features(data, towers, tmp_path):
    save(towers, tmp_path / "bundle")
    table = pl.DataFrame({"user_id": [10_001, 5], "age": [None, 33], "likes": ["x", None]})
    table.write_csv(tmp_path / "users.csv")
    ask = ["recommend", str(tmp_path / "bundle"), "--users-file", str(tmp_path / "users.csv")]
    out = str(tmp_path / "out.parquet")
    commands([*ask, "--with-features", "--k", "4", "--out", out], standalone_mode=False)
    found = pl.read_parquet(out)
    features = {"age": [None, 33], "likes": [["x"], None]}
    wanted = towers.recommend(Queries([10_001, 5], features=features), 4)
    assert found["item"].to_list() == [item for ids in wanted.ids for item in ids]
    assert not found["fallback"].any()
    for arguments, message in (
        (["--all-users", "--with-features", "--out", out], "give one"),
        (["--users-file", str(tmp_path / "ids.csv"), "--with-features", "--out", out], "no column"),
    ):
        table.select("user_id").write_csv(tmp_path / "ids.csv")
        with pytest.raises(QueryError, match=message):
            commands([*ask[:2], *arguments, "--overwrite"], standalone_mode=False)
