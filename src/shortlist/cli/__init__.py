"""The command line: each command is a few lines over the library.

`app` lists the commands; each of the other modules defines one or several. A command imports what
it works with only after it has checked its options, so that `--help` and a mistyped option stay
fast. `show`, `files` and `screen` hold what several commands share.
"""

from shortlist.cli.app import main

__all__ = ["main"]
