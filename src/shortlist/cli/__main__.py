"""`python -m shortlist.cli`, the same as `shortlist`."""

from shortlist.cli.app import main

main()
