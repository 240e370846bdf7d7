"""Public logs and exports, as they are: `init` guesses them, and what it writes trains and answers.

A family is a writer of small invented files and what the recipe must say of them (families.py).
"""

import asyncio
import json
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from drafting.families import FAMILIES, Family
from patience import PATIENT
from shortlist.bundle.bundle import load
from shortlist.cli import main
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.settings import Settings
from shortlist.serving.watching import Watch

ASKED = ("amazon-reviews", "otto", "parquet")
"""Families of which the service is asked, too."""

FIT = ("training.epochs=1", "model.dim=8", "evaluation.k=[5]")


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)


def call(*arguments) -> int:
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = old
    return 0


def init(family: Family, folder: Path) -> Path:
    sides = [(f"--{side}", folder / name) for side, name in family.files.items() if side != "log"]
    recipe = folder / "recipe.toml"
    arguments = [word for pair in sides for word in pair]
    call("init", folder / family.files["log"], *arguments, "--out", recipe, "--json")
    assert recipe.exists()
    return recipe


async def post(app: App, question: object) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/recommend", json=question)


def asked(bundle: Path, user: object) -> list[object]:
    """The items that the service over a bundle answers one request with."""
    measures = Measures()
    watch = Watch(bundle, measures)
    app = App(watch, measures, Settings(timeouts=PATIENT))
    watch.look()
    try:
        answer = asyncio.run(post(app, {"users": [user], "k": 3}))
        assert answer.status_code == 200, answer.text
        (items,) = answer.json()["items"]
        return list(items)
    finally:
        app.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_guessed_right_or_marked_and_trains_and_answers(name, tmp_path, capsys):
    family = FAMILIES[name]
    family.write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    recipe = init(family, tmp_path)
    told = json.loads(capsys.readouterr().out)
    text = recipe.read_text()
    said = tomllib.loads(text)
    places = {"interactions", "users", "items", "users_columns", "items_columns"}
    assert {key: v for key, v in said["data"].items() if key not in places} == family.roles
    features = said.get("features", {})
    assert family.features.items() <= features.get("items", {}).items()
    assert family.users.items() <= features.get("users", {}).items()
    assert features.get("title") == family.title
    unsure = {g["key"].partition(".")[2] for g in told["guesses"] if g["confidence"] == "check"}
    assert unsure == family.unsure
    assert text.count("check: ") == len(unsure)
    assert all(guess["reason"] for guess in told["guesses"] if guess["key"] != "data.interactions")
    assert len(text.splitlines()) <= 60
    bundle = tmp_path / "bundle"
    assert (
        call(
            "train",
            recipe,
            "--out",
            bundle,
            "--quiet",
            *(word for key in FIT for word in ("--set", key)),
        )
        == 0
    ), capsys.readouterr().err
    capsys.readouterr()
    assert call("evaluate", bundle, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["recall@5"]["mean"] > 0
    user = load(bundle).retriever.data.users.ids[3]
    assert call("recommend", bundle, "--user", user, "--k", 3, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["users"]
    items = [candidate["item"] for candidate in answer["items"]]
    assert len(items) == 3
    assert name not in ASKED or asked(bundle, user) == items
    assert all(path.read_bytes() == data for path, data in before.items())
