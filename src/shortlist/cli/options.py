"""The options that many commands have."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(help="A bundle: the directory `train` wrote.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ... Default: cpu.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what the command would write, if it is there.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
