"""The flags that all commands share act or are refused by every command."""

import inspect
import re
import sys
from typing import get_args

import pytest
from typer.main import get_command

from shortlist.bundle.bundle import save
from shortlist.channels.counting.popular import Popular
from shortlist.cli.app import app, main
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.index import INDEXES
from shortlist.index.settings import settings_of

COMMANDS = get_command(app).commands
WITH_DEVICE = [n for n, c in COMMANDS.items() if "device" in {p.name for p in c.params}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    world = planted_world(users=40, items=40, events=360, seed=3)
    world.interactions.write_csv(folder / "log.csv")
    log = Dataset.load(world.interactions, schema=Schema(time="timestamp"))
    save(Popular(half_life=1e6).fit(log.split()), folder / "bundle")
    channels = '[channels.a]\nkind = "popular"\n[channels.b]\nkind = "item-cf"\n'
    data = f'[data]\ninteractions = "{folder}/log.csv"\ntime = "timestamp"\n'
    (folder / "recipe.toml").write_text(data + channels)
    return folder


def call(capsys, *arguments) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and what it said on stderr."""
    capsys.readouterr()
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    return code, " ".join(capsys.readouterr().err.split())


def asked(command, folder):
    """A command that could be carried out, but for a device that nobody has."""
    bundle, recipe = folder / "bundle", folder / "recipe.toml"
    return {
        "demo": ("demo", "--synthetic", "--small", "--out", folder / "demo"),
        "train": ("train", recipe, "--out", folder / "new"),
        "tune": ("tune", recipe, "--out", folder / "tuned"),
        "plan": ("plan", recipe),
        "recommend": ("recommend", bundle, "--user", "10001"),
        "similar": ("similar", bundle, "--item", "500001"),
        "explain": ("explain", bundle, "--user", "10001"),
        "compare": ("compare", bundle, f"again={bundle}"),
        "update": ("update", bundle, "--events", folder / "log.csv", "--out", folder / "new"),
        "refresh": ("refresh", bundle, "--events", folder / "log.csv", "--out", folder / "new"),
        "encode": ("encode", bundle, "--items", folder / "items.parquet"),
        "index": ("index", bundle, "--out", folder / "new"),
    }.get(command, (command, bundle))


@pytest.mark.parametrize("command", [name for name in WITH_DEVICE if name != "tune"])
def test_a_device_that_cannot_be_used_is_refused_by_every_command(command, folder, capsys):
    code, said = call(capsys, *asked(command, folder), "--device", "bogus")
    assert code == 2
    assert "device" in said
    assert "bogus" in said


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WITH_DEVICE])
def test_a_device_before_a_command_without_one_is_refused(command, folder, capsys):
    code, said = call(capsys, "--device", "cpu", *asked(command, folder))
    assert (code, f"--device has no effect on {command}" in said) == (2, True)


def test_a_recipe_has_no_device_to_look_for_mistakes_on(folder, capsys):
    code, said = call(capsys, "doctor", folder / "recipe.toml", "--device", "cuda")
    assert (code, "--device is for a bundle" in said) == (2, True)


@pytest.mark.parametrize("command", ["plan", "recommend"])
def test_quiet_leaves_errors_and_results_and_nothing_else(command, folder, capsys):
    question = asked(command, folder)
    if command == "recommend":
        question = ("recommend", folder / "bundle", "--history", "500001,9")
    code, said = call(capsys, *question)
    assert code == 0
    assert said
    assert call(capsys, "--quiet", *question) == (0, "")
    code, said = call(capsys, "--quiet", command, folder / "nowhere")
    assert code == 2
    assert said


def test_the_number_of_reasons_is_of_tables(folder, capsys):
    question = (*asked("explain", folder), "--reasons", "2")
    assert call(capsys, *question)[0] == 0
    code, said = call(capsys, *question, "--json")
    assert (code, "--json prints every reason" in said) == (2, True)


def test_index_lists_every_kind_with_its_settings_where_that_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["shortlist", "index", "--kind", "help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    shown = capsys.readouterr().out
    for name, kind in INDEXES.items():
        assert f" {name} " in shown
        assert all(f" {setting} " in shown for setting in settings_of(kind).model_fields)


def test_values_to_try_of_a_setting_are_refused_before_the_bundle_is_read(folder, capsys):
    asked = ("index", folder / "missing", "--out", folder / "indexed", "--set")
    for given, words in (
        ("m=1", "m must be >= 2, got 1"),
        ("m=16,many", "m must be a whole number, got 'many'"),
        ("beam=3", "has no setting 'beam'"),
        ("m", "--set is SETTING=VALUE,VALUE"),
    ):
        code, said = call(capsys, *asked, given)
        assert (code, words in said) == (2, True), said


def choices_and_numbers(typer_app, *path):
    """The words of each command, with the name of each option that takes a number or a choice."""
    for info in typer_app.registered_commands:
        words = (*path, info.name or info.callback.__name__.rstrip("_"))
        for name, parameter in inspect.signature(info.callback).parameters.items():
            kind, option, *_ = (*get_args(parameter.annotation), None, None)
            is_option = parameter.default is not inspect.Parameter.empty
            if is_option and re.search(r"\b(int|float)\b|Literal", str(kind)):
                given = (option.default, *(option.param_decls or ()))
                flags = [flag for flag in given if str(flag).startswith("--")]
                yield words, (flags or [f"--{name.replace('_', '-')}"])[0]
    for group in typer_app.registered_groups:
        yield from choices_and_numbers(group.typer_instance, *path, group.name)


WITH_A_RANGE = [(*words, flag) for words, flag in choices_and_numbers(app)]


def test_a_value_of_a_wrong_kind_is_refused_in_a_sentence_that_names_the_option(capsys):
    assert len(WITH_A_RANGE) > 40
    for given in WITH_A_RANGE:
        code, said = call(capsys, *given, "8x")
        sentence = rf"error: {given[-1]} (must be .+, got '8x'|cannot be '8x'\..+)"
        assert (code, re.fullmatch(sentence, said) is not None) == (2, True), (given, said)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("job", "prepare", "r", "--work", "w", "--parts", "0"), "--parts must be >= 1, got 0"),
        (("job", "prepar", "r", "--work", "w"), "stage cannot be 'prepar'. Did you mean 'prepare'"),
        (("serve", "b", "--processes", "0"), "--processes must be >= 1, got 0"),
        (("serve", "b", "--timeout", "inf"), "--timeout must be <= 1000000, got inf"),
        (("serve", "b", "--events-sync", "ful"), "--events-sync cannot be 'ful'. Did you mean"),
        (("evaluate", "b", "--k", "5", "--k", "x"), "--k must be a whole number, got 'x'"),
        (("items", "revert", "b", "0"), "change must be >= 1, got 0"),
        (
            ("refresh", "b", "--events", "e", "--out", "o", "--every", "0s"),
            "--every must be > 0: seconds, or text with a number and a unit (ms, s, min, h, d, w), "
            'such as "30min" or "7d", got \'0s\'',
        ),
    ],
)
def test_a_value_out_of_range_is_told_with_what_was_expected_and_what_came(given, message, capsys):
    code, said = call(capsys, *given)
    assert (code, said.startswith(f"error: {message}")) == (2, True), said


@pytest.mark.parametrize(
    "given",
    [
        ("serve", "{}"),
        ("evaluate", "{}/b"),
        ("init", "{}"),
        ("init", "{}/log.csv"),
        ("train", "{}", "--out", "o"),
        ("refresh", "{}", "--events", "e", "--out", "o"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_refused_in_a_sentence(given, capsys):
    code, said = call(capsys, *(part.format("a" * 300) for part in given))
    assert (code, said.startswith("error: ")) == (2, True), said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("refresh", "b", "--events", "e", "--out", "o", "--keep", "3"),
            "--keep does nothing without --every",
        ),
        (("evaluate", "b", "--slices", "--json"), "--slices is for tables"),
    ],
)
def test_an_option_without_effect_beside_others_is_refused(given, message, capsys):
    code, said = call(capsys, *given)
    assert (code, said.startswith(f"error: {message}")) == (2, True), said
