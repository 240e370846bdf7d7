"""The command line: each command a few lines over the library.

`app` lists the commands, which stand in `train`, `ask`, `bundles`, `doctor` and `serve`. A command
imports what it works with when it runs, after it has looked at its options, so that `--help` and a
mistyped option need none of it.
`show`, `files` and `demo` hold what the commands share.
"""

from shortlist.cli.app import main

__all__ = ["main"]
