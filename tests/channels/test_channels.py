"""Channels of a recipe on the command line: trained, planned, queried, explained, updated."""

import json
import sys

import polars as pl
import pytest

from shortlist.cli import main
from shortlist.data.synthetic import planted_world

RECIPE = """
[data]
interactions = "log.csv"
items = "items.parquet"
users = "users.parquet"
time = "timestamp"

[features]
users = { region = "categorical" }
items = { tags = "multi-valued" }
title = "title"

[channels.ease]
kind = "ease"
recency = 5.0

[channels.tags]
kind = "inverted"
attribute = "tags"

[channels.popular]
kind = "popular"
segment = "region"

[blend]
size = 20
fallback = ["popular"]

[training]
refit = "all"

[evaluation]
k = [5, 20]
"""


@pytest.fixture(scope="module", autouse=True)
def _no_data_folder():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHORTLIST_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("channels")
    world = planted_world(users=150, items=100, events=3_000, seed=2)
    world.interactions.drop("rating").write_csv(folder / "log.csv")
    world.users.write_parquet(folder / "users.parquet")
    world.items.write_parquet(folder / "items.parquet")
    (folder / "recipe.toml").write_text(RECIPE)
    assert call("train", folder / "recipe.toml", "--out", folder / "blend", "--quiet") == 0
    return folder


def call(*arguments) -> int:
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def answer(capsys, *arguments):
    """The JSON object a command prints."""
    capsys.readouterr()
    assert call(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def someone(folder):
    return pl.read_csv(folder / "log.csv")["user_id"][0]


def test_a_blend_says_where_each_candidate_comes_from(folder, capsys):
    found = answer(capsys, "recommend", folder / "blend", "--user", someone(folder))
    items = found["users"][0]["items"]
    assert len(items) == 10
    assert {item["channel"] for item in items} <= {"ease", "tags", "popular"}
    assert all(item["channel"] in item["ranks"] for item in items)


def test_the_reasons_of_a_channel_sum_to_its_score(folder, capsys):
    user = someone(folder)
    found = answer(capsys, "explain", folder / "blend", "--user", user)
    kinds = {reason["kind"] for reason in found["reasons"]}
    assert {"event", "attribute"} <= kinds
    assert call("explain", folder / "blend", "--user", user, "--reasons", "2") == 0
    assert "because of" in capsys.readouterr().out


def test_a_plan_gives_quotas_that_sum_to_the_size(folder, capsys):
    found = answer(capsys, "plan", folder / "recipe.toml", "--size", "10")
    assert set(found["channels"]) == {"ease", "tags"}
    assert sum(channel["quota"] for channel in found["channels"].values()) == 10
    assert found["expected_recall"] >= found["equal_quotas_recall"]
    assert call("plan", folder / "recipe.toml") == 0
    assert "quotas = {" in capsys.readouterr().err


def test_an_update_is_known_without_a_fit(folder, capsys):
    log = pl.read_csv(folder / "log.csv")
    item = int(log["item_id"][0])
    new = pl.DataFrame(
        {"user_id": [77], "item_id": [item], "timestamp": [int(log["timestamp"].max()) + 5]}
    )
    new.write_csv(folder / "new.csv")
    before = answer(capsys, "recommend", folder / "blend", "--user", "77")
    assert before["users"][0]["fallback"]
    arguments = ("--events", folder / "new.csv", "--out", folder / "updated")
    assert call("update", folder / "blend", *arguments) == 0
    assert "1 new events" in capsys.readouterr().err
    after = answer(capsys, "recommend", folder / "updated", "--user", "77")
    assert not after["users"][0]["fallback"]
    assert item not in [found["item"] for found in after["users"][0]["items"]]


def test_one_channel_alone_is_its_own_bundle(folder, capsys):
    recipe = folder / "one.toml"
    start, end = RECIPE.index("[channels.tags]"), RECIPE.index("[training]")
    alone = RECIPE[:start] + RECIPE[end:].replace('"all"', '"none"')
    recipe.write_text(alone.replace('users = { region = "categorical" }\n', ""))
    assert call("train", recipe, "--out", folder / "one", "--quiet") == 0
    assert answer(capsys, "inspect", folder / "one")["retriever"] == "ease"
    assert answer(capsys, "similar", folder / "one", "--item", 500_001)["similar"]
    other = folder / "other"
    changed = ("--set", "channels.ease.l2=50.0", "--out", other, "--quiet")
    assert call("train", recipe, *changed) == 0
    found = answer(capsys, "compare", folder / "one", other, "--k", "5")
    one, two = (found["metrics"][name]["ndcg@5"]["mean"] for name in ("one", "other"))
    assert found["difference"]["other"]["ndcg@5"]["mean"] == pytest.approx(one - two)
    assert found["first"] == "one"
    named = answer(capsys, "compare", folder / "one", other, f"again={folder / 'one'}", "--k", "5")
    assert list(named["bundles"]) == ["one", "other", "again"]
    assert named["difference"]["again"]["ndcg@5"]["holm"] == 1
    assert call("compare", folder / "one", folder / "one") == 2
    assert "name one of them, as NAME=PATH" in capsys.readouterr().err
    assert call("compare", folder / "one") == 2
    assert "two bundles or more" in capsys.readouterr().err
    capsys.readouterr()
    assert call("compare", folder / "one", folder / "blend") == 2
    assert "fitted on 'all'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("channels.ease.kind=eese", "channels.ease.kind: there is no retriever 'eese'"),
        ("channels.ease.kind=two-towr", "Did you mean 'two-tower'?"),
        ("channels.ease.device=cpu", "channels.ease: there is no option 'device'"),
        ("channels.ease.recensy=2", "channels.ease: EASE has no option 'recensy'"),
        ("channels.ease.recency=-1", "recency must be > 0"),
        ("blend.fallback=['populer']", "no channel 'populer'"),
        ("model.dim=8", "model.dim does nothing: no channel has towers"),
    ],
)
def test_a_mistake_in_a_channel_is_told_before_the_data_are_read(folder, capsys, override, message):
    capsys.readouterr()
    arguments = ("--out", folder / "never", "--set", override)
    assert call("train", folder / "recipe.toml", *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_recipe_of_init_shows_every_channel(tmp_path, capsys):
    assert call("init", "--full", tmp_path / "recipe.toml") == 0
    text = (tmp_path / "recipe.toml").read_text()
    for kind in ("popular", "inverted", "ease", "als"):
        assert f'# kind = "{kind}"' in text


def test_an_index_is_measured_kept_in_the_bundle_and_shown_beside_exact(folder, capsys):
    recipe = folder / "towers.toml"
    start, end = RECIPE.index("[channels.ease]"), RECIPE.index("[training]")
    training = "[model]\ndim = 8\n\n[training]\nepochs = 1\n"
    recipe.write_text(
        RECIPE[:start] + training + RECIPE[end:].replace('[training]\nrefit = "all"', "")
    )
    assert call("train", recipe, "--out", folder / "towers", "--quiet") == 0
    found = answer(
        capsys,
        "index",
        folder / "towers",
        "--out",
        folder / "indexed",
        "--k",
        "10",
        "--plot",
        folder / "recall.svg",
    )
    chosen = [trial for trial in found["trials"] if trial["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["recall"] >= 0.99
    assert (folder / "recall.svg").read_text().startswith("<?xml")
    report = answer(capsys, "evaluate", folder / "indexed")
    assert report["index"]["recall@20"]["indexed"] == report["metrics"]["recall@20"]["mean"]
    assert report["index"]["recall@20"]["exact"] == pytest.approx(
        report["metrics"]["recall@20"]["mean"], abs=0.02
    )
    assert report["channels"]["two-tower"]["index"] == "faiss-hnsw"
    capsys.readouterr()
    assert call("inspect", folder / "indexed") == 0
    shown = capsys.readouterr().out
    assert "faiss-hnsw" in shown
    assert "through exact indexes" in shown
    assert "index" not in answer(capsys, "evaluate", folder / "towers")
    capsys.readouterr()
    assert call("index", folder / "blend", "--out", folder / "never") == 2
    assert "nothing to index" in capsys.readouterr().err
    arguments = ("--out", folder / "never", "--kind", "fais")
    assert call("index", folder / "towers", *arguments) == 2
    assert "unknown index 'fais'" in capsys.readouterr().err
    assert not (folder / "never").exists()
