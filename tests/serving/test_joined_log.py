"""A log joined with everything, from the recipe to an answer over HTTP and an update."""

import json
import sys
from contextlib import suppress

import polars as pl
import pytest

from shortlist.bundle.bundle import load
from shortlist.cli import main
from shortlist.data.synthetic import planted_world

RECIPE = """
[data]
interactions = "log.csv"
time = "timestamp"

[features]
users = { club = "categorical", age = "numeric" }
items = { tags = "multi-valued", price = "numeric" }
title = "title"

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


@pytest.fixture(scope="module")
def log():
    world = planted_world(users=100, items=80, events=1_500, seed=3)
    joined = world.interactions.join(world.users, on="user_id").join(world.items, on="item_id")
    return joined.with_columns(pl.col("tags").list.join("|"), pl.col("interests").list.join("|"))


@pytest.fixture(scope="module")
def folder(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    log.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(RECIPE)
    command("train", folder / "recipe.toml", "--out", folder / "bundle", "--quiet")
    return folder


def test_titles_filters_and_quotas_are_of_the_columns_of_the_log(
    folder, log, open_app, make_client
):
    client = make_client(open_app(folder / "bundle"))
    user = log["user_id"][0]
    asked = {"users": [user], "k": 5, "where": {"column": "price", "max": 10}}
    found = client.post("/v1/recommend", asked)
    assert found.status == 200
    items = found.json["items"][0]
    known = log.unique("item_id")
    prices = dict(zip(known["item_id"], known["price"], strict=True))
    titles = dict(zip(known["item_id"], known["title"], strict=True))
    assert len(items) == 5
    assert max(prices[item] for item in items) <= 10
    shown = client.post("/v1/titles", {"items": items}).json
    assert shown["titles"] == [titles[item] for item in items]


def test_the_command_line_shows_titles_and_keeps_quotas(folder, log, capsys):
    user, bundle = log["user_id"][0], folder / "bundle"
    known = log.unique("item_id")
    titles = dict(zip(known["item_id"], known["title"], strict=True))
    prices = dict(zip(known["item_id"], known["price"], strict=True))
    asked = ("recommend", bundle, "--user", user, "--k", 6, "--quota", "price=1")
    capsys.readouterr()
    command(*asked, "--json")
    items = [item["item"] for item in json.loads(capsys.readouterr().out)["users"][0]["items"]]
    assert len({prices[item] for item in items}) == 6
    command(*asked)
    shown = capsys.readouterr().out
    assert all(titles[item] in shown for item in items)


def test_an_update_of_such_a_log_describes_its_users(folder, log):
    row = log.sort("timestamp").tail(1)
    user = row["user_id"][0]
    later = pl.col("timestamp") + 10
    row.with_columns(later, age=pl.lit(99)).write_csv(folder / "new.csv")
    command("update", folder / "bundle", "--events", folder / "new.csv", "--out", folder / "grown")
    frame = load(folder / "grown").retriever.data.user_frame
    assert frame.filter(pl.col("id") == user)["age"].to_list() == [99]
