"""Events come over HTTP, a refresh learns them, and the service answers by the new bundle."""

import json
import sys

import pytest

from patience import PATIENT
from shortlist.bundle.bundle import load
from shortlist.cli.app import main
from shortlist.data.synthetic import planted_world
from shortlist.histories.events import Watermark
from shortlist.serving.settings import Settings

WRITER = "writer-writer-writer"
NEW_ITEM = 888
PARTS = {
    "near": "[channels.near]\nkind = 'item-cf'\n[training]\nrefit = 'all'\n",
    "towers": "[model]\ndim = 8\n[training]\nepochs = 2\nbatch_size = 64\nrefit = 'all'\n",
    "blend": "[channels.near]\nkind = 'item-cf'\n[channels.towers]\nkind = 'two-tower'\n"
    "[channels.als]\nkind = 'als'\nfactors = 8\n"
    "[model]\ndim = 8\n[training]\nepochs = 2\nbatch_size = 64\n",
}


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


@pytest.mark.parametrize("name", PARTS)
def test_a_new_item_is_answered_after_a_refresh_and_no_event_counts_twice(
    name, open_app, make_client, tmp_path, capsys
):
    world = planted_world(users=60, items=40, events=600, seed=3)
    world.interactions.write_csv(tmp_path / "log.csv")
    (tmp_path / "recipe.toml").write_text(
        f"[data]\ninteractions = '{tmp_path}/log.csv'\ntime = 'timestamp'\n{PARTS[name]}"
        "[evaluation]\nladder = false\n"
    )
    live, store = tmp_path / "live", tmp_path / "live.events.sqlite"
    code, said = run(capsys, "train", tmp_path / "recipe.toml", "--out", live / "v1", "--quiet")
    assert code == 0, said
    settings = Settings(events=store, timeouts=PATIENT, write_token=WRITER)
    app = open_app(live, settings)
    reader, writer = make_client(app), make_client(app, WRITER)
    users = world.interactions["user_id"].unique().sort().to_list()
    sent = [
        {"user": user, "item": NEW_ITEM if number % 2 else 500_001 + number % 20}
        for number, user in enumerate(users[:50])
    ]
    assert writer.post("/v1/events", {"events": sent}).status == 200
    asked = {"users": users[50:], "k": 30}

    def answered():
        return {
            item for items in reader.post("/v1/recommend", asked).json["items"] for item in items
        }

    assert NEW_ITEM not in answered()
    stored = reader.post("/v1/history", {"user": users[1]}).json["items"]

    refresh = ("refresh", live / "v1", "--events", store, "--least-users", 5, "--json", "--quiet")
    code, said = run(capsys, *refresh, "--out", live / "v2")
    made = json.loads(said)
    assert (code, made["decision"], made["events"]) == (0, "published", 50), said
    mark = Watermark(app.events.store.identity, 50)
    assert (made["watermark"], load(live / "v2").watermark) == (str(mark), mark)

    # One more event after the refresh read the store, and before the new bundle is served.
    late = {"events": [{"user": users[1], "item": 500_030}]}
    assert writer.post("/v1/events", late).status == 200
    assert app.watch.look()
    assert app.watch.current.name == "v2"
    assert NEW_ITEM in answered()
    known = reader.post("/v1/history", {"user": users[1]}).json["items"]
    assert sorted(known) == sorted([*stored, NEW_ITEM, 500_030])  # v1 did not know the item
