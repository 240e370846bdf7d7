"""The command that checks for mistakes: doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.cli.options import Device, JsonFlag
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import QueryError, ShortlistError

if TYPE_CHECKING:
    from shortlist.config import Recipe
    from shortlist.doctor import Subject


def doctor(
    context: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(
            help="A recipe, to check before training; a bundle, to check after it; or a log, to "
            "check only the data."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="With a recipe: section.key=value replaces a value of it. May be repeated.",
        ),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Check a recipe and its data, a bundle, or a log for mistakes; exit 1 if one is an error.

    The columns of a log are guessed as `shortlist init` does.
    """
    from shortlist.outputs import is_bundle

    is_log = not is_bundle(target) and _names_data(target)
    if overrides and (is_log or target.is_dir()):
        what = "a log" if is_log else "a bundle"
        raise QueryError(f"--set changes a recipe, and this is {what}: leave it out")
    wanted = device or context.obj["device"]
    if wanted != "cpu" and (is_log or not target.is_dir()):
        what = "a log" if is_log else "a recipe"
        raise QueryError(f"--device is for a bundle, and this is {what}: leave it out")

    from shortlist.bundle.bundle import load
    from shortlist.cli import show
    from shortlist.config import load_recipe
    from shortlist.doctor import Subject, examine

    if is_log:
        subject = _of_log(target, quiet=json_)
    elif target.is_dir():
        loaded = load(target, device=wanted)
        subject = Subject.of_retriever(loaded.retriever, loaded.metrics, loaded.recipe)
    else:
        subject = before_training(load_recipe(target, overrides or []))
    found = examine(subject)
    if json_:
        print_json({"findings": [finding.to_dict() for finding in found]})
    else:
        out.print(show.findings(found))
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def before_training(recipe: "Recipe") -> "Subject":
    """Return what can be examined of a recipe; less if the recipe or its data is refused."""
    from shortlist.doctor import Subject
    from shortlist.runs.pipeline import check, folds_of, load_dataset

    try:
        check(recipe)
    except ShortlistError as failure:
        return Subject(failure=failure)
    try:
        # The last of several folds has most of the log.
        return Subject.of_recipe(recipe, folds_of(recipe, load_dataset(recipe))[-1])
    except ShortlistError as failure:
        return Subject.of_recipe(recipe, failure=failure)


def _names_data(target: Path) -> bool:
    """Tell whether a path is a table, or a folder or pattern of tables."""
    from shortlist.data.files import files_of, is_table

    if target.suffix.lower() == ".toml":
        return False
    if not target.is_dir():
        return is_table(target) or bool(set(str(target)) & set("*?"))
    try:
        return bool(files_of(target))
    except ShortlistError:
        return False


def _of_log(target: Path, *, quiet: bool) -> "Subject":
    """Return a log to examine, with guessed columns and without weights."""
    from shortlist.config import Recipe
    from shortlist.doctor import Subject
    from shortlist.drafting.draft import draft
    from shortlist.runs.pipeline import load_dataset, split_of

    made = draft(str(target))
    for key in ("weight", "min_weight"):
        made.content["data"].pop(key, None)
    recipe = Recipe.from_dict(made.content, source="the drafted recipe")
    dataset = load_dataset(recipe)
    if not quiet:
        said = ("user", "item", "time")
        roles = ", ".join(f"{key} {name}" for key in said if (name := getattr(recipe.data, key)))
        for line in (*dataset.report.lines(), f"Columns: {roles}."):
            notes.print(line, soft_wrap=True)
    try:
        data, failure = split_of(recipe, dataset).training_data("train"), None
    except ShortlistError as error:
        data, failure = None, error
    return Subject.of_log(dataset, made.distinct, data, failure)
