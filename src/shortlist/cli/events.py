"""The command that writes the events of a service as a log: events export."""

from pathlib import Path
from typing import Annotated

import typer

from shortlist import outputs
from shortlist.cli.options import JsonFlag, Overwrite, with_plugins
from shortlist.cli.screen import notes, print_json
from shortlist.errors import QueryError
from shortlist.outputs import PARQUET, Output

events = typer.Typer(help="The events that `serve --events` has stored.", no_args_is_help=True)


@events.callback()
def group() -> None:
    """The events that `serve --events` has stored."""


@events.command()
@with_plugins
def export(
    store: Annotated[
        str,
        typer.Argument(
            help="The event store of `serve --events`: a file, or redis://HOST:PORT/DB."
        ),
    ],
    bundle: Annotated[
        Path, typer.Option(help="A bundle; columns, ids and times are written as in its log.")
    ],
    target: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    since: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Only events after this number. Default: events the bundle has not learned from.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
) -> None:
    """Write events as a log for `update` and `train`, in the order of their arrival.

    The file records which events it has; `update` saves that as the watermark of the new bundle.
    """
    from shortlist.histories.places import place_of, reader_at

    place = place_of(store)
    outputs.check(
        {"--out": Output(target, "file", PARQUET, overwrite=overwrite)},
        {"the store": place if isinstance(place, Path) else None, "the bundle": bundle},
    )

    from shortlist.bundle.bundle import load
    from shortlist.cli import files
    from shortlist.config import Recipe
    from shortlist.histories.export import MARK, LogWriter, Span
    from shortlist.runs.pipeline import schema_of

    loaded = load(bundle)
    if loaded.recipe is None:
        raise QueryError(
            f"{bundle} was saved without a recipe, so the columns of the log have no names: give a "
            "bundle that `shortlist train` wrote"
        )
    kept = reader_at(place)
    until = kept.until
    learned = loaded.watermark
    if since is None:
        since = learned.sequence if learned is not None and learned.store == until.store else 0
    span = Span(since, until)
    recipe = Recipe.from_dict(loaded.recipe)
    log = LogWriter(
        schema_of(recipe),
        loaded.retriever.data,
        kinds=kept.have_kinds(since),
        described=recipe.described_sides,
    )
    with files.parquet(target, overwrite, {MARK: str(span)}) as write:
        write(log.frame([]))
        for part in kept.parts(since):
            write(log.frame(part))
    if json_:
        facts = {"events": log.written, "left_out": log.strange, "since": since}
        print_json({**facts, "watermark": str(until)})
        return
    notes.print(f"Wrote {log.written:,} events after number {since} to {target}.")
    if log.strange:
        notes.print(f"{log.strange:,} have ids of another type than the bundle's: left out.")
    notes.print(f"For a model that has learned from them: --watermark {until}")
