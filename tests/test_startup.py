"""Commands start quickly, because they import no more than they need."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

LOADED = """
import json, os, sys
before = set(sys.modules)
{run}
sys.__stdout__.write("\\n" + json.dumps(sorted(set(sys.modules) - before)))
"""

COMMANDS = """
import contextlib, io, os
from shortlist.cli.app import app, main

def expect(words, *arguments):
    sys.argv = ["shortlist", *arguments]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit:
            pass
    assert words in said.getvalue(), (arguments, said.getvalue())

expect("shortlist 0", "--version")
expect("COMMAND", "--help")
expect("COMMAND")
for command in app.registered_commands:
    name = command.callback.__name__.rstrip("_")
    expect("shortlist " + name, name, "--help")
expect("No such option", "recommend", "--usr", "1")
expect("No such command", "recomend")
expect("Missing argument", "serve")
expect("must be a whole number", "recommend", "bundle", "--k", "ten")
expect("give one of --user", "recommend", "bundle")
expect("give --item or", "similar", "bundle")
expect("give --user or", "explain", "bundle")
expect("give --items", "encode", "bundle")
expect("--small does nothing", "demo", "--small")
expect("--from does nothing", "data", "--from", "x")
expect("--checkpoint-every does", "train", "recipe", "--out", "x", "--checkpoint-every", "1")
os.environ.update(_SHORTLIST_COMPLETE="complete_bash", COMP_WORDS="shortlist recom", COMP_CWORD="1")
expect("recommend")
"""

ASKING = """
import contextlib, io
from shortlist.cli.app import main

for user, words in (("10001", "Candidates for user"), ("1", "nothing known")):
    sys.argv = ["shortlist", "recommend", {bundle!r}, "--user", user]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit:
            pass
    assert words in said.getvalue(), said.getvalue()
"""

STARTING = """
from shortlist.cli.app import main
from shortlist.serving import run

def started(path, host, port, settings, ready):
    assert settings.processes == 2 and settings.events is not None

run.serve_together = started
os.environ["SHORTLIST_WRITE_TOKEN"] = "writer-writer-writer"
sys.argv = ["shortlist", "serve", {bundle!r}, "--processes", "2"]
sys.argv += ["--events", "--events-file={store}", "--guard", "fallback=0.5"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
GOLDEN = Path(__file__).parent / "bundle" / "golden" / "format-3"
BY_TYPER = {"rich", "pydantic"}
"""The latter to read a number, in its newer versions."""


def loaded(run):
    """Run code in a process of its own and return the modules that it imports."""
    command = [sys.executable, "-c", LOADED.format(run=run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def dependencies(modules):
    """The packages among these modules that Shortlist depends on, numerical or not."""
    wanted = {re.match("[A-Za-z0-9-]+", line)[0].lower() for line in requires("shortlist")}
    homes = packages_distributions()
    tops = {name.split(".")[0] for name in modules}
    return {top for top in tops if wanted & {home.lower() for home in homes.get(top, ())}}


def test_help_the_version_and_usage_errors_import_nothing_that_computes():
    assert dependencies(loaded(COMMANDS)) - BY_TYPER == {"typer"}


def test_importing_the_package_imports_nothing_until_a_name_is_used():
    modules = loaded("import shortlist\ndir(shortlist)\nshortlist.ShortlistError")
    assert dependencies(modules) == set()


def test_an_answer_for_one_user_imports_what_computes_it_and_no_compiler():
    modules = loaded(ASKING.format(bundle=str(GOLDEN / "two-tower")))
    assert "torch" in modules
    assert not {"numba", "scipy", "faiss", "fastapi", "uvicorn"} & set(modules)


@pytest.mark.parametrize("store", ["events.sqlite", "redis://localhost:1/0"])
def test_the_process_that_starts_those_that_answer_imports_nothing_that_computes(store):
    run = STARTING.format(bundle=str(GOLDEN / "two-tower"), store=store)
    assert dependencies(loaded(run)) - BY_TYPER == {"orjson", "typer"}
