"""The options that many commands have."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

BundlePath = Annotated[Path, typer.Argument(help="A bundle: the directory `train` wrote.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ... Default: cpu.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and results.")]
WatermarkText = Annotated[
    str | None,
    typer.Option(
        "--watermark",
        help="STORE:NUMBER, as `events export` tells it: the events up to it are in the log, and a "
        "service does not count them again.",
    ),
]
ItemsWatermarkText = Annotated[
    str | None,
    typer.Option(
        "--items-watermark",
        help="STORE:NUMBER, as /admin/items/changes tells it: the items table has the changes of "
        "items up to it, and a service makes only later ones.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what the command would write, if it is there.")
]
WithoutLog = Annotated[
    bool,
    typer.Option(
        "--without-log",
        help="Leave the events out of the bundle: it is asked with histories, and cannot be "
        "measured or updated.",
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        "--html", help="Write the figures as one page, too, for people who have never seen any."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]


def _import(context: typer.Context, modules: list[str] | None) -> list[str] | None:
    """Make the parts of these modules known, before any other option is looked at."""
    if modules and not context.resilient_parsing:
        from shortlist.plugins import use_plugins

        use_plugins(modules)
    return modules


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        callback=_import,
        is_eager=True,
        help="A module with parts of your own, as Python imports it: my_package.parts; may be "
        "repeated. Nothing else imports one.",
    ),
]


def with_plugins(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the option --plugin."""

    @wraps(command)
    def run(*, plugin: list[str] | None, **given: Any) -> None:  # noqa: ARG001 - it is imported
        command(**given)

    own = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None)
    signature = inspect.signature(command)
    parameters = [*signature.parameters.values(), own.replace(annotation=Plugins)]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "plugin": Plugins}
    return run
