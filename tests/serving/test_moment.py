"""The context of a request: from the recipe to the command line, users files and HTTP."""

import json
import sys
from contextlib import suppress

import numpy as np
import polars as pl
import pytest

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load
from shortlist.cli import main

RECIPE = """
[data]
interactions = "log.csv"
users = "users.csv"
time = "time"
event = "kind"

[data.events.buy]
target = true

[data.events.view]
seen = false

[features.users]
age = "numeric"

[features.events]
device = { kind = "categorical", known = "before" }
battery = { kind = "numeric", known = "before" }
dwell = { kind = "numeric", known = "after" }
kind = { kind = "categorical", known = "after" }

[model]
dim = 8

[training]
epochs = 1
refit = "all"
"""


def command(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
        patch.delenv("SHORTLIST_DATA", raising=False)
        with suppress(SystemExit):
            main()


def events(count=600, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": np.arange(count) // 10,
            "item_id": rng.integers(30, size=count),
            "time": np.arange(count) % 10,
            "kind": rng.choice(["view", "buy"], count),
            "device": rng.choice(["tv", "phone", ""], count),
            "battery": rng.random(count).round(2),
            "dwell": rng.exponential(30, count).round(1),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moment")
    events().write_csv(folder / "log.csv")
    ages = pl.DataFrame({"user_id": range(60), "age": [20.0 + user for user in range(60)]})
    ages.write_csv(folder / "users.csv")
    (folder / "recipe.toml").write_text(RECIPE)
    command("train", folder / "recipe.toml", "--out", folder / "bundle", "--quiet")
    return folder


@pytest.fixture(scope="module")
def served(folder):
    return load(folder / "bundle").retriever


@pytest.fixture
def client(folder, open_app, make_client):
    return make_client(open_app(folder / "bundle"))


def test_a_request_tells_its_moment_over_http(client, served):
    context = {"device": ["tv", None, "fridge"], "battery": [0.5, 1, None]}
    said = client.post("/v1/recommend", {"users": [1, 2, 3], "context": context, "k": 5}).json
    assert said["items"] == served.recommend(Queries([1, 2, 3], context=context), 5).ids
    assert said["unknown_context"] == [0, 1, 2]
    assert client.post("/v1/recommend", {"users": [1]}).json["unknown_context"] == [2]
    text = client.get("/metrics").body.decode()
    assert "shortlist_unknown_context_total 5.0" in text
    alone = client.post("/v1/recommend", {"histories": [[]], "context": {"device": ["tv"]}}).json
    assert alone["fallback"] == [False]


def test_events_of_a_request_have_their_columns_over_http(client, served):
    columns = {"dwell": [[3, None]], "device": [["tv", "phone"]]}
    body = {"histories": [[4, 5]], "event_features": columns, "k": 5}
    asked = Queries(histories=[[4, 5]], event_features=columns)
    assert client.post("/v1/recommend", body).json["items"] == served.recommend(asked, 5).ids


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"context": {"dwell": [3]}}, "'dwell' is known after the event"),
        ({"context": {"devise": ["tv"]}}, "no feature of events 'devise'"),
        ({"context": {"battery": ["full"]}}, "battery"),
        ({"context": {"device": ["tv", "tv"]}}, "one value a query"),
        (
            {"context": {"device": [["tv"]]}},
            "context.device[0] must be true or false, a number or text in quotes",
        ),
        ({"event_features": {"dwell": [[3]]}}, "histories"),
        ({"recent": [[4]], "event_features": {"dwell": [[3, 4]]}}, "1 events"),
        ({"recent": [[4]], "event_features": {"kind": [["buy"]]}}, "give it as kinds"),
    ],
)
def test_a_moment_that_cannot_be_read_is_refused_in_a_sentence(client, body, message):
    said = client.post("/v1/recommend", {"users": [1], **body})
    assert said.code == "invalid_request"
    assert message in said.json["error"]["message"]


def test_the_command_line_tells_the_moment_of_all_queries(folder, served, capsys):
    ask = ("recommend", folder / "bundle", "--user", 1, "--user", 2, "--k", 4, "--json")
    command(*ask, "--context", "device=tv", "--context", "battery=0.5")
    said = capsys.readouterr()
    context = {"device": ["tv", "tv"], "battery": [0.5, 0.5]}
    wanted = served.recommend(Queries([1, 2], context=context), 4).ids
    assert [
        [one["item"] for one in each["items"]] for each in json.loads(said.out)["users"]
    ] == wanted
    assert "context" not in said.err
    command(*ask, "--context", "device=fridge")
    missing = "2 of 2 queries: 'battery' (context) is missing or was never seen"
    assert missing in " ".join(capsys.readouterr().err.split())
    for wrong, message in (
        ("dwell=3", "known after the event"),
        ("battery=full", "expected a number, got 'full'"),
        ("device", "NAME=VALUE"),
    ):
        command(*ask, "--context", wrong)
        said = " ".join(capsys.readouterr().err.split())
        assert message in said
        assert "queries:" not in said  # what is refused is refused before anything is noted
    command("recommend", folder / "bundle", "--user", 999, "--feature", "height=3")
    said = " ".join(capsys.readouterr().err.split())
    assert "'height' does nothing for this retriever: it reads age" in said
    assert "unknown" not in said
    command("recommend", folder / "bundle", "--user", 1, "--json", "--feature", "age=70")
    answer = json.loads(capsys.readouterr().out)["users"][0]
    wanted = served.recommend(Queries([1], features={"age": [70.0]}), 10)
    assert [one["item"] for one in answer["items"]] == wanted.ids[0]


def test_explain_takes_what_recommend_takes(folder, client, served, capsys):
    items = [4, 5, 6]
    told = {
        "recent": [[7, 8]],
        "kinds": [["buy", None]],
        "event_features": {"dwell": [[3.0, None]]},
        "context": {"device": ["tv"], "battery": [0.5]},
        "features": {"age": [70.0]},
    }
    said = client.post("/v1/explain", {"user": 1, "items": items, **told}).json["reasons"]
    frame = served.explain(Queries([1], **told), [items])
    assert said["contribution"] == pytest.approx(frame["contribution"].to_list(), rel=1e-4)
    assert said["because"] == frame["because"].to_list()
    bare = served.explain(Queries([1]), [items])["contribution"].to_list()
    assert frame["contribution"].to_list() != pytest.approx(bare, rel=1e-3)
    ask = ("explain", folder / "bundle", "--user", 1, "--json")
    command(
        *(*ask, "--recent", "7,8", "--feature", "age=70", "--context", "device=tv"),
        *("--context", "battery=0.5", *(part for item in items for part in ("--item", item))),
    )
    answer = json.loads(capsys.readouterr().out)["reasons"]
    told = {name: told[name] for name in ("recent", "context", "features")}
    frame = served.explain(Queries([1], **told), [items])
    assert [one["because"] for one in answer] == frame["because"].to_list()
    gives = [one["contribution"] for one in answer]
    assert gives == pytest.approx(frame["contribution"].to_list(), rel=1e-4)
    for wrong, message in (
        ({"context": {"devise": ["tv"]}}, "no feature of events 'devise'"),
        ({"recent": [[4], [5]]}, "recent needs one list of items a user"),
        ({"time": 3}, "time"),
    ):
        said = client.post("/v1/explain", {"user": 1, "items": items, **wrong})
        assert message in said.json["error"]["message"]
    command(*ask, "--item", 999, "--context", "device=tv")
    said = " ".join(capsys.readouterr().err.split())
    assert "item 999 is unknown" in said
    assert "battery" not in said


def test_a_file_of_users_tells_the_moment_of_each(folder, served, tmp_path, capsys):
    table = pl.DataFrame({"user_id": [1, 2, 3], "device": ["tv", None, "phone"], "age": [1, 2, 3]})
    table.write_csv(tmp_path / "users.csv")
    ask = ("recommend", folder / "bundle", "--users-file", tmp_path / "users.csv", "--k", 4)
    out = tmp_path / "out.parquet"
    command(*ask, "--with-context", "--out", out)
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 3 queries: 'device' (context)" in said
    assert "3 of 3 queries: 'battery' (context)" in said
    wanted = served.recommend(Queries([1, 2, 3], context={"device": ["tv", None, "phone"]}), 4)
    assert pl.read_parquet(out)["item"].to_list() == [i for ids in wanted.ids for i in ids]
    command(*ask, "--context", "device=tv", "--out", out, "--overwrite")
    wanted = served.recommend(Queries([1, 2, 3], context={"device": ["tv"] * 3}), 4)
    assert pl.read_parquet(out)["item"].to_list() == [i for ids in wanted.ids for i in ids]
    capsys.readouterr()
    table.select("user_id", "age").write_csv(tmp_path / "users.csv")
    command(*ask, "--with-context", "--out", out, "--overwrite")
    assert "no column of a context" in " ".join(capsys.readouterr().err.split())


def test_update_reads_the_columns_and_refuses_a_file_without_them(folder, tmp_path, capsys):
    new = events(20, seed=1).with_columns(time=pl.int_range(12, 32))
    new.write_csv(tmp_path / "new.csv")
    command(
        "update", folder / "bundle", "--events", tmp_path / "new.csv", "--out", tmp_path / "later"
    )
    old, later = (load(path).retriever.data for path in (folder / "bundle", tmp_path / "later"))
    assert len(later.log) == len(old.log) + len(new)
    came = later.log.time >= 12
    assert set(later.log.columns["device"][came]) <= {0, 1, 2}
    assert np.isfinite(later.log.columns["dwell"][came]).all()
    capsys.readouterr()
    new.drop("dwell").write_csv(tmp_path / "short.csv")
    command(
        "update", folder / "bundle", "--events", tmp_path / "short.csv", "--out", tmp_path / "no"
    )
    assert "no column 'dwell'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.context=['dwell']"], "which is known after the event"),
        (["model.history_features=['page']"], "no feature of events 'page'"),
        (["features.events.device='categorical'"], "must be a table that also says when"),
        (["features.events.time.kind='numeric'"], "known"),
        (
            ["features.events.time={kind='numeric', known='before'}"],
            "'time', which is data.time: it has a meaning of its own",
        ),
        (
            ["features.events.kind={kind='numeric', known='after'}"],
            'its kind must be "categorical"',
        ),
        (["features.events.device.kind='vector'"], "categorical"),
        (["model.context=[]", "model.history_features=[]"], "features.events.battery does nothing"),
        (
            ["training.positives='u2u'", "features.users={}"],
            "features.events does nothing with positives = 'u2u'",
        ),
        (
            ["model.history='none'", "model.user_id=true"],
            "features.events.dwell does nothing: name it in model.history_features, and give",
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_data_is_read(
    folder, tmp_path, capsys, changes, message
):
    sets = [part for change in changes for part in ("--set", change)]
    command("train", folder / "recipe.toml", "--out", tmp_path / "no", *sets)
    assert message in " ".join(capsys.readouterr().err.split())
