"""The command that downloads well-known data sets: data."""

from pathlib import Path
from typing import Annotated

import typer

from shortlist import outputs
from shortlist.cli.options import JsonFlag, Overwrite, QuietFlag
from shortlist.cli.screen import notes_unless, out, print_json
from shortlist.errors import QueryError
from shortlist.outputs import Output, whole


def data(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a data set, such as ml-1m. Without it, all are listed."),
    ] = None,
    origin: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A folder or zip file that has the data set already; nothing is downloaded.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The recipe to write; data files go into the folder NAME beside it. Default: "
            "NAME.toml.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Download a well-known data set, verify it, and write a recipe for it.

    The recipe quotes the published protocol and figures in its comments. If the folder NAME already
    has the unchanged files, they are not downloaded again.
    """
    if name is None:
        for option, given in (("--from", origin), ("--out", recipe), ("--overwrite", overwrite)):
            if given:
                raise QueryError(f"{option} does nothing without the NAME of a data set")
        _list(as_json=json_, quiet=quiet or context.obj["quiet"])
        return

    from shortlist.data.known_sets import known_set, recipe_text

    known = known_set(name)
    target = recipe if recipe is not None else Path(f"{name}.toml")
    place = target.parent / name
    outputs.check(
        {
            "--out": Output(target, overwrite=overwrite),
            f"the folder {name}": Output(place, "folder") if origin is None else None,
        },
        {"--from": origin},
    )

    from shortlist.data.obtaining import fetched, taken

    say = notes_unless(quiet or context.obj["quiet"]).print
    if origin is not None:
        found = taken(name, origin, place)
    else:
        found = fetched(name, place, replaces=overwrite)
    for line in (*found.tried, found.source):
        say(line, soft_wrap=True)
    with whole(target, overwrite=overwrite) as made:
        made.write_text(recipe_text(name, found.form, found.folder), encoding="utf-8")
    if json_:
        print_json(
            {
                "name": name,
                "recipe": str(target),
                "folder": str(found.folder),
                "files": {k: str(path) for k, path in found.form.paths(found.folder).items()},
                **found.form.counts._asdict(),
                "source": found.source,
                "tried": list(found.tried),
                "terms": known.terms,
            }
        )
        return
    say(f"Terms: {known.terms}", soft_wrap=True)
    out.print(
        f"Wrote {target}: {found.form.counts}. Next: shortlist train {target} --out BUNDLE",
        soft_wrap=True,
    )


def _list(*, as_json: bool, quiet: bool) -> None:
    from shortlist.data.known_sets import KNOWN_SETS

    if as_json:
        print_json(
            {
                name: {
                    "title": known.title,
                    **known.counts._asdict(),
                    "terms": known.terms,
                    "page": known.page,
                    "sources": [source.name for source in known.sources],
                }
                for name, known in KNOWN_SETS.items()
            }
        )
        return
    for name, known in KNOWN_SETS.items():
        out.print(f"{name}: {known.counts}", soft_wrap=True)
        sources = ", else ".join(source.name for source in known.sources)
        out.print(f"    {known.title}, from {sources}; {known.page}", soft_wrap=True)
        out.print(f"    Terms: {known.terms}", soft_wrap=True)
    notes_unless(quiet).print("Next: shortlist data NAME")
