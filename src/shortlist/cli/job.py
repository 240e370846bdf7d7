"""The command that runs batch steps in parts: `job`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shortlist import outputs
from shortlist.cli.options import JsonFlag, Overwrite, QuietFlag, WithoutLog
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import QueryError
from shortlist.outputs import Output, output_at

if TYPE_CHECKING:
    from shortlist.jobs.engine import Engine

Stage = Literal[
    "prepare",
    "counts",
    "item-cf",
    "swing",
    "user-cf",
    "popular",
    "inverted",
    "bundle",
    "recommend",
]


def job(
    context: typer.Context,
    stage: Annotated[
        Stage,
        typer.Argument(
            help="prepare: check and split the log; counts: count the events of items; item-cf: "
            "neighbours of items; swing: those of channels with this similarity; user-cf: nearest "
            "users of all users; popular, inverted: item lists of all users, of a segment, or of a "
            "value; bundle: the same bundle as `train`; recommend: candidates for all users of the "
            "log. A stage first runs the missing stages that it needs.",
            show_default=False,
        ),
    ],
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; see `shortlist init`.")],
    work: Annotated[
        Path, typer.Option(help="Folder of the stages; finished stages are not run again.")
    ],
    target: Annotated[
        Path | None, typer.Option("--out", help="For bundle: the new directory to write.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="For recommend: the bundle to query.")] = None,
    k: Annotated[
        int | None,
        typer.Option(min=1, help="For recommend: number of candidates per user. Default: 10."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="For recommend: time of all requests, written like the times of the log or as ISO "
            "text; a bundle with request_time needs it."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value replaces a value of the recipe. May be repeated."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "spark"],
        typer.Option(
            help="local: processes on this machine; spark: a Spark session (extra `spark`), whose "
            "executors see --work and the log under the same paths."
        ),
    ] = "local",
    master: Annotated[
        str | None,
        typer.Option(
            help="For spark: local[2], spark://host:7077, yarn, ... Default: the master of "
            "spark-submit, else local[*]."
        ),
    ] = None,
    conf: Annotated[
        list[str] | None,
        typer.Option(help="For spark: key=value of its configuration. May be repeated."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="For local: number of parallel processes. Default: 1."),
    ] = None,
    parts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of parts of the users; each must fit in memory. Default: one per process, "
            "and 8 on spark.",
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(min=1, help="Number of blocks of the items. Default: the number of parts."),
    ] = None,
    overwrite: Overwrite = False,
    without_log: WithoutLog = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Run a recipe in parts, for a log larger than memory and for several processes.

    Every stage is a folder under --work that appears whole; after a stop, the same command
    continues. The bundle equals that of `train`, byte for byte.
    """
    _check(
        stage,
        {
            "--out": target,
            "--bundle": bundle,
            "--k": k,
            "--time": time,
            "--json": json_ or None,
            "--without-log": without_log or None,
        },
    )
    if overwrite and target is None:
        raise QueryError("--overwrite does nothing without --out")
    _check_engine(engine, {"--processes": processes, "--master": master, "--conf": conf})
    settings = dict(_setting(text) for text in conf or ())

    from shortlist.asking.clock import written
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
        {"the recipe": recipe, "--bundle": bundle, **read.inputs},
    )

    def told(line: str) -> None:
        if not quiet:
            notes.print(line)

    running: Engine
    if engine == "spark":
        from shortlist.spark.engine import Spark

        running = Spark(parts or 8, master, settings)
    else:
        running = Local(work, processes or 1, parts)
    try:
        steps = Job(read, work, running, blocks=blocks, told=told)
        if bundle is not None:
            made = steps.recommend(bundle, k or 10, None if time is None else written(time))
            told(f"Wrote candidates of all users of the log to {made}.")
            return
        if target is None:
            getattr(steps, stage.replace("-", "_"))()
            return
        run = steps.bundle(target, overwrite=overwrite, log=not without_log)
    finally:
        running.close()
    if json_:
        print_json(run.to_dict())
        return
    out.print(run.report.table())
    if not quiet:
        for line in run.report.lines():
            notes.print(line)
        notes.print(f"Saved as {target} ({run.bundle[:12]}).")


OWN = {"--out": ("bundle", True), "--bundle": ("recommend", True)} | {
    "--k": ("recommend", False),
    "--time": ("recommend", False),
    "--json": ("bundle", False),
    "--without-log": ("bundle", False),
}
"""Options of one stage: the stage, and whether it needs them."""


def _check(stage: str, given: Mapping[str, object]) -> None:
    """Refuse options of another stage, and a stage without the options it needs."""
    for option, (own, needed) in OWN.items():
        there = given[option] is not None
        if there and stage != own:
            raise QueryError(f"{option} is for the stage {own}, and does nothing with {stage}")
        if needed and stage == own and not there:
            raise QueryError(f"the stage {stage} needs {option}")


def _check_engine(engine: str, given: Mapping[str, object]) -> None:
    """Refuse options of the other engine."""
    for option, value in given.items():
        own = "local" if option == "--processes" else "spark"
        if value is not None and engine != own:
            raise QueryError(f"{option} is for --engine {own}, and does nothing with {engine}")


def _setting(text: str) -> tuple[str, str]:
    """Read key=value."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise QueryError(f"--conf is key=value, such as spark.executor.memory=4g, got {text!r}")
    return key, value
