"""The options that several commands share."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

BundlePath = Annotated[Path, typer.Argument(help="A bundle: a directory that `train` wrote.")]
Device = Annotated[
    str | None, typer.Option(help="Device to compute on: cpu, cuda, cuda:1, ... Default: cpu.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Print only results and errors.")]
WatermarkText = Annotated[
    str | None,
    typer.Option(
        "--watermark",
        help="STORE:NUMBER, as `events export` prints it: the log has the events up to this "
        "number, and a service does not count them again.",
    ),
]
ItemsWatermarkText = Annotated[
    str | None,
    typer.Option(
        "--items-watermark",
        help="STORE:NUMBER, as /admin/items/changes returns it: the items table has the changes "
        "up to this number, and a service applies only later ones.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it already exists.")
]
WithoutLog = Annotated[
    bool,
    typer.Option(
        "--without-log",
        help="Leave the events out of the bundle. It can then be queried only with histories, and "
        "cannot be evaluated or updated.",
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        "--html", help="Also write the figures as an HTML page that explains each of them."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def _import(context: typer.Context, modules: list[str] | None) -> list[str] | None:
    """Import these modules, which registers their parts, before other options are read."""
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
        help="A Python module with parts of your own, such as my_package.parts; may be repeated. "
        "No other module is imported.",
    ),
]


def with_plugins(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the additional option --plugin."""

    @wraps(command)
    def run(*, plugin: list[str] | None, **given: Any) -> None:  # noqa: ARG001 - its callback acts
        command(**given)

    own = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None)
    signature = inspect.signature(command)
    parameters = [*signature.parameters.values(), own.replace(annotation=Plugins)]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "plugin": Plugins}
    return run
