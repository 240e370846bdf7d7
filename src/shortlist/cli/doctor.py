"""The command that looks for mistakes: doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.cli.options import Device, JsonFlag
from shortlist.cli.screen import out, print_json
from shortlist.errors import QueryError, ShortlistError

if TYPE_CHECKING:
    from shortlist.config import Recipe
    from shortlist.doctor import Subject


def doctor(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="A recipe, to check before training; or a bundle, after it.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="With a recipe: section.key=value; may be repeated."),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Look for mistakes in a recipe and its data, or in a bundle; exit 1 if one is an error."""
    if overrides and target.is_dir():
        raise QueryError("--set changes a recipe, and this is a bundle: leave it out")
    wanted = device or context.obj["device"]
    if wanted != "cpu" and not target.is_dir():
        raise QueryError("--device is for a bundle, and this is a recipe: leave it out")

    from shortlist.bundle.bundle import load
    from shortlist.cli import show
    from shortlist.config import load_recipe
    from shortlist.doctor import Subject, examine

    if target.is_dir():
        loaded = load(target, device=wanted)
        subject = Subject.of_retriever(loaded.retriever, loaded.metrics, loaded.recipe)
    else:
        subject = _before_training(load_recipe(target, overrides or []))
    found = examine(subject)
    if json_:
        print_json({"findings": [finding.to_dict() for finding in found]})
    else:
        out.print(show.findings(found))
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def _before_training(recipe: "Recipe") -> "Subject":
    """What there is to examine of a recipe: less where it, or its data, is refused."""
    from shortlist.doctor import Subject
    from shortlist.runs.pipeline import check, load_split

    try:
        check(recipe)
    except ShortlistError as failure:
        return Subject(failure=failure)
    try:
        return Subject.of_recipe(recipe, load_split(recipe))
    except ShortlistError as failure:
        return Subject.of_recipe(recipe, failure=failure)
