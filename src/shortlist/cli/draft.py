"""The commands that write a recipe: init, and import from other libraries."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist import outputs
from shortlist.cli.options import JsonFlag, Overwrite
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import DataError, QueryError
from shortlist.outputs import Output, whole

if TYPE_CHECKING:
    from shortlist.drafting.draft import Draft

DEFAULT = Path("recipe.toml")


def init(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="The log, or a folder or files that include it. A name that ends in .toml is the "
            "recipe to write for you to fill in. Default: the tables in the current folder, if one "
            "is a log."
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(help="Table of the items: one row per item, with its features and title."),
    ] = None,
    users: Annotated[
        str | None, typer.Option(help="Table of the users: one row per user, with its features.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="The recipe to write. Default: recipe.toml.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Start from a named model: sasrec, youtube-dnn, dssm, mind, ..."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Without data: list every key, its meaning and its default."),
    ] = False,
    json_: JsonFlag = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a recipe for your files; format, columns, features and split are guessed from samples.

    It asks no questions and does not change the files. Each guess is followed by its reason; a line
    with "check:" is uncertain.
    """
    given = list(files or [])
    blank = [name for name in given if name.lower().endswith(".toml")]
    if blank and (len(given) > 1 or items or users or target):
        raise QueryError(
            f"{blank[0]} is the recipe to write for you to fill in, and must be the only argument; "
            "to write a recipe for files, name them, and the recipe with --out"
        )
    if full and (items or users or model or len(given) > len(blank)):
        raise QueryError("--full lists every key, without data or a model: leave these out")
    place = Path(blank[0]) if blank else target or DEFAULT
    inputs = {f"FILE {at}": Path(name) for at, name in enumerate(given, 1) if name not in blank}
    inputs |= {f"--{key}": Path(p) for key, p in (("items", items), ("users", users)) if p}
    outputs.check({"--out": Output(place, overwrite=overwrite)}, inputs)

    named = _named(model)
    if full:
        text, made = _full(), None
    elif blank:
        text, made = _short(named), None
    else:
        made = _drafted(given, users, items, place, named)
        options = {"--items": items, "--users": users, "--model": model}
        words = [
            *given,
            *(word for key, value in options.items() if value for word in (key, value)),
        ]
        text = _short(named) if made is None else _text(made, words)
    with whole(place, overwrite=overwrite) as written:
        written.write_text(text, encoding="utf-8")
    _say(place, made, json_=json_)


def import_(
    library: Annotated[
        str, typer.Argument(metavar="{recbole|rectools}", help="Library of the configuration.")
    ],
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="RecBole: its YAML files; later ones override earlier ones. RecTools: the output "
            "of model.get_config(simple_types=True), as JSON or YAML."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, if the original command line named it.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="RecBole: the data set, if the original command line named it."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="RecBole: the folder of the atomic files. RecTools: the log."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="The recipe to write. Default: recipe.toml.")
    ] = None,
    json_: JsonFlag = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a configuration of RecBole or RecTools to a recipe; list what cannot be converted.

    Configurations and data are read, and no code is run. If the data exists, the doctor checks the
    recipe, and with it the original configuration.
    """
    from shortlist.drafting.foreign import FOREIGN
    from shortlist.drafting.foreign.base import Given
    from shortlist.errors import suggest

    if library not in FOREIGN:
        raise QueryError(f"unknown library '{library}'.{suggest(library, FOREIGN)}")
    if not configs and model is None:
        raise QueryError("name a configuration, or at least a model: --model SASRec")
    place = target or DEFAULT
    inputs = {f"CONFIG {at}": file for at, file in enumerate(configs or [], 1)}
    inputs |= {"--data": data} if data else {}
    outputs.check({"--out": Output(place, overwrite=overwrite)}, inputs)
    given = Given(configs or [], model, dataset, data, place.absolute().parent)
    made = FOREIGN[library](given)
    options = {"--model": model, "--dataset": dataset, "--data": data}
    words = [library, *map(str, configs or [])]
    words += [word for key, value in options.items() if value for word in (key, str(value))]
    text = _text(made, words, "import")
    with whole(place, overwrite=overwrite) as written:
        written.write_text(text, encoding="utf-8")
    _say(place, made, json_=json_)
    if not json_:
        _examine(place)


def _examine(recipe: Path) -> None:
    """Print the doctor's findings on a recipe whose log exists."""
    from shortlist.cli import show
    from shortlist.cli.doctor import before_training
    from shortlist.config import load_recipe
    from shortlist.doctor import examine

    read = load_recipe(recipe, [])
    if all(path is None or path.exists() for path in read.inputs.values()):
        out.print(show.findings(examine(before_training(read))))


def _named(model: str | None) -> dict[str, Any] | None:
    from shortlist.drafting.named import named_model

    return None if model is None else named_model(model)


def _full() -> str:
    from shortlist.channels.options import options_of
    from shortlist.channels.table import CHANNELS
    from shortlist.config import template

    return template(
        {name: own for name, kind in CHANNELS.items() if (own := options_of(kind)) is not None}
    )


def _short(named: dict[str, Any] | None) -> str:
    from shortlist.drafting.writing import short_template

    return short_template(named)


def _drafted(
    given: list[str],
    users: str | None,
    items: str | None,
    place: Path,
    named: dict[str, Any] | None,
) -> "Draft | None":
    """Draft a recipe for files; None if no file is named and the current folder has no log."""
    from shortlist.drafting.draft import draft
    from shortlist.drafting.sorting import Sorted, sort_files, tables_in

    here = not given
    sources = given or [
        name.removeprefix("./") for name in tables_in(Path()) if name not in (users, items)
    ]
    if here and not sources:
        if users or items:
            raise QueryError("--users and --items go with a log: name its file")
        return None
    try:
        found: Sorted = sort_files(sources)
    except DataError:
        if here and not (users or items):
            notes.print("The current folder has no log of events.")
            return None
        raise
    made = draft(
        found.interactions,
        users=users or found.users,
        items=items or found.items,
        named=named,
        base=place.absolute().parent,
    )
    made.notes += [f"not used: {name}" for name in found.others]
    return made


def _text(made: "Draft", words: list[str], command: str = "init") -> str:
    """Return the draft as text, after reading it back to check that it is a valid recipe."""
    import tomllib

    from shortlist.config import Recipe
    from shortlist.drafting.writing import written
    from shortlist.runs.pipeline import check

    text = written(made, shlex.join(["shortlist", command, *words]))
    check(Recipe.from_dict(tomllib.loads(text), source="the drafted recipe"))
    return text


def _say(place: Path, made: "Draft | None", *, json_: bool) -> None:
    if json_:
        guesses = [] if made is None else [guess.to_dict() for guess in made.guesses.values()]
        said = {"notes": made.notes, "not_carried": made.lost} if made else {"notes": []}
        print_json({"recipe": str(place), "guesses": guesses, **said})
        return
    if made is None:
        out.print(f"Wrote {place} for you to fill in. Next: shortlist train {place} --out BUNDLE")
        return
    from shortlist.config.template import toml_value

    for guess in made.unsure():
        shown = "left out" if guess.value is None else str(guess.value)
        if isinstance(guess.value, dict):
            shown = toml_value(guess.value)
        notes.print(f"check {guess.key} = {shown}: {guess.reason}", soft_wrap=True)
    for note in made.notes:
        notes.print(note, soft_wrap=True)
    for lost in made.lost:
        notes.print(f"not carried over: {lost}", soft_wrap=True)
    count = len(made.unsure())
    unsure = f"; {count} {'line' if count == 1 else 'lines'} to check" if count else ""
    out.print(
        f"Wrote {place} from {made.looked}{unsure}. Next: shortlist train {place} --out BUNDLE"
    )
