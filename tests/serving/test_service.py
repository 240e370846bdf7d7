"""The service says what the library says: the same ids and scores, column by column."""

import json
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import torch

from answers import assert_same_up_to_rounding
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import save
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.evaluation.evaluate import evaluate
from shortlist.serving.map import MOST_POINTS, principal_plane
from shortlist.serving.settings import Limits, Settings


@pytest.fixture(scope="module")
def crowd(world_schema):
    """1,000 users, with ids that are text."""
    world = planted_world(users=1000, items=200, events=12_000, seed=5)
    named = [
        frame.with_columns(pl.col(column).cast(pl.String) for column in columns)
        for frame, columns in (
            (world.interactions, ("user_id", "item_id")),
            (world.users, ("user_id",)),
            (world.items, ("item_id",)),
        )
    ]
    split = Dataset.load(named[0], users=named[1], items=named[2], schema=world_schema).split(
        "leave-last-out"
    )
    return TwoTower(dim=8, epochs=1, batch_size=512, seed=2).fit(split)


ROUNDING = 1e-5 if find_spec("onnxruntime") and find_spec("onnx") else 0.0


def served(client, value):
    said = client.post("/v1/recommend", value)
    assert said.status == 200, said.body
    return said.json


def assert_same(answer, found):
    assert answer["items"] == found.ids
    lengths = (found.rows >= 0).sum(axis=1)
    # Digit by digit, unless ONNX Runtime encoded: JSON carries the double that equals the float32.
    wanted = [row[:n] for row, n in zip(found.scores.astype(float).tolist(), lengths, strict=True)]
    assert answer["scores"] == [pytest.approx(row, rel=0, abs=ROUNDING) for row in wanted]
    assert answer["fallback"] == found.fallback.tolist()


def test_a_thousand_users_get_what_the_library_gives(crowd, open_app, make_client, tmp_path):
    save(crowd, tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle"))
    users = crowd.data.users.ids.to_list()
    assert len(users) == 1000
    batch = crowd.recommend(users, 20)
    assert_same(served(client, {"users": users, "k": 20}), batch)
    for at in range(0, 1000, 7):
        alone = served(client, {"users": users[at : at + 1], "k": 20})
        assert_same(alone, crowd.recommend(users[at : at + 1], 20))
        # The towers' matrix products round by the size of the batch.
        expected = batch.ids[at : at + 1], batch.scores[at : at + 1]
        assert_same_up_to_rounding((alone["items"], alone["scores"]), expected)


def test_a_blend_says_which_channel_gave_each_item(blended, blend_client):
    users = blended.data.users.ids.to_list()
    found = blended.recommend(users, 15)
    answer = served(blend_client, {"users": users, "k": 15})
    assert_same(answer, found)
    frame = found.to_frame()
    assert [name for part in answer["channels"] for name in part] == frame["channel"].to_list()


def test_filters_reach_the_library_as_they_are(fitted, client):
    items = fitted.data.items.ids.to_list()
    users = fitted.data.users.ids.head(20).to_list()
    given = {
        "where": {"and": [{"column": "price", "min": 7}, {"not": {"column": "tags", "eq": "sea"}}]},
        "deny": items[:30],
        "allow": items[:150],
        "exclude_seen": False,
        "quota": {"studio": 2},
    }
    found = fitted.recommend(Queries(users, **given), 100)
    assert_same(served(client, {"users": users, "k": 100} | given), found)
    assert 0 < (found.rows >= 0).sum(axis=1).max() < 100


def test_histories_get_what_the_library_gives_and_unknown_items_are_counted(fitted, client):
    known = fitted.data.items.ids.head(4).to_list()
    histories = [known, [*known, -1, -2], [], [-5]]

    def counted() -> float:
        return client.app.measures.registry.get_sample_value("shortlist_unknown_items_total")

    before = counted()
    answer = served(client, {"histories": histories, "k": 5})
    assert_same(answer, fitted.recommend(Queries(histories=histories), 5))
    assert answer["unknown_items"] == [0, 2, 0, 1]
    assert answer["fallback"] == [False, False, True, True]
    assert answer["items"][0] == answer["items"][1]
    assert answer["users"] is None
    assert counted() - before == 3


def test_nobody_known_gets_popular_items_and_the_flag(fitted, client):
    answer = served(client, {"users": [-3], "k": 4})
    popular = Popular().fit_data(fitted.data).recommend([-3], 4)
    assert (answer["items"], answer["fallback"]) == (popular.ids, [True])


def test_no_users_get_no_lists(client):
    assert served(client, {"users": []})["items"] == []


def test_an_id_of_the_wrong_type_is_one_clear_error(client):
    for value, place in (
        ({"users": [1, "1"]}, "users[1]: user ids"),
        ({"histories": [[1], [2, "3"]]}, "histories[1][1]: item ids"),
        ({"users": [1], "allow": ["1"]}, "allow[0]: item ids"),
        ({"users": [1], "deny": ["1"]}, "deny[0]: item ids"),
    ):
        said = client.post("/v1/recommend", value)
        assert (said.status, said.code) == (422, "invalid_request")
        message = said.json["error"]["message"]
        assert message.startswith(place)
        assert "integers" in message


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"users": [1], "histories": [[1]]},
        {"users": None},
        {"users": [1] * 1000, "k": 1000},
        {"users": [1], "where": {"column": "nothing", "eq": 1}},
        {"users": [1], "where": {"column": "price", "eq": "cheap"}},
        {"users": [1], "where": {"column": "tags", "eq": 2**63}},
        {"users": [1], "where": {"column": "id", "eq": 1}},
        {"users": [1], "where": {}},
        {"users": [1], "quota": {"nothing": 1}},
        {"users": [1], "quota": {"tags": 1}},
        {"histories": [list(range(1000))] * 101},
    ],
)
def test_what_cannot_be_answered_is_refused(client, value):
    said = client.post("/v1/recommend", value)
    assert (said.status, said.code) == (422, "invalid_request"), value


def test_a_number_too_large_for_its_column_is_no_item_s_not_an_accident(
    tiny_log, open_app, make_client, tmp_path
):
    items = pl.DataFrame({"item_id": [10, 20, 30, 40], "year": [1990, 2000, 2010, 2020]})
    schema = Schema(time="time", item_features=(Feature("year", "numeric"),))
    split = Dataset.load(tiny_log, items=items, schema=schema).split("leave-last-out")
    save(Popular().fit(split), tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle"))
    for value in (1e308, 2.0**64):
        where = {"column": "year", "eq": value}
        said = client.post("/v1/recommend", {"users": [3], "where": where})
        assert said.json["items"] == [[]]
        said = client.post("/v1/recommend", {"users": [3], "where": {"not": where}})
        assert len(said.json["items"][0]) == 3


def test_similar_items_are_those_of_the_library(blended, blend_client):
    items = [*blended.data.items.ids.head(5).to_list(), -1]
    said = blend_client.post("/v1/similar", {"items": items, "k": 6})
    found = blended.similar(items, 6)
    assert_same(said.json, found)
    assert said.json["similar_to"] == items
    assert said.json["fallback"][-1]


def test_similar_users_come_from_a_bundle_that_compares_users(
    split, open_app, make_client, tmp_path
):
    retriever = UserToUser(dim=8, epochs=1, batch_size=256).fit(split)
    save(retriever, tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle"))
    users = retriever.data.users.ids.head(3).to_list()
    said = client.post("/v1/similar", {"users": users, "k": 4}).json
    assert said["users"] == retriever.similar(users, 4).ids
    assert client.post("/v1/similar", {"items": [1]}).code == "not_supported"


def test_what_users_met_since_follows_what_is_stored_of_them(client, fitted):
    users = fitted.data.users.ids.head(2).to_list()
    recent = [fitted.recommend(users, 2).ids[0], [-1]]
    said = client.post("/v1/recommend", {"users": users, "recent": recent, "k": 5}).json
    assert said["items"] == fitted.recommend(Queries(users, recent=recent), 5).ids
    assert said["unknown_items"] == [0, 1]
    assert not set(said["items"][0]) & set(recent[0])
    for wrong in ({"recent": [[]]}, {"histories": [[1]], "users": None}, {"recent": [["a"], []]}):
        body = {"users": users, "recent": recent} | wrong
        assert client.post("/v1/recommend", body).code == "invalid_request"


def test_towers_find_similar_items_and_say_that_their_reasons_need_not_sum(client, fitted):
    items = fitted.data.items.ids.head(2).to_list()
    near = client.post("/v1/similar", {"items": items, "k": 4}).json
    assert near["items"] == fitted.similar(items, 4).ids
    user = fitted.data.users.ids[0]
    said = client.post("/v1/explain", {"user": user, "items": items}).json
    assert said["reasons_sum"] is False
    assert len(said["reasons"]["item"]) == len(fitted.explain([user], [items])) > 0


@pytest.mark.parametrize("value", [{}, {"items": [1], "users": [1]}, {"items": ["a"]}])
def test_similar_takes_one_list_of_ids(blend_client, value):
    assert blend_client.post("/v1/similar", value).code == "invalid_request"


def test_reasons_are_those_of_the_library_with_titles(blended, blend_client):
    data = blended.data
    user = data.users.ids[3]
    items = blended.recommend([user], 3).ids[0]
    said = blend_client.post("/v1/explain", {"user": user, "items": items}).json
    frame = blended.explain([user], [items])
    for column in ("item", "kind", "because", "contribution", "channel"):
        assert said["reasons"][column] == frame[column].to_list()
    for kind, because, title in zip(
        *(said["reasons"][name] for name in ("kind", "because", "title")), strict=True
    ):
        wanted = data.titles(data.items.rows([int(because)]))[0] if kind == "event" else None
        assert title == wanted


@pytest.mark.parametrize(
    "value",
    [
        {"items": [1]},
        {"user": 1, "history": [1], "items": [1]},
        {"user": "1", "items": [1]},
        {"user": 1, "items": [-1]},
        {"history": ["1"], "items": [1]},
    ],
)
def test_explain_refuses_what_it_cannot_answer(blended, blend_client, value):
    first = blended.data.items.ids[0]
    value = {**value, "items": [i if i == -1 else first for i in value["items"]]}
    assert blend_client.post("/v1/explain", value).code == "invalid_request"


def test_a_history_is_told_with_titles_oldest_first(fitted, client):
    data = fitted.data
    user = data.users.ids[0]
    met = data.log.item[data.log.user == 1]
    said = client.post("/v1/history", {"user": user, "limit": 4}).json
    assert said["items"] == data.items.external(met[-4:]).to_list()
    assert said["titles"] == data.titles(met[-4:])
    assert (said["known"], said["events"]) == (True, len(met))
    unknown = client.post("/v1/history", {"user": -1}).json
    assert (unknown["known"], unknown["items"], unknown["titles"]) == (False, [], [])


def test_titles_of_unknown_items_are_null(fitted, client):
    item = fitted.data.items.ids[7]
    said = client.post("/v1/titles", {"items": [item, -1]}).json
    assert said["titles"] == [fitted.data.titles(np.array([8]))[0], None]
    assert client.post("/v1/titles", {"items": []}).json["titles"] == []


def test_users_are_found_by_the_beginning_of_their_id(fitted, client):
    ids = fitted.data.users.ids.to_list()
    start = str(ids[5])[:3]
    wanted = [user for user in ids if str(user).startswith(start)]
    said = client.get("/v1/users", f"search={start}&limit=4").json
    assert (said["users"], said["total"]) == (wanted[:4], len(wanted))
    assert client.get("/v1/users").json["total"] == len(ids)
    for bad in ("limit=0", "limit=x", "other=1", "limit=9999", f"search={'1' * 600}"):
        assert client.get("/v1/users", bad).code == "invalid_request"


def test_the_report_holds_figures_and_no_recipe(client):
    said = client.get("/v1/report").json
    assert {"bundle", "retriever", "metrics", "data"} <= set(said)
    assert "recipe" not in json.dumps(said)
    assert said["in_short"] is None  # its figures are no report


def test_the_report_begins_with_its_summary(split, open_app, make_client, tmp_path):
    fitted = Popular().fit(split)
    report = evaluate(fitted, k=(5, 20), ladder=True)
    save(fitted, tmp_path / "b", metrics=report.to_dict())
    said = make_client(open_app(tmp_path / "b")).get("/v1/report").json["in_short"]
    assert said == list(report.in_short())[:-1]  # without the cost, which no bundle holds
    assert "It is worse than transitions and item-cf, which need no training." in said[1]


def test_the_map_shows_items_where_their_vectors_differ_most(fitted, client):
    said = client.get("/v1/map").json
    ids, vectors = fitted.encode_items()
    assert said["items"] == ids.to_list()
    rows = fitted.data.items.rows(ids)
    assert said["titles"] == fitted.data.titles(rows)
    unit = torch.nn.functional.normalize(vectors).double()
    left, sizes, _ = torch.linalg.svd(unit - unit.mean(dim=0), full_matrices=False)
    points = np.array([said["x"], said["y"]]).T
    np.testing.assert_allclose(np.abs(points), (left * sizes)[:, :2].abs().numpy(), atol=1e-4)
    shares = (sizes**2 / (sizes**2).sum())[:2]
    np.testing.assert_allclose(said["explained"], shares.numpy(), rtol=1e-4)
    counts = np.bincount(fitted.data.training_log.item, minlength=len(fitted.data.items) + 1)
    assert said["counts"] == counts[rows].tolist()
    assert len(said["items"]) <= MOST_POINTS


def test_a_map_of_one_number_is_a_line():
    points, explained = principal_plane(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(points, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert explained == [1.0]


def test_counts_alone_have_no_map(blend_client):
    assert blend_client.get("/v1/map").code == "not_supported"


@pytest.mark.parametrize("kind", [Popular, EASE, ItemToItem])
def test_every_kind_of_retriever_is_served(split, kind, open_app, make_client, tmp_path):
    options = {ItemToItem: {"dim": 8, "epochs": 1, "session_gap": 86_400}}.get(kind, {})
    retriever = kind(**options).fit(split)
    save(retriever, tmp_path / "bundle")
    client = make_client(open_app(tmp_path / "bundle"))
    users = retriever.data.users.ids.head(9).to_list()
    assert_same(served(client, {"users": users, "k": 7}), retriever.recommend(users, 7))


def test_the_limits_are_those_of_the_settings(open_app, make_client, bundle):
    settings = Settings(limits=Limits(k=3, queries=2, body=100, candidates=4))
    client = make_client(open_app(bundle, settings))
    assert client.post("/v1/recommend", {"users": [1, 2], "k": 2}).status == 200
    for value in ({"users": [1, 2, 3], "k": 1}, {"users": [1], "k": 4}, {"users": [1, 2], "k": 3}):
        assert client.post("/v1/recommend", value).status == 422
    assert client.post("/v1/recommend", {"users": [1], "allow": [1] * 99}).code == "too_large"


def test_features_of_users_as_they_are_now_are_read_over_http(client, fitted):
    users = [*fitted.data.users.ids.head(2).to_list(), 1]
    features = {"age": [99, None, 20.5], "region": [None, None, "north"]}
    said = client.post("/v1/recommend", {"users": users, "features": features, "k": 5}).json
    served = client.app.watch.current.retriever
    assert said["items"] == served.recommend(Queries(users, features=features), 5).ids
    assert said["fallback"] == [False, False, False]
    alone = client.post("/v1/recommend", {"histories": [[]], "features": {"age": [30]}}).json
    assert alone["fallback"] == [False]
    for wrong in ({"age": [1]}, {"none": [1, 1, 1]}, {"age": ["x"] * 3}, {"age": [{}, 1, 1]}):
        body = {"users": users, "features": wrong}
        assert client.post("/v1/recommend", body).code == "invalid_request"


def test_a_bundle_that_reads_no_features_refuses_them(blend_client):
    body = {"users": [10_001], "features": {"age": [30]}}
    said = blend_client.post("/v1/recommend", body)
    assert said.code == "invalid_request"
    assert "'age' does nothing for this retriever" in said.json["error"]["message"]
