"""Which commands are there, and how does each end: with an exit code, and errors in one line?"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shortlist import __version__
from shortlist.cli import (
    ask,
    bundles,
    doctor,
    draft,
    events,
    items,
    job,
    known,
    refresh,
    serve,
    train,
)
from shortlist.cli.company import first_speaks, is_first, speaks_for_all, tell_torchrun
from shortlist.cli.options import Device, QuietFlag, with_plugins
from shortlist.cli.screen import drop_output, finish_output, notes, out, print_lines, problems
from shortlist.errors import OutputError, QueryError, ShortlistError
from shortlist.outputs import reason_of
from shortlist.systems import check_system, started_beside_others

COMMANDS = {
    "Train": (
        *(train.demo, known.data, draft.init, draft.import_, train.train, train.tune, train.plan),
        doctor.doctor,
    ),
    "Query a bundle": (ask.recommend, ask.similar, ask.explain, ask.evaluate, ask.compare),
    "Inspect a bundle, or make a new one from it": (
        *(bundles.inspect, bundles.update, refresh.refresh, bundles.encode, bundles.export),
        bundles.index,
    ),
    "Serve": (serve.serve,),
    "Run in parts": (job.job,),
}
GROUPS = {"Serve": {"events": events.events, "items": items.items}}
"""The groups of commands, under the headings that `--help` gives them."""

WITHOUT_PARTS = (train.demo, known.data, draft.import_)
"""Commands that read neither a recipe nor a user's bundle, and so need no plug-in."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of a disk that takes no more data; typer itself handles a closed pipe."""

OUT_OF_REACH = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a path that was given, wherever a command first looks at it."""

SHOWN_OF_PATH = 300
"""Most characters of such a path that the error shows."""

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT."""


class Commands(TyperGroup):
    """The group of all commands, which says in our words what value an option cannot have."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Read the options before the command. Errors: QueryError."""
        with _told_plainly():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: Any) -> Any:
        """Read the options of the command, and run it. Errors: QueryError."""
        with _told_plainly():
            return super().invoke(ctx)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Raise QueryError instead of the parser's error for a value of an option or argument."""
    try:
        yield
    except typer.BadParameter as error:
        if type(error) is not typer.BadParameter or error.param is None:
            raise  # such as an option that is missing, which the parser tells plainly
        from shortlist.sections.faults import explain_option

        name = max(error.param.opts, key=len)
        read: Any = getattr(error.__cause__, "errors", list)  # newer versions of typer use pydantic
        raise QueryError(explain_option(name, error.message, read())) from None


app = typer.Typer(
    cls=Commands,
    help="The recall stage of a recommender: train, evaluate and query candidate retrievers.",
    epilog="Exit codes: 0 success; 1 a bad finding, or a training that failed; 2 the command "
    "cannot be carried out as given; 3 a damaged bundle, or a result that cannot be written; 130 "
    "Ctrl-C",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for heading, groups in GROUPS.items():
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel=heading)
for heading, commands in COMMANDS.items():
    for command in commands:
        plain = command in WITHOUT_PARTS
        named = command.__name__.rstrip("_")  # import_: `import` is a keyword of Python
        own = serve.Serve if command is serve.serve else None
        app.command(named, cls=own, rich_help_panel=heading)(
            command if plain else with_plugins(command)
        )


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """The recall stage of a recommender: train, evaluate and query candidate retrievers."""
    if version:
        out.print(f"shortlist {__version__}")
        raise typer.Exit
    group: Any = context.command  # the click group, which knows its commands
    name = context.invoked_subcommand or ""
    if started_beside_others() and name != "train":
        raise QueryError(
            f"torchrun starts several processes, and only `train` can use them: start {name} "
            "without it"
        )
    command = group.get_command(context, name)
    takes = set() if command is None else {parameter.name for parameter in command.params}
    if device is not None and command is not None and "device" not in takes:
        raise QueryError(f"--device has no effect on {name}: leave it out")
    notes.quiet = quiet
    context.obj = {"device": device or "cpu", "quiet": quiet}


def main() -> None:
    """Run the command line; an expected error becomes one line on stderr and an exit code."""
    try:
        check_system()
        with first_speaks():
            try:
                app()
            except OSError as error:
                if error.filename is None or error.errno not in OUT_OF_REACH:
                    raise
                path = str(error.filename)[:SHOWN_OF_PATH]
                raise QueryError(f"cannot reach {path!r}: {reason_of(error)}") from error
            finally:
                finish_output()
    except ShortlistError as error:
        if speaks_for_all(error):
            print_lines(problems, f"error: {error}", soft_wrap=True)
            tell_torchrun(error)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED and (is_first() or not started_beside_others()):
            problems.print("interrupted: no file is left half written")
        raise
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise  # not an error of stdout, which has no file name
        drop_output()
        problems.print(f"error: cannot write to standard output: {reason_of(error)}")
        sys.exit(OutputError.exit_code)
