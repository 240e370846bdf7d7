"""How is an object displayed? As one line in a terminal and as a small table in a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MOST = 10
"""Largest number of rows that a table in a notebook shows."""

Facts = Mapping[str, Any]


class Showing:
    """Mixin that displays an object by its `facts`."""

    def facts(self) -> Facts:
        """Return a few named values, the most important first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the class and its facts in one line."""
        told = ", ".join(f"{name}={text(value)}" for name, value in self.facts().items())
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        """Return the class and its facts as an HTML table; notebooks call this method."""
        rows = [(name, text(value)) for name, value in self.facts().items()]
        return html_table(type(self).__name__, (), rows)


def text(value: Any) -> str:
    """Format a value: integers as 12,345, floats with four decimals, other values as text."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table; all text in it is escaped."""
    cells = "".join(
        f"<tr>{''.join(f'<td>{escape(text(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{top}<tbody>{cells}</tbody></table>"
