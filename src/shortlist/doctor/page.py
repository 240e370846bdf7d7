"""The table of findings in docs/doctor.md, made from the checks themselves."""

from collections.abc import Iterable, Sequence

from shortlist.doctor import CHECKS
from shortlist.doctor.base import SEVERITIES


def findings_table() -> str:
    """Return the Markdown table of all findings and their cures, errors first."""
    checks = sorted(CHECKS.values(), key=lambda check: SEVERITIES.index(check.severity))
    return table(
        ("code", "severity", "the mistake", "the cure"),
        ((f"`{c.code}`", c.severity, c.mistake, c.cure) for c in checks),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
