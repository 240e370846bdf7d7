"""`python -m shortlist`, the same as `shortlist`: what torchrun starts in each of its processes."""

from shortlist.cli.app import main

main()
