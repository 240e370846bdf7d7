"""Text from data is printed as it is: no markup, no emoji, no terminal codes."""

import io
import sys

import polars as pl
import pytest
from rich.table import Table

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load
from shortlist.cli import main, show
from shortlist.cli.screen import Screen, visible
from shortlist.doctor import Finding
from shortlist.training.progress import Bars

HOSTILE = [
    "Tide [/remix]",
    "[untitled]",
    "Harbour [live]",
    ":rocket:",
    "[bold red]loud[/bold red]",
    "[link=http://x.invalid]here[/link]",
    "\x1b[31mred\x1b[0m",
    "two\nlines",
    "back\rspace\x08",
    "\u202ertl",
    "\x9b1mcsi",
    "tab\there",
]
RECIPE = """
[data]
interactions = "log.parquet"
items = "items.parquet"
time = "time"
[features]
title = "title"
[channels.cf]
kind = "item-cf"
[channels.p]
kind = "popular"
[evaluation]
k = [3]
"""


@pytest.fixture(scope="module", params=["ids", "titles"])
def folder(request, tmp_path_factory):
    """A bundle with hostile ids, or with hostile titles under plain ids."""
    folder = tmp_path_factory.mktemp(request.param)
    items = HOSTILE if request.param == "ids" else [f"item-{n}" for n in range(len(HOSTILE))]
    users = [f"[/user{n}]\x1b[1m" for n in range(20)]
    rows = [(u, items[(n * 5 + s) % len(items)], s) for n, u in enumerate(users) for s in range(5)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    log.write_parquet(folder / "log.parquet")
    pl.DataFrame({"item_id": items, "title": HOSTILE}).write_parquet(folder / "items.parquet")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def run(capsys, monkeypatch, *arguments):
    """What a command says, with its tables as wide as they like to be."""
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return stop.value.code, said.out + said.err


def check(said):
    assert not set(said) & {"\x1b", "\r", "\x08", "\u202e", "\x9b", "\t"}
    assert "\U0001f680" not in said


def test_every_view_shows_ids_and_titles_as_they_are(folder, capsys, monkeypatch):
    bundle, user = folder / "b", "[/user3]\x1b[1m"
    item = load_items(folder)[0]
    asked = {
        "train": (folder / "recipe.toml", "--out", bundle),
        "recommend": (bundle, "--user", user, "--k", 9),
        "similar": (bundle, "--item", item, "--k", 9),
        "explain": (bundle, "--user", user, "--item", item, "--item", load_items(folder)[3]),
        "inspect": (bundle,),
        "evaluate": (bundle,),
        "doctor": (bundle,),
        "plan": (folder / "recipe.toml",),
    }
    said = {}
    for command, arguments in asked.items():
        code, said[command] = run(capsys, monkeypatch, command, *arguments)
        assert code in ((0, None) if command != "doctor" else (0, 1, None)), said[command]
        check(said[command])
    assert visible(user) in said["recommend"]
    recommended = load(bundle).retriever.recommend(Queries([user]), 9).ids[0]
    titles = dict(zip(load_items(folder), HOSTILE, strict=True))
    for item in recommended:
        assert visible(titles[item]) in said["recommend"]
    assert "Tide [/remix]" in " ".join(said["similar"].split())
    _, unknown = run(capsys, monkeypatch, "recommend", bundle, "--user", "[/nobody]\x1b[2J")
    check(unknown)
    assert r"user [/nobody]\x1b[2J is unknown" in unknown


def load_items(folder):
    return pl.read_parquet(folder / "items.parquet")["item_id"].to_list()


def test_an_error_shows_what_came_as_it_is(folder, capsys, monkeypatch):
    code, said = run(capsys, monkeypatch, "inspect", folder / "no[/such]\x1b[31m")
    assert code == 3
    check(said)
    assert r"no[/such]\x1b[31m" in said


def test_a_console_of_ours_takes_text_literally_wherever_it_stands():
    said = io.StringIO()
    screen = Screen(file=said, width=200, force_terminal=True)
    for text in HOSTILE:
        table = Table(text, title=text, caption=text)
        table.add_column(text, footer=text)
        table.add_row(text, text)
        screen.print(table)
        screen.print(text)
        screen.print(show.findings([Finding("code", "warning", text, text, text)]))
        with Bars(screen) as bars:
            bars.stage(visible(text))
            bars.report(1, 0.5, visible(text), 0.5)
        assert said.getvalue().count(visible(text)) >= 10
    assert "\U0001f680" not in said.getvalue()
    assert "\x1b[31m" not in said.getvalue()
    assert "\x1b]8" not in said.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_figures_of_a_table_stand_whole_however_narrow_the_screen(terminal):
    table = Table(title="Figures")
    table.add_column("metric", no_wrap=True)
    for name in ("model", "popular", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("popularity_percentile@100", "0.1234 ± 0.0012", "0.2345", "+0.3456 ± 0.0034")
    written = io.StringIO()
    screen = Screen(file=written, width=60, force_terminal=terminal, color_system=None)
    screen.print(table)
    assert screen.width == 60
    lines = written.getvalue().splitlines()
    assert any(
        all(figure in line for figure in ("0.1234 ± 0.0012", "0.2345", "+0.3456 ± 0.0034"))
        for line in lines
    )
    assert (max(map(len, lines)) <= 60) == terminal
    assert "".join(lines).replace(" ", "").count("popularity_percentile@100") == (not terminal)
