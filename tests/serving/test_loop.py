"""The loop closes: events are served, exported, learned from and published, and count once."""

import json
import sys

import polars as pl
import pytest

from patience import PATIENT
from shortlist.bundle.bundle import load
from shortlist.cli.app import main
from shortlist.data.synthetic import planted_world
from shortlist.histories.events import Watermark
from shortlist.serving.settings import Settings

WRITER, ADMIN = "writer-writer-writer", "admin-admin-admin"
USER, OTHER, NEW, NEW_ITEM = 10_001, 10_002, 77, 88
RECIPE = """
[data]
interactions = "FOLDER/log.csv"
time = "timestamp"
weight = "rating"
min_weight = 2.0
[channels.near]
kind = "item-cf"
[training]
refit = "all"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    planted_world(users=60, items=40, events=600, seed=3).interactions.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(RECIPE.replace("FOLDER", str(folder)))
    return folder


def run(capsys, *arguments):
    """A command of the command line: what it said."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = old
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture
def served(open_app, make_client, project, tmp_path, capsys):
    """A service over a directory with one bundle; (ask a reader, send events, the application)."""
    folder = tmp_path / "live"
    code, said = run(capsys, "train", project / "recipe.toml", "--out", folder / "v1", "--quiet")
    assert code == 0, said
    tokens = {"write_token": WRITER, "admin_token": ADMIN}
    app = open_app(folder, Settings(events=tmp_path / "e.sqlite", timeouts=PATIENT, **tokens))
    reader, writer = make_client(app), make_client(app, WRITER)

    def send(*events):
        said = writer.post("/v1/events", {"events": list(events)})
        assert said.status == 200, said

    return reader, send, app, folder, tmp_path / "e.sqlite"


def history(reader, user):
    return reader.post("/v1/history", {"user": user}).json["items"]


def recommended(reader, user):
    return reader.post("/v1/recommend", {"users": [user], "k": 20}).json["items"][0]


def test_events_become_a_bundle_that_has_learned_from_them_once(served, tmp_path, capsys):
    reader, send, app, folder, store = served
    items = app.watch.current.data.items.ids.to_list()
    stored = history(reader, USER)
    disliked = recommended(reader, OTHER)[0]
    send(
        {"user": USER, "item": items[0], "kind": "click", "weight": 5, "time": 1_760_000_000},
        {"user": USER, "item": items[1]},
        {"user": NEW, "item": items[2], "time": 1_500_000_000.5},  # late
        {"user": OTHER, "item": NEW_ITEM},
        {"user": OTHER, "item": disliked, "weight": 1},
    )
    assert disliked not in recommended(reader, OTHER)
    assert history(reader, USER) == [*stored, *items[:2]]
    assert history(reader, NEW) == [items[2]]

    first = tmp_path / "first.parquet"
    code, said = run(capsys, "events", "export", store, "--bundle", folder / "v1", "--out", first)
    mark = Watermark(app.events.store.identity, 5)
    assert (code, f"--watermark {mark}" in said) == (0, True), said
    table = pl.read_parquet(first)
    assert table.columns == ["user_id", "item_id", "timestamp", "rating", "kind"]
    assert table["item_id"].to_list() == [*items[:3], NEW_ITEM, disliked]
    assert table["timestamp"][0] == 1_760_000_000
    assert table["timestamp"][2] == 1_500_000_000
    assert table["rating"].to_list() == [5, 2, 2, 2, 1]
    assert table["kind"].to_list() == ["click", *[None] * 4]

    # What comes after the export, and before the next bundle is there.
    send({"user": USER, "item": items[3]})
    update = ("update", folder / "v1", "--events", first)
    code, said = run(capsys, *update, "--out", folder / "v2")
    assert (code, "4 new events" in said) == (0, True), said
    assert load(folder / "v2").watermark == mark
    assert app.watch.look()
    assert sorted(history(reader, USER)) == sorted([*stored, *items[:2], items[3]])
    assert history(reader, NEW) == [items[2]]
    assert history(reader, OTHER)[-1] == NEW_ITEM
    assert disliked not in recommended(reader, OTHER)

    # The next export holds what the bundle has not learned from.
    second = tmp_path / "second.parquet"
    export = ("events", "export", store, "--bundle", folder / "v2")
    run(capsys, *export, "--out", second)
    assert pl.read_parquet(second)["item_id"].to_list() == [items[3]]
    code, said = run(capsys, *update[:1], folder / "v2", "--events", second, "--out", folder / "v3")
    assert code == 0, said
    assert app.watch.look()
    assert sorted(history(reader, USER)) == sorted([*stored, *items[:2], items[3]])
    # With a gap between the two it is refused.
    code, said = run(capsys, "update", folder / "v1", "--events", second, "--out", folder / "v4")
    assert (code, "those between are missing" in said) == (2, True), said
    code, said = run(capsys, *export, "--since", 6, "--out", tmp_path / "third.parquet")
    code, said = run(
        *(capsys, "update", folder / "v2", "--events", tmp_path / "third.parquet"),
        *("--out", folder / "v5"),
    )
    assert (code, "those between are missing" in said) == (2, True), said


def test_a_training_on_the_log_and_an_export_has_its_watermark(served, project, tmp_path, capsys):
    reader, send, app, folder, store = served
    items = app.watch.current.data.items.ids.to_list()
    send(*({"user": NEW, "item": item, "weight": 4} for item in items[:5]))
    first = tmp_path / "first.parquet"
    run(capsys, "events", "export", store, "--bundle", folder / "v1", "--out", first)
    both = f'data.interactions=["{project}/log.csv", "{first}"]'
    train = ("train", project / "recipe.toml", "--quiet", "--set", both)
    code, said = run(capsys, *train, "--out", folder / "v2")
    assert code == 0, said
    mark = Watermark(app.events.store.identity, 5)
    assert load(folder / "v2").watermark == mark
    assert app.watch.look()
    assert sorted(history(reader, NEW)) == sorted(items[:5])
    # Where the two were merged beforehand somebody has to say so.
    code, said = run(
        *(capsys, "train", project / "recipe.toml", "--quiet", "--out", folder / "v3"),
        *("--watermark", mark),
    )
    assert load(folder / "v3").watermark == mark
    code, said = run(
        *(capsys, "train", project / "recipe.toml", "--quiet", "--out", folder / "v4"),
        *("--watermark", "5"),
    )
    assert (code, "a watermark is STORE:NUMBER" in said) == (2, True)


def test_a_deleted_user_is_in_no_later_export(served, tmp_path, capsys, make_client):
    _, send, app, folder, store = served
    item = app.watch.current.data.items.ids[0]
    send({"user": USER, "item": item}, {"user": OTHER, "item": item})
    make_client(app, ADMIN).ask("DELETE", f"/v1/users/{USER}")
    out = tmp_path / "out.parquet"
    run(capsys, "events", "export", store, "--bundle", folder / "v1", "--out", out)
    assert pl.read_parquet(out)["user_id"].to_list() == [OTHER]


def test_a_bundle_says_up_to_which_change_of_items_its_table_knows_and_its_heirs_say_so_too(
    project, tmp_path, capsys
):
    mark = f"{'ab' * 8}:7"
    command = ["train", project / "recipe.toml", "--out", tmp_path / "v1", "--quiet"]
    code, said = run(capsys, *command, "--items-watermark", "7")
    assert (code, "a watermark is STORE:NUMBER" in said) == (2, True)
    code, said = run(capsys, *command, "--items-watermark", mark)
    assert code == 0, said
    new = pl.DataFrame({"user_id": [USER], "item_id": [500_001], "timestamp": [2_000_000_000]})
    new.with_columns(rating=5.0).write_csv(tmp_path / "new.csv")
    update = ["update", tmp_path / "v1", "--events", tmp_path / "new.csv", "--out", tmp_path / "v2"]
    code, said = run(capsys, *update)
    assert code == 0, said
    for name in ("v1", "v2"):
        assert load(tmp_path / name).items_watermark == Watermark("ab" * 8, 7)


def test_changes_of_items_are_listed_and_taken_back_on_the_command_line(served, tmp_path, capsys):
    app = served[2]
    admin = {"authorization": f"Bearer {ADMIN}"}
    windows = [{"id": 500_001, "until": 5}]
    said = served[0].post("/admin/items", {"id": "w-1", "available": windows}, headers=admin)
    assert said.json["change"] == 1
    store = tmp_path / "e.sqlite"
    code, text = run(capsys, "items", "changes", store)
    assert (code, "id w-1: 500001 (available) [None, 5.0]" in text) == (0, True), text
    code, text = run(capsys, "items", "revert", store, 1)
    assert (code, "Change 1 is reverted, by change 2" in text) == (0, True), text
    app.watch.follow()
    assert app.watch.current.change == 2
    assert app.watch.current.availability is None
    assert "had already been reverted, by change 2" in run(capsys, "items", "revert", store, 1)[1]
    code, text = run(capsys, "items", "changes", store, "--json", "--limit", 1)
    assert json.loads(text)["changes"][0]["undoes"] == 1
    for number, why in ((2, "change 2 took back change 1"), (9, "there is no change 9")):
        code, text = run(capsys, "items", "revert", store, number)
        assert (code, why in text) == (2, True), text
    code, text = run(capsys, "items", "changes", tmp_path / "none")
    assert (code, "there is no such file" in text) == (2, True)
    assert not (tmp_path / "none").exists()
