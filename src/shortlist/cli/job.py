"""The command for batch steps in parts: `job`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shortlist import outputs
from shortlist.cli.options import JsonFlag, Overwrite, QuietFlag
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import QueryError
from shortlist.outputs import Output, output_at

if TYPE_CHECKING:
    from shortlist.jobs.engine import Engine

Stage = Literal["prepare", "counts", "item-cf", "bundle"]


def job(
    context: typer.Context,
    stage: Annotated[
        Stage,
        typer.Argument(
            help="prepare: the log, checked and split; counts: of items; item-cf: neighbours of "
            "items; bundle: all of it as `train` saves it. Each makes what it needs and is not "
            "there.",
            show_default=False,
        ),
    ],
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; see `shortlist init`.")],
    work: Annotated[
        Path, typer.Option(help="Folder of the stages: one that is there is not made again.")
    ],
    target: Annotated[
        Path | None, typer.Option("--out", help="Of bundle: where it goes, a new directory.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the recipe; may be repeated."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes work at a time.")] = 1,
    parts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Into how many parts users are dealt, each in memory as a whole. Default: one a "
            "process.",
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Into how many blocks items are dealt. Default: as many as parts."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Carry a recipe out in parts: a log larger than memory, several processes.

    Every stage is a folder under --work that appears whole; the same command goes on after a stop.
    The bundle is that of `train`, byte for byte.
    """
    if (stage == "bundle") != (target is not None):
        raise QueryError("--out is where the bundle goes: give it with the stage bundle, alone")
    if overwrite and target is None:
        raise QueryError("--overwrite does nothing without --out")
    if json_ and target is None:
        raise QueryError("--json does nothing without --out: it prints the bundle's report")

    from shortlist.config import load_recipe
    from shortlist.jobs.local import Local
    from shortlist.jobs.steps import Job

    quiet = quiet or context.obj["quiet"]
    read = load_recipe(recipe, overrides or [])
    outputs.check(
        {
            "--work": Output(work, "folder"),
            "--out": output_at(target, "bundle", overwrite=overwrite),
        },
        {"the recipe": recipe, **read.inputs},
    )

    def told(line: str) -> None:
        if not quiet:
            notes.print(line)

    engine: Engine = Local(work, processes, parts)
    try:
        steps = Job(read, work, engine, blocks=blocks, told=told)
        if target is None:
            {"prepare": steps.prepare, "counts": steps.counts, "item-cf": steps.item_cf}[stage]()
            return
        run = steps.bundle(target, overwrite=overwrite)
    finally:
        engine.close()
    if json_:
        print_json(run.to_dict())
        return
    out.print(run.report.table())
    if not quiet:
        for line in run.report.lines():
            notes.print(line)
        notes.print(f"Saved as {target} ({run.bundle[:12]}).")
