"""Bundles of item-to-item and user-to-user models on the command line."""

import json
import sys

import polars as pl
import pytest

from shortlist.channels.table import LEARNED
from shortlist.cli import main
from shortlist.config import Recipe
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, RecipeError
from shortlist.runs.pipeline import check

RECIPE = """
[data]
interactions = "log.csv"
items = "items.parquet"
time = "timestamp"

[features]
title = "title"

[model]
dim = 16

[training]
epochs = 2
batch_size = 128

[evaluation]
k = [5]
"""
ITEM, USER = 500_001, 10_001


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    world = planted_world(users=200, items=150, events=4_000, seed=2)
    world.interactions.write_csv(folder / "log.csv")
    world.items.write_parquet(folder / "items.parquet")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def bundles(folder):
    """Bundles by what their positives are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHORTLIST_DATA", raising=False)
        for positives, extra in (
            ("u2i", ()),
            ("i2i", ("--set", "training.session_gap=1e9")),
            ("u2u", ()),
        ):
            asked = ("--set", f"training.positives={positives}", *extra, "--quiet")
            target = folder / positives
            assert call("train", folder / "recipe.toml", "--out", target, *asked) == 0
    return {positives: folder / positives for positives in LEARNED}


@pytest.fixture
def output(capsys):
    def _output(*arguments):
        capsys.readouterr()
        assert call(*arguments) == 0
        return capsys.readouterr().out

    return _output


@pytest.fixture
def refusal(capsys):
    def _refusal(*arguments):
        capsys.readouterr()
        assert call(*arguments) != 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return " ".join(captured.err.split())

    return _refusal


def test_similar_items_come_in_their_own_ids_best_first(bundles, output):
    asked = ("similar", bundles["i2i"], "--item", ITEM, "--item", ITEM + 1, "--k", 3, "--json")
    answers = json.loads(output(*asked))["similar"]
    assert [answer["item"] for answer in answers] == [ITEM, ITEM + 1]
    for answer in answers:
        near = [entry["item"] for entry in answer["items"]]
        scores = [entry["score"] for entry in answer["items"]]
        assert len(set(near)) == 3
        assert answer["item"] not in near
        assert scores == sorted(scores, reverse=True)
        assert answer["fallback"] is False


def test_similar_users_come_in_their_own_ids_best_first(bundles, output):
    answers = json.loads(output("similar", bundles["u2u"], "--user", USER, "--k", 3, "--json"))
    (answer,) = answers["similar"]
    assert answer["user"] == USER
    assert len({entry["user"] for entry in answer["users"]} - {USER}) == 3


def test_items_met_since_are_asked_with_and_not_recommended(bundles, output, refusal):
    asked = ("recommend", bundles["u2i"], "--user", USER, "--k", 3, "--json")
    first = [entry["item"] for entry in json.loads(output(*asked))["users"][0]["items"]]
    then = json.loads(output(*asked, "--recent", f"{first[0]},{first[1]}"))["users"][0]["items"]
    assert not {entry["item"] for entry in then} & set(first[:2])
    assert "give both" in refusal("recommend", bundles["u2i"], "--history", ITEM, "--recent", ITEM)
    assert "2 lists" in refusal(*asked, "--recent", ITEM, "--recent", ITEM)


def test_people_see_titles_of_items_and_ids_of_users(bundles, output):
    shown = output("similar", bundles["i2i"], "--item", ITEM, "--k", 3)
    assert f"Similar to item {ITEM}: The " in " ".join(shown.split())
    assert "Similar to user" in output("similar", bundles["u2u"], "--user", USER, "--k", 3)
    assert "popular items" in output("similar", bundles["i2i"], "--item", 3, "--k", 3)


@pytest.mark.parametrize(
    ("positives", "arguments", "message"),
    [
        ("i2i", ("--user", USER), "does not answer which users are similar: train one with"),
        ("u2u", ("--item", ITEM), "every kind but user-cf, user-to-user and popular"),
        ("i2i", (), "give --item or --user"),
        ("i2i", ("--item", ITEM, "--user", USER), "one of the two"),
        ("i2i", ("--item", "abc"), "integers"),
        ("i2i", ("--item", ITEM, "--k", 0), "at least 1"),
        ("u2u", ("--user", 3), "met no known item"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    bundles, refusal, positives, arguments, message
):
    assert message in refusal("similar", bundles[positives], *arguments)


@pytest.mark.parametrize(("positives", "kind"), [("i2i", "item-to-item"), ("u2u", "user-to-user")])
def test_the_other_commands_work_with_these_bundles(bundles, output, tmp_path, positives, kind):
    bundle = bundles[positives]
    kept = json.loads(output("inspect", bundle, "--json"))
    assert kept["retriever"] == kind
    assert kept["recipe"]["training"]["positives"] == positives
    measured = json.loads(output("evaluate", bundle, "--json"))
    new = ("bundle", "costs", "in_short")
    assert {k: v for k, v in measured.items() if k not in new} == kept["metrics"]
    for who in (("--user", USER), ("--history", f"{ITEM},{ITEM + 1}")):
        found = json.loads(output("recommend", bundle, *who, "--k", 4, "--json"))
        assert len(found["users"][0]["items"]) == 4
    output("encode", bundle, "--users", tmp_path / "users.parquet")
    assert pl.read_parquet(tmp_path / "users.parquet")["vector"].dtype == pl.Array(pl.Float32, 16)


def test_users_only_are_encoded_where_items_have_no_vectors(bundles, output, refusal, tmp_path):
    target = tmp_path / "items.parquet"
    output("encode", bundles["i2i"], "--items", target)
    assert pl.read_parquet(target).columns == ["id", "vector"]
    said = refusal("encode", bundles["u2u"], "--items", tmp_path / "none.parquet")
    assert "only vectors of users" in said
    assert not (tmp_path / "none.parquet").exists()


def recipe(**sections) -> Recipe:
    data = {"interactions": "log.csv", "users": "u.csv", "items": "i.csv", "time": "t"}
    data |= sections.pop("data", {})
    return Recipe.from_dict({"data": data, **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"positives": "i2i"}}, "needs data.session"),
        ({"training": {"session_gap": 60.0}}, 'session_gap is for positives = "i2i", got "u2i"'),
        ({"training": {"positives": "u2u", "pair_window": 5}}, 'for positives = "i2i", got "u2u"'),
        (
            {"data": {"session": "s"}, "training": {"positives": "i2i", "session_gap": 60.0}},
            "both cut sessions: give one",
        ),
        (
            {"data": {"time": None}, "training": {"positives": "i2i", "session_gap": 60.0}},
            "training.session_gap needs data.time",
        ),
        (
            {
                "data": {"time": None, "session": "s"},
                "training": {"positives": "i2i", "pair_window": 5},
            },
            "training.pair_window needs data.time",
        ),
        ({"training": {"positives": "i2u"}}, "training.positives cannot be 'i2u'"),
    ],
)
def test_a_recipe_whose_sections_disagree_on_pairs_is_refused(sections, message):
    with pytest.raises(RecipeError) as refused:
        recipe(**sections)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("positives", "side"), [("i2i", "users"), ("u2u", "users"), ("u2u", "items")]
)
def test_features_that_no_tower_would_read_are_refused(positives, side):
    gap = {"session_gap": 60.0} if positives == "i2i" else {}
    asked = recipe(features={side: {"age": "numeric"}}, training={"positives": positives, **gap})
    with pytest.raises(ModelError, match=f"features.{side} does nothing"):
        check(asked)


def test_every_kind_of_positive_has_its_retriever():
    for positives, kind in LEARNED.items():
        assert kind(positives=positives).training_section.positives == positives
